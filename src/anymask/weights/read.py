"""Weights files as state dicts with official key names. No file can make this run code.

Formats, told apart by content and not by suffix: PyTorch files (`.pth`, `.pt`, `.bin`), safetensors (ours and
others), and Hugging Face `SamModel` folders.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anymask.core.errors import CheckpointError
from anymask.weights.remap import from_huggingface, is_huggingface

FORMAT = "anymask"
FORMAT_VERSION = 1
WRAPPERS = ("average", "model", "state_dict")  # where training checkpoints keep weights; ours: average
ZIP_MAGIC = b"PK\x03\x04"  # torch.save since 1.6
OLD_TORCH_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before
PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile


@dataclass(frozen=True)
class WeightsFile:
    """What a file holds. state: tensors as stored, official names; they may be views of the file on disk.

    metadata: the text entries of a safetensors file. layout: "anymask", "official" or "huggingface".
    """

    path: Path
    state: dict[str, Tensor]
    metadata: dict[str, str]
    layout: str


def read_state_dict(path: Path | str) -> dict[str, Tensor]:
    """State dict of a file or Hugging Face folder: official key names, floating-point tensors in float32.

    Tensors may be views of the file (read them before it is overwritten). Errors: CheckpointError.
    """
    state = read_weights(path).state
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def read_weights(path: Path | str) -> WeightsFile:
    """As `read_state_dict`, with stored dtypes, metadata and layout."""
    path = Path(path).expanduser()
    if path.is_dir():
        state, metadata = _read_folder(path), dict[str, str]()
    else:
        state, metadata = _read_file(path)
    layout = "anymask" if metadata.get("format") == FORMAT else "official"
    if layout == "anymask":
        _check_version(path, metadata)
    state = _without_prefixes(state)
    if is_huggingface(state):
        state, layout = from_huggingface(state), "huggingface"
    return WeightsFile(path, state, metadata, layout)


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """State dict and metadata of one file."""
    if not path.exists():
        raise CheckpointError(f"there is no file {path}. Check the path, or run: anymask models pull vit_b")
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file; expected .pth, .safetensors or a Hugging Face folder.")
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise CheckpointError(f"could not read {path}: {error.strerror}. Check its permissions.") from error
    if not head:
        raise CheckpointError(f"{path} is empty (0 bytes), a broken download? Delete it and fetch it again.")
    if head[8:9] == b"{":
        return _read_safetensors(path)
    if head.startswith((ZIP_MAGIC, OLD_TORCH_MAGIC)):
        return _unwrap(_torch_load(path), path), {}
    if head.startswith(b"\x80"):
        raise _refused(path, "a plain pickle, not a file of torch.save")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the weights. Run: git lfs pull")
    raise CheckpointError(
        f"{path} is neither a PyTorch nor a safetensors file (it starts with {head[:16]!r}); a web page "
        "saved instead of the weights? Fetch it again."
    )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is broken or cut short, expected a complete safetensors file ({_first_line(error)}). "
            "Fetch it again."
        ) from error


def _torch_load(path: Path) -> Any:
    """The object in a PyTorch file; tensors and plain containers only."""
    try:
        if path.suffix == ".safetensors" or not zipfile.is_zipfile(path):
            with path.open("rb") as file:  # torch goes by the name
                return torch.load(file, map_location="cpu", weights_only=True)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        if "operand" in str(error) or "load key" in str(error):
            raise _broken(path, error) from error
        raise _refused(path, _asked_for(error)) from error
    except MemoryError:
        raise
    except Exception as error:  # a broken file can raise almost anything here
        raise _broken(path, error) from error


def _refused(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path} was refused: it is a pickle that may hold code, and opening it would run that code; "
        f"nothing was run ({reason}). Get the weights as .safetensors or as a plain state dict. If you trust "
        "the file as you would trust a program, open it yourself with torch.load(path, weights_only=False) "
        "and write its state_dict() with torch.save."
    )


def _broken(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path} is broken or cut short, expected a complete PyTorch file with a state dict "
        f"({_first_line(error)}). Fetch it again."
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _asked_for(error: Exception) -> str:
    """The part of torch's long message that names what the pickle wanted."""
    lines = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line]
    return lines[0].split(" was not ")[0][-160:] if lines else _first_line(error)


def _unwrap(loaded: Any, path: Path) -> dict[str, Tensor]:
    """The flat state dict inside a checkpoint: {"model": {...}} and the like opened, prefixes cut."""
    for key in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}, expected names to tensors.")
    others = [str(k) for k, value in loaded.items() if not (isinstance(k, str) and isinstance(value, Tensor))]
    if others or not loaded:
        raise CheckpointError(
            f"{path} is not a state dict, expected names to tensors, or such a dict under one of "
            f"{', '.join(WRAPPERS)}; found "
            f"{'entries that are no tensors: ' + ', '.join(others) if others else 'nothing in it'}."
        )
    return dict(loaded)


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state` without what wrappers such as DistributedDataParallel put before every key."""
    while prefix := next((p for p in PREFIXES if state and all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _read_folder(folder: Path) -> dict[str, Tensor]:
    """State dict of a Hugging Face folder, whole or in shards."""
    config = folder / "config.json"
    if not config.is_file():
        raise CheckpointError(
            f"{folder} is a folder without config.json. Give the weights file itself, or a Hugging Face "
            "SamModel folder (config.json with model.safetensors)."
        )
    kind = _read_json(config).get("model_type")
    if kind != "sam":
        raise CheckpointError(f"{config} describes a {kind!r} model, expected model_type 'sam'.")
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return _read_file(folder / name)[0]
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _read_shards(folder, index)
    raise CheckpointError(
        f"{folder} has a config.json but no weights; expected model.safetensors, "
        "model.safetensors.index.json or pytorch_model.bin. Was the download complete?"
    )


def _read_shards(folder: Path, index: Path) -> dict[str, Tensor]:
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map, expected tensor names to shard files.")
    shards = sorted({str(name) for name in weight_map.values()})
    missing = [name for name in shards if Path(name).name != name or not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder} lacks the shards {', '.join(missing)}. Download them as well.")
    state: dict[str, Tensor] = {}
    for name in shards:
        state.update(_read_file(folder / name)[0])
    return state


def _read_json(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not JSON ({_first_line(error)}). Fetch it again.") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}, expected a JSON object.")
    return loaded


def _check_version(path: Path, metadata: dict[str, str]) -> None:
    version = metadata.get("version", "")
    if not version.isdigit() or int(version) > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} is of format version {version!r}, this anymask reads up to {FORMAT_VERSION}. "
            "Upgrade: pip install -U anymask"
        )
