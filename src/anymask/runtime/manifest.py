"""`model.json`: what an exported folder holds, so that whoever runs it needs nothing else."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from anymask.core.errors import ExportError
from anymask.core.files import sha256_of, write_aside

MANIFEST = "model.json"
FORMS = ("onnx", "openvino")
GRAPHS = ("encoder", "prepare", "decode")


@dataclass(frozen=True)
class Manifest:
    """One exported model.

    form: "onnx" or "openvino". model: its name. side: S in pixels. embedding_shape: (C, h, w). low_res_hw: (4h, 4w).
    mean, std: RGB on the 0..255 scale, applied inside the encoder's graph. precision: "fp32", "fp16" or "int8".
    weights_sha256: of the torch weights it was made of. fingerprint: of embeddings, see `TorchSegmenter`.
    prepared: names of the tensors handed from prepare to decode. files: graph → its files with their SHA-256.
    parity: what was measured against torch before the files were written. anymask: version that wrote them.
    """

    form: str
    model: str
    side: int
    embedding_shape: tuple[int, int, int]
    low_res_hw: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    mask_threshold: float
    precision: str
    weights_sha256: str
    fingerprint: str
    prepared: tuple[str, ...]
    anymask: str
    files: dict[str, dict[str, str]]
    parity: dict[str, float]

    def write(self, folder: Path) -> None:
        """Write `model.json`; last, so that a folder with it is complete."""
        with write_aside(folder / MANIFEST) as part:
            part.write_text(json.dumps(asdict(self), indent=1) + "\n")

    def flat(self) -> dict[str, str]:
        """As strings, for the metadata of a single file."""
        return {f"anymask_{f.name}": json.dumps(getattr(self, f.name)) for f in fields(self)}


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an exported folder. Raises ExportError where there is none, or one of another kind."""
    path = folder / MANIFEST
    hint = "make one with `anymask export onnx -o FOLDER` or `anymask export openvino -o FOLDER`."
    if not path.is_file():
        raise ExportError(f"{folder} has no {MANIFEST}, so it is not an exported model; {hint}")
    try:
        data: dict[str, Any] = json.loads(path.read_text())
        known = {f.name for f in fields(Manifest)}
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k in known}
        manifest = Manifest(**values)
    except (ValueError, TypeError, AttributeError) as error:
        raise ExportError(f"{path} is broken ({error}); {hint}") from error
    if manifest.form not in FORMS:
        raise ExportError(f"{path} says form {manifest.form!r}; expected one of {', '.join(FORMS)}.")
    return manifest


def check_files(folder: Path, manifest: Manifest) -> None:
    """Raises ExportError for a file that is missing or is not the one that was checked against torch."""
    for files in manifest.files.values():
        for name, expected in files.items():
            path = folder / name
            if Path(name).name != name or not path.is_file():
                raise ExportError(f"{folder} lacks {name}; export the model again.")
            if sha256_of(path) != expected:
                raise ExportError(f"{path} was changed after it was checked (SHA-256 differs); export the model again.")
