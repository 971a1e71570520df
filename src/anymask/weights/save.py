"""Writing weights: our safetensors file, the official `.pth`, and a Hugging Face `SamModel` folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anymask.core.errors import CheckpointError, OptionError
from anymask.core.files import write_aside
from anymask.model.presets import VIT_SIZES
from anymask.model.sam import Sam
from anymask.weights.read import FORMAT, FORMAT_VERSION, read_weights
from anymask.weights.recognise import check_state, recognise
from anymask.weights.remap import GAUSSIAN, to_huggingface

RESERVED = ("format", "version", "preset", "image_size", "decoder_depth")


def save_model(
    sam: Sam, path: Path | str, preset: str, metadata: Mapping[str, Any] | None = None, *, half: bool = False
) -> None:
    """Write a model as one safetensors file that `load_model` opens; whole or not at all.

    preset: "lite", "vit_b", "vit_l" or "vit_h", checked against the weights. metadata: further entries,
    stored as text. half: float16 tensors, half the size (positions stay in float32); they become float32
    again on loading.
    """
    state = sam.state_dict()
    found, decoder_depth = recognise(state)
    if found != preset:
        raise CheckpointError(f"asked to save {preset}, but the model is {found}; pass preset={found!r}.")
    image_size = int(sam.image_encoder.img_size)
    write_safetensors(state, Path(path), preset, image_size, decoder_depth, metadata or {}, half=half)


def write_safetensors(
    state: Mapping[str, Tensor],
    path: Path,
    preset: str,
    image_size: int,
    decoder_depth: int,
    metadata: Mapping[str, Any],
    *,
    half: bool = False,
) -> None:
    """Our format: safetensors with official keys, and `format`, `preset`, `image_size` … as metadata."""
    from safetensors.torch import save_file

    clash = [key for key in metadata if key in RESERVED]
    if clash:
        raise OptionError(f"the metadata names {', '.join(clash)} are set by anymask; use other names.")
    header = {
        **{str(key): str(value) for key, value in metadata.items()},
        "format": FORMAT,
        "version": str(FORMAT_VERSION),
        "preset": preset,
        "image_size": str(image_size),
        "decoder_depth": str(decoder_depth),
    }
    plain = {key: _plain(value, half and key != GAUSSIAN) for key, value in state.items()}
    if half:
        _check_half(plain)
    _write(path, lambda part: save_file(plain, part, header))


def write_official(state: Mapping[str, Tensor], path: Path) -> None:
    """The official format: a PyTorch file with a plain state dict, float32."""
    plain = {key: _plain(value, False) for key, value in state.items()}
    _write(path, lambda part: torch.save(plain, part))


def write_huggingface(
    state: Mapping[str, Tensor], folder: Path, preset: str, image_size: int, decoder_depth: int
) -> None:
    """A folder for transformers' `SamModel.from_pretrained` and `SamProcessor.from_pretrained`; vit only."""
    from safetensors.torch import save_file

    if preset not in VIT_SIZES:
        raise OptionError(
            f"transformers has no class for {preset}, so it cannot be written as a Hugging Face folder. "
            "Write a .safetensors or .pth file instead."
        )
    if image_size != 1024:
        raise OptionError(
            f"transformers' SamModel has no {image_size}-pixel form of these weights (their position tables "
            "are for 1024). Write a .safetensors file instead."
        )
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"{folder} is a file; give a folder, or a name ending in .safetensors or .pth.")
    plain = {key: _plain(value, False) for key, value in to_huggingface(state).items()}
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OptionError(f"could not create {folder}: {error.strerror}; create its parent first.") from error
    _write(folder / "model.safetensors", lambda part: save_file(plain, part, {"format": "pt"}))
    processor = {"image_processor_type": "SamImageProcessor", "processor_class": "SamProcessor"}
    _write_json(folder / "preprocessor_config.json", processor)
    _write_json(folder / "config.json", huggingface_config(preset, decoder_depth))


def huggingface_config(preset: str, decoder_depth: int) -> dict[str, Any]:
    """`config.json` of a vit preset. The decoder's LayerNorm eps is 1e-5, as in the official code."""
    size = VIT_SIZES[preset]
    return {
        "architectures": ["SamModel"],
        "model_type": "sam",
        "vision_config": {
            "model_type": "sam_vision_model",
            "hidden_size": size.embed_dim,
            "num_hidden_layers": size.depth,
            "num_attention_heads": size.num_heads,
            "global_attn_indexes": list(size.global_attn_indexes),
            "mlp_dim": 4 * size.embed_dim,
            "image_size": 1024,
        },
        "prompt_encoder_config": {"model_type": "sam_prompt_encoder", "image_size": 1024},
        "mask_decoder_config": {
            "model_type": "sam_mask_decoder",
            "num_hidden_layers": decoder_depth,
            "layer_norm_eps": 1e-5,
        },
    }


def convert(source: Path | str, target: Path | str, *, half: bool = False) -> str:
    """Rewrite any weights file that anymask reads; the target's suffix decides. Returns a line that says
    what was done.

    target: `.safetensors` (ours, metadata kept), `.pth` / `.pt` (official keys), or a folder name without a
    suffix (Hugging Face). half: float16, for `.safetensors` only. Errors: CheckpointError, OptionError.
    """
    target = Path(target).expanduser()
    if target.suffix not in (".safetensors", ".pth", ".pt", "") and not target.is_dir():
        raise OptionError(
            f"cannot tell the format of {target} from {target.suffix!r}; expected .safetensors, .pth, .pt, "
            "or a folder name without a suffix for Hugging Face."
        )
    if half and target.suffix != ".safetensors":
        raise OptionError("half precision is for .safetensors files only; drop --half or change the target.")
    weights = read_weights(source)
    preset, decoder_depth = recognise(weights.state)
    check_state(weights.state, preset, decoder_depth, weights.path)
    stored_size = weights.metadata.get("image_size", "") if weights.layout == "anymask" else ""
    image_size = int(stored_size) if stored_size.isdigit() else 512 if preset == "lite" else 1024
    kept = {k: v for k, v in weights.metadata.items() if k not in RESERVED}
    if target.is_dir() or not target.suffix:
        write_huggingface(weights.state, target, preset, image_size, decoder_depth)
        kind = "Hugging Face folder"
    elif target.suffix == ".safetensors":
        write_safetensors(weights.state, target, preset, image_size, decoder_depth, kept, half=half)
        kind = "safetensors, float16" if half else "safetensors, float32"
    else:
        write_official(weights.state, target)
        kind = "official PyTorch file"
    return f"{preset}: {len(weights.state)} tensors from {weights.path} to {target} ({kind})"


def _plain(value: Tensor, half: bool) -> Tensor:
    """On the CPU, contiguous, detached, float32 or float16; not a view of anything larger."""
    return value.detach().to("cpu", torch.float16 if half else torch.float32).contiguous()


def _check_half(state: Mapping[str, Tensor]) -> None:
    lost = [key for key, value in state.items() if not bool(torch.isfinite(value).all())]
    if lost:
        raise CheckpointError(
            f"these tensors have values that float16 cannot hold, or are not finite: {', '.join(lost)}. "
            "Write float32 instead."
        )


def _write(path: Path, writer: Callable[[Path], None]) -> None:
    """Call `writer` on a file beside `path` and rename it; CheckpointError where the disk refuses."""
    from safetensors import SafetensorError

    try:
        with write_aside(path) as part:
            writer(part)
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise CheckpointError(
            f"could not write {path}: {reason}. Does the folder exist, and is there space on its disk?"
        ) from error


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2) + "\n"

    def write(part: Path) -> None:
        part.write_text(text, encoding="utf-8")

    _write(path, write)
