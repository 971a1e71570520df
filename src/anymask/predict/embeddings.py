"""Embeddings on disk: safetensors with the frame and the model's fingerprint in the metadata."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch

from anymask.core.errors import CheckpointError
from anymask.core.files import write_aside
from anymask.core.geometry import Frame
from anymask.core.types import Embedding


def save_embedding(embedding: Embedding, path: Path) -> None:
    """Write one embedding, whole or not at all."""
    from safetensors.torch import save_file

    frame = embedding.frame
    about = {
        "original_hw": frame.original_hw,
        "input_hw": frame.input_hw,
        "side": frame.side,
        "model": embedding.model,
    }
    features = torch.as_tensor(embedding.features).detach().cpu().contiguous()
    with write_aside(path) as part:
        save_file({"features": features}, part, metadata={"anymask_embedding": json.dumps(about)})


def load_embedding(path: Path, side: int) -> Embedding:
    """Read an embedding; also the `{features, original_size, input_size}` dumps that people made with torch.save.

    side: the model's side, for dumps that do not say it.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file; expected an embedding stored by save_embedding.")
    dump = _read_safetensors(path) or _read_torch_dump(path)
    if dump is None:
        raise CheckpointError(
            f"{path} is not an embedding: expected a file of save_embedding (safetensors), or a torch.save dump with "
            "'features', 'original_size' and 'input_size'."
        )
    features, about = dump
    try:
        original_hw, input_hw = (tuple(int(v) for v in about[k]) for k in ("original_hw", "input_hw"))
        frame = Frame(original_hw, input_hw, int(about.get("side", side)))  # type: ignore[arg-type]
        return Embedding(features, frame, str(about.get("model", "")))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the embedding's frame is incomplete ({error!r}); make it again.") from error


def _read_safetensors(path: Path) -> tuple[torch.Tensor, dict[str, Any]] | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("anymask_embedding", "null"))
            return (file.get_tensor("features"), about) if about else None
    except (SafetensorError, ValueError):
        return None


def _read_torch_dump(path: Path) -> tuple[torch.Tensor, dict[str, Any]] | None:
    try:
        dump = torch.load(path, map_location="cpu", weights_only=True)
        return dump["features"], {
            "original_hw": dump["original_size"],
            "input_hw": dump["input_size"],
        }
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, ValueError):
        return None
