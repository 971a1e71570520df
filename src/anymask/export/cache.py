"""`--runtime onnx|openvino` without a folder: exported on first use, kept beside the downloaded models."""

from __future__ import annotations

import sys
from pathlib import Path

from anymask.core.errors import ExportError, OptionError, unknown_name
from anymask.runtime.manifest import FORMS, MANIFEST, read_manifest
from anymask.runtime.segmenter import ExportedSegmenter, load_segmenter
from anymask.weights.catalog import cache_folder

RUNTIMES = ("torch", *FORMS)


def exported_segmenter(
    model: str, checkpoint: Path | None, runtime: str, device: str = "auto", num_threads: int | None = None
) -> ExportedSegmenter:
    """A model in ONNX Runtime ("onnx") or OpenVINO ("openvino"), on the CPU.

    checkpoint: a folder of `anymask export`, which is used as it is; or weights, as for torch, which are exported to
    the cache when they are first used (about a minute; the line on standard error says where). Other weights, or
    another version of anymask, are exported anew.
    """
    if runtime not in FORMS:
        raise unknown_name("runtime", runtime, list(RUNTIMES))
    if device not in ("auto", "cpu"):
        raise OptionError(f"--runtime {runtime} works on the CPU; leave out --device {device}, or use --runtime torch.")
    if checkpoint is not None and (checkpoint / MANIFEST).is_file():
        manifest = read_manifest(checkpoint)
        if manifest.form != runtime:
            raise OptionError(f"{checkpoint} was exported for {manifest.form}; add --runtime {manifest.form}.")
        return load_segmenter(checkpoint, num_threads)
    return load_segmenter(_cached(model, checkpoint, runtime), num_threads)


def _cached(model: str, checkpoint: Path | None, runtime: str) -> Path:
    from anymask import __version__
    from anymask.export.artefacts import export_folder, weights_sha256
    from anymask.weights.load import load_model

    sam = load_model(model, checkpoint=checkpoint)
    digest = weights_sha256(sam)
    folder = cache_folder().parent / "exports" / f"{model}-{runtime}-{digest[:16]}-{sam.image_encoder.img_size}"
    if (folder / MANIFEST).is_file():
        try:
            manifest = read_manifest(folder)
            if (manifest.anymask, manifest.weights_sha256) == (__version__, digest):
                return folder
        except ExportError:
            pass  # from another version: made anew
    print(f"anymask: exporting {model} for {runtime} to {folder}, once …", file=sys.stderr)
    export_folder(sam, model, folder, runtime, "fp32")
    return folder
