"""Exported files: made aside, compared with torch, and only then given their names."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anymask import __version__
from anymask.core.errors import ExportError, unknown_name
from anymask.core.files import sha256_of, write_aside
from anymask.core.geometry import Frame
from anymask.core.images import resize_image
from anymask.export.graphs import prepared_names, stability_of, tanh_gelu
from anymask.export.onnx import (
    DEFAULT_OPSET,
    MOST_BYTES,
    DecoderOptions,
    decode_graph,
    decoder_graph,
    encoder_graph,
    num_weight_bytes,
    prepare_graph,
    require_onnx,
    save_onnx,
)
from anymask.export.parity import LARGEST_ERROR, Parity, compare, plain_photos, require
from anymask.export.quantize import (
    calibration_inputs,
    quantize_onnx_encoder,
    quantize_openvino_encoder,
    quantize_weights,
)
from anymask.model.sam import Sam
from anymask.model.upscale import upscale_logits
from anymask.predict.segmenter import TorchSegmenter
from anymask.runtime.manifest import GRAPHS, MANIFEST, Manifest
from anymask.runtime.segmenter import ExportedSegmenter, open_backend

PRECISIONS = {"onnx": ("fp32", "int8"), "openvino": ("fp32", "fp16", "int8")}
PARITY_PHOTOS = 8  # compared before the files are written; benchmarks/export.py compares more


def export_folder(
    sam: Sam,
    name: str,
    folder: Path,
    form: str = "onnx",
    precision: str = "fp32",
    photos: Sequence[np.ndarray] = (),
    opset: int = DEFAULT_OPSET,
) -> tuple[Manifest, Parity]:
    """Encoder, prepare and decode of a float32 model on the CPU, as "onnx" or "openvino", into a folder.

    precision: "fp32", "fp16" (OpenVINO: weights stored in half) or "int8" (the encoder, calibrated on `photos`, at
    least eight). photos: (H, W, 3) uint8 RGB, also compared with torch; without them two pictures made on the spot.
    Raises ExportError, with numbers, where the result is not the model; the folder then stays as it was.
    """
    if form not in PRECISIONS:
        raise unknown_name("export format", form, list(PRECISIONS))
    if precision not in PRECISIONS[form]:
        raise unknown_name(f"precision of {form}", precision, list(PRECISIONS[form]))
    inputs = calibration_inputs(photos, int(sam.image_encoder.img_size)) if precision == "int8" else []
    folder.mkdir(parents=True, exist_ok=True)
    with _aside(folder) as made:
        write = _write_onnx if form == "onnx" else _write_openvino
        write(sam, made, precision, inputs, opset)
        manifest = _describe(sam, name, made, form, precision)
        compared = _spread(photos, PARITY_PHOTOS) or plain_photos()
        exported = ExportedSegmenter(open_backend(made, manifest, precision="f32"), manifest)  # the files alone
        parity = compare(TorchSegmenter(sam), exported, compared)
        require(parity, precision, f"{folder} ({form}, {precision})")
        manifest.parity.update(asdict(parity))
        (folder / MANIFEST).unlink(missing_ok=True)
        for path in sorted(made.iterdir()):
            path.replace(folder / path.name)
    manifest.write(folder)
    return manifest, parity


def export_decoder(sam: Sam, name: str, path: Path, options: DecoderOptions, quantize: bool = False) -> float:
    """The official decoder as one file; returns the largest error against torch, as a share of the largest logit.

    quantize: weights of the products as uint8. Such a file is held to mask IoU 0.95, any other to an error of 1e-3.
    """
    require_onnx()
    model = decoder_graph(sam, options)
    with _named(path) as part:
        _save(model, part, sam, name, "int8" if quantize else "fp32")
        if quantize:
            exact = part.with_suffix(".exact")
            part.replace(exact)
            try:
                quantize_weights(exact, part)
            finally:
                exact.unlink(missing_ok=True)
        return _check_decoder(sam, part, options, quantize)


def export_encoder(
    sam: Sam,
    name: str,
    path: Path,
    input_form: str = "uint8",
    opset: int = DEFAULT_OPSET,
) -> float:
    """The image encoder as one file; returns the largest error against torch, as a share of the largest value."""
    require_onnx()
    model = encoder_graph(sam, input_form, opset)
    with _named(path) as part:
        _save(model, part, sam, name, "fp32")
        error = 0.0
        for photo in plain_photos():
            frame = Frame.of((photo.shape[0], photo.shape[1]), int(sam.image_encoder.img_size))
            scaled = resize_image(photo, frame.input_hw)
            with torch.no_grad():
                normalised = sam.preprocess(torch.from_numpy(scaled).permute(2, 0, 1))[None]
                expected = sam.encode(normalised).numpy()
            given = scaled[None] if input_form == "uint8" else normalised.numpy()
            answer = _run(part, {"input_image": given})[0]
            error = max(error, float(np.abs(answer - expected).max() / np.abs(expected).max()))
        _require_small(error, path)
        return error


def weights_sha256(sam: Sam) -> str:
    """SHA-256 of all weights of a model by name, whatever file they came from."""
    digest = hashlib.sha256()
    for key, tensor in sorted(sam.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _write_onnx(sam: Sam, folder: Path, precision: str, inputs: Sequence[np.ndarray], opset: int) -> None:
    require_onnx()
    for graph, make in (("prepare", prepare_graph), ("decode", decode_graph)):
        save_onnx(make(sam, opset), folder / f"{graph}.onnx")
    save_onnx(encoder_graph(sam, "uint8", opset), folder / "encoder.onnx")
    if precision == "int8":
        exact = folder / "exact.onnx"
        (folder / "encoder.onnx").replace(exact)
        quantize_onnx_encoder(exact, folder / "encoder.onnx", inputs)
        exact.unlink()


def _write_openvino(sam: Sam, folder: Path, precision: str, inputs: Sequence[np.ndarray], opset: int) -> None:
    from anymask.export.openvino import decode_model, encoder_model, prepare_model, require_openvino

    openvino = require_openvino()
    encoder = encoder_model(sam)

    if precision == "int8":
        encoder = quantize_openvino_encoder(encoder, inputs, hasattr(sam.image_encoder, "pos_embed"))
    models = {
        "encoder": encoder,
        "prepare": prepare_model(sam),
        "decode": decode_model(sam, masked=False),
        "decode_masked": decode_model(sam, masked=True),
    }
    for graph, model in models.items():
        openvino.save_model(model, folder / f"{graph}.xml", compress_to_fp16=precision != "fp32")


def _describe(sam: Sam, name: str, folder: Path, form: str, precision: str) -> Manifest:
    """The manifest of the files in a folder; each graph with all files whose name begins with its own."""
    suffix = ".onnx" if form == "onnx" else ".xml"
    files: dict[str, dict[str, str]] = {}
    for graph in GRAPHS:
        paths = sorted(folder.glob(f"{graph}*"), key=lambda p: (p.name != f"{graph}{suffix}", p.name))
        files[graph] = {p.name: sha256_of(p) for p in paths}
    h, w = sam.prompt_encoder.image_embedding_size
    mean, std = (tuple(float(v) for v in t.flatten()) for t in (sam.pixel_mean, sam.pixel_std))
    return Manifest(
        form=form,
        model=name,
        side=int(sam.image_encoder.img_size),
        embedding_shape=(sam.prompt_encoder.embed_dim, h, w),
        low_res_hw=sam.prompt_encoder.mask_input_size,
        mean=mean,  # type: ignore[arg-type]
        std=std,  # type: ignore[arg-type]
        mask_threshold=sam.mask_threshold,
        precision=precision,
        weights_sha256=weights_sha256(sam),
        fingerprint=TorchSegmenter(sam).fingerprint,
        prepared=tuple(prepared_names(sam)),
        anymask=__version__,
        files=files,
        parity={},
    )


def _save(model: Any, path: Path, sam: Sam, name: str, precision: str) -> None:
    """One ONNX file with its metadata. Raises ExportError where it would pass ONNX's limit of 2 GB a file."""
    import onnx
    from onnx import helper

    if num_weight_bytes(model) > MOST_BYTES:
        raise ExportError(
            f"{name} is larger than the 2 GB of one ONNX file; export a folder, which keeps weights apart: "
            f"anymask export onnx --model {name} -o FOLDER"
        )

    mean, std = sam.pixel_mean.flatten().tolist(), sam.pixel_std.flatten().tolist()
    about = {
        "model": name, "image_size": sam.image_encoder.img_size, "mean": mean, "std": std, "precision": precision,
        "weights_sha256": weights_sha256(sam), "anymask": __version__,
    }  # fmt: skip
    helper.set_model_props(model, {key: str(value) for key, value in about.items()})
    onnx.save(model, path)


def _check_decoder(sam: Sam, path: Path, options: DecoderOptions, quantized: bool) -> float:
    """Largest error over prompt kinds, sizes and masks. Raises ExportError where the file is not the model."""
    generator = torch.Generator().manual_seed(3)
    side = int(sam.image_encoder.img_size)
    with torch.no_grad():
        photo = torch.from_numpy(plain_photos()[0]).permute(2, 0, 1)[:, :side, :side]
        embedding = sam.encode(sam.preprocess(photo)[None])
    error, ious = 0.0, []
    for num_prompts, num_slots, masked, original_hw in ((1, 2, False, (57, 91)), (3, 3, True, (83, 40))):
        coords = torch.rand(num_prompts, num_slots, 2, generator=generator) * side
        labels = torch.randint(-1, 4, (num_prompts, num_slots), generator=generator).float()
        mask = 4 * torch.randn(num_prompts, 1, *sam.prompt_encoder.mask_input_size, generator=generator)
        with tanh_gelu(options.gelu_approximate):
            expected = official_answer(sam, options, embedding, coords, labels, mask if masked else None, original_hw)
        feeds = {
            "image_embeddings": embedding, "point_coords": coords, "point_labels": labels, "mask_input": mask,
            "has_mask_input": torch.tensor([float(masked)]), "orig_im_size": torch.tensor(original_hw).float(),
        }  # fmt: skip
        answer = _run(path, {key: value.numpy() for key, value in feeds.items()})[0 if options.upsample else -1]
        reference = expected.numpy()
        error = max(error, float(np.abs(answer - reference).max() / np.abs(reference).max()))
        a, b = answer > sam.mask_threshold, reference > sam.mask_threshold
        ious.append(float((a & b).sum() / max(1, (a | b).sum())))
    if not quantized:
        _require_small(error, path)
    elif np.mean(ious) < 0.95:
        raise ExportError(f"{path} was not written: int8 masks have IoU {np.mean(ious):.4f} with float32, under 0.95.")
    return error


@torch.no_grad()
def official_answer(
    sam: Sam,
    options: DecoderOptions,
    embedding: torch.Tensor,
    coords: torch.Tensor,
    labels: torch.Tensor,
    mask: torch.Tensor | None,
    original_hw: tuple[int, int],
) -> torch.Tensor:
    """What the decoder file should give as its masks, by the model itself: full-size logits, or low-resolution ones."""
    encoder, decoder = sam.prompt_encoder, sam.mask_decoder
    sparse = encoder.embed_tokens(coords, labels)
    dense = encoder.embed_no_mask() if mask is None else encoder.embed_masks(mask)
    image = decoder.prepare(embedding, encoder.get_dense_pe(), dense)
    low_res, iou = decoder.decode_chosen(image, encoder.image_embedding_size, sparse, slice(0, decoder.num_mask_tokens))
    if options.return_single_mask:
        scores = stability_of(low_res, sam.mask_threshold) if options.use_stability_score else iou
        first_or_not = range(0, 1) if coords.shape[1] >= 3 else range(1, decoder.num_mask_tokens)
        best = scores[:, list(first_or_not)].argmax(dim=1) + first_or_not.start
        low_res = low_res[torch.arange(len(best)), best][:, None]
    if not options.upsample:
        return low_res
    side = int(sam.image_encoder.img_size)
    return upscale_logits(low_res, side, Frame.of(original_hw, side).input_hw, original_hw)


def _require_small(error: float, path: Path) -> None:
    if not error <= LARGEST_ERROR:
        raise ExportError(
            f"{path} was not written: its values differ from torch's by {error:.1e} of the largest one, expected at "
            f"most {LARGEST_ERROR:.0e}. Please report this."
        )


def _run(path: Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return list(onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(None, feeds))


def _spread(photos: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """At most `count` photos, evenly over all."""
    return [photos[i] for i in sorted({round(i) for i in np.linspace(0, len(photos) - 1, count)})] if photos else []


@contextlib.contextmanager
def _named(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_aside(path) as part:
        yield part


@contextlib.contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A working folder inside `folder`, so that renaming its files out of it is one step; removed afterwards."""
    made = Path(tempfile.mkdtemp(prefix=".making-", dir=folder))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
