"""The model's copy for browsers: exported once per set of weights, then kept beside the downloaded models."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anymask import __version__
from anymask.server.studio import BrowserModel
from anymask.weights.catalog import cache_folder

if TYPE_CHECKING:
    from anymask.model.sam import Sam

_FORM = 5  # raise it when the graphs change for the same weights
ENCODERS = ("lite",)  # small enough to run in a page; embeddings of the others come from the server


def browser_model(sam: Sam, name: str, home: Path | None = None) -> BrowserModel:
    """Graphs of a model for the page; exported if they are not there yet, which takes some seconds.

    Raises MissingExtraError where the export's libraries are not installed.
    """
    roles = ["positions", "prepare", "decode", *(["encoder"] if name in ENCODERS else [])]
    stamp = digest(sam)
    folder = (home or cache_folder().parent) / "browser" / f"{name}-{stamp}"
    if not all((folder / f"{role}.onnx").is_file() for role in roles):
        _export(sam, roles, folder)
    h, w = sam.prompt_encoder.image_embedding_size
    about = {
        "pixel_mean": [round(float(v), 4) for v in sam.pixel_mean.flatten()],
        "pixel_std": [round(float(v), 4) for v in sam.pixel_std.flatten()],
        "embedding_shape": [sam.prompt_encoder.embed_dim, h, w],
    }
    return BrowserModel({role: folder / f"{role}.onnx" for role in roles}, about, stamp)


def digest(sam: Sam) -> str:
    """Tells weights apart: a hash of samples of every tensor, the side and the program's version."""
    found = hashlib.sha256(f"{__version__} {_FORM} {sam.image_encoder.img_size}".encode())
    for tensor in sam.state_dict().values():
        values = tensor.detach().flatten()
        found.update(values[:: 1 + values.numel() // 4096].float().cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def _export(sam: Sam, roles: list[str], folder: Path) -> None:
    """Whole or not at all: into a folder beside, which then takes the name."""
    import copy

    import torch

    from anymask.export.browser import decode_graph, positions_graph, prepare_graph
    from anymask.export.onnx import encoder_graph, require_onnx

    require_onnx()
    import onnx

    model = copy.deepcopy(sam).cpu().to(torch.float32)
    graphs: dict[str, Callable[[Sam], Any]] = {
        "encoder": encoder_graph,
        "positions": positions_graph,
        "prepare": prepare_graph,
        "decode": decode_graph,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".export-", dir=folder.parent))
    try:
        for role in roles:
            onnx.save(graphs[role](model), aside / f"{role}.onnx")
        shutil.rmtree(folder, ignore_errors=True)  # of another program that was stopped half-way
        aside.replace(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
