"""Which model a state dict belongs to, and whether it fits: by key names and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from anymask.core.errors import CheckpointError
from anymask.model.presets import VIT_SIZES, build_sam
from anymask.model.sam import Sam


def recognise(state: Mapping[str, Tensor]) -> tuple[str, int]:
    """Preset name and decoder depth of a state dict with official keys, from key names and shapes."""
    decoder_depth = _count(state, r"mask_decoder\.transformer\.layers\.(\d+)\.")
    if not decoder_depth:
        raise CheckpointError(_not_sam(state, "mask_decoder.transformer.layers.*"))
    if any(key.startswith("image_encoder.backbone.") for key in state):
        return "lite", decoder_depth
    table = state.get("image_encoder.pos_embed")
    if table is None or table.dim() != 4:
        raise CheckpointError(_not_sam(state, "image_encoder.pos_embed of shape (1, 64, 64, C)"))
    width, blocks = table.shape[-1], _count(state, r"image_encoder\.blocks\.(\d+)\.")
    for name, size in VIT_SIZES.items():
        if (size.embed_dim, size.depth) == (width, blocks):
            return name, decoder_depth
    known = ", ".join(f"{name} {size.embed_dim}×{size.depth}" for name, size in VIT_SIZES.items())
    raise CheckpointError(
        f"no known model has an image encoder of width {width} with {blocks} blocks; known (width×blocks): "
        f"{known}. Is the file complete?"
    )


def check_state(state: Mapping[str, Tensor], preset: str, decoder_depth: int, source: object) -> None:
    """`check_fits` against a model that is built for it; `source` names the weights in the message."""
    check_fits(build_blank(preset, None, decoder_depth), state, preset, source)


class _NoRandomStart(TorchFunctionMode):
    """Inside, random initialisation does nothing: new parameters hold whatever memory held."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        of_init = getattr(func, "__module__", None) == "torch.nn.init"
        if of_init or func in (Tensor.uniform_, Tensor.normal_):
            return args[0] if args else kwargs["tensor"]
        if func is torch.randn:
            func = torch.empty
        return func(*args, **kwargs)


def build_blank(preset: str, image_size: int | None, decoder_depth: int) -> Sam:
    """A model whose parameters are allocated and not filled; memory and random generator stay untouched.

    As cheap as the meta device, without the two seconds that torch's first operation there takes to import.
    """
    with _NoRandomStart():
        return build_sam(preset, image_size, decoder_depth)


def check_fits(sam: Sam, state: Mapping[str, Tensor], preset: str, source: object) -> None:
    """CheckpointError with all missing, unexpected and mis-shaped keys in one message."""
    expected = {key: tuple(value.shape) for key, value in sam.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    missing = [f"{key} {shape}" for key, shape in expected.items() if key not in found]
    unexpected = [f"{key} {shape}" for key, shape in found.items() if key not in expected]
    misshaped = [
        f"{key}: expected {shape}, got {found[key]}"
        for key, shape in expected.items()
        if key in found and found[key] != shape
    ]
    if not (missing or unexpected or misshaped):
        return
    groups = (("missing", missing), ("unexpected", unexpected), ("of another shape", misshaped))
    lines = [f"  {len(keys)} {title}:\n    " + "\n    ".join(keys) for title, keys in groups if keys]
    raise CheckpointError(
        f"{source} looks like {preset} but does not fit it ({len(expected)} tensors expected, {len(found)} "
        "found). Is it complete, and made for this model?\n" + "\n".join(lines)
    )


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many different numbers stand at the group of `pattern`."""
    return len({match[1] for key in state if (match := re.match(pattern, key))})


def _not_sam(state: Mapping[str, Tensor], wanted: str) -> str:
    first = ", ".join(list(state)[:5]) or "nothing"
    return (
        f"these are not the weights of a Segment Anything model: expected {wanted}, found {len(state)} "
        f"tensors ({first} …). Weights of other families (SAM 2, MobileSAM …) do not load here."
    )
