"""From a name or any weights file to a model that is ready to use."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from anymask.core.errors import CheckpointError, OptionError, unknown_name
from anymask.model.presets import MODEL_NAMES, build_sam
from anymask.model.sam import Sam
from anymask.weights.catalog import find_entry, is_model_name, require_local
from anymask.weights.read import WeightsFile, read_state_dict, read_weights
from anymask.weights.recognise import build_blank, check_fits, recognise
from anymask.weights.save import save_model

TEXT = "prompt_encoder.text_embed.weight"  # there where a model was trained with text prompts

__all__ = [
    "load_model",
    "load_pretrained",
    "read_state_dict",
    "recognise",
    "sam_model_registry",
    "save_model",
]


def load_model(
    name_or_path: str | Path | None = None,
    *,
    checkpoint: str | Path | None = None,
    image_size: int | None = None,
) -> Sam:
    """A model in evaluation mode, float32, on the CPU.

    name_or_path: a model name ("lite", "vit_b", "vit_l", "vit_h", "default"; names win over files of that
    name) or a weights file or folder, whose size is recognised. checkpoint: a weights file for the named
    model. Without both: lite, the model inside the package. image_size: side of the model's square in
    pixels, default as stored. Errors: CheckpointError for weights that are missing, broken or of another
    model, OptionError for an unknown name.
    """
    name = None
    if name_or_path is not None and is_model_name(str(name_or_path)):
        name = str(name_or_path)
    elif name_or_path is not None:
        if checkpoint is not None:
            raise unknown_name("model", str(name_or_path), [*MODEL_NAMES, "default"])
        if not Path(name_or_path).expanduser().exists() and not re.search(r"[./\\]", str(name_or_path)):
            raise unknown_name("model", str(name_or_path), [*MODEL_NAMES, "default", "or a weights file"])
        checkpoint = name_or_path
    if checkpoint is None:
        return load_pretrained(name or "lite", image_size)
    return _load(read_weights(checkpoint), name and find_entry(name).preset, image_size)


def load_pretrained(name: str = "lite", image_size: int | None = None) -> Sam:
    """The named model with its published weights: lite from the package, the others as pulled before.

    CheckpointError says `anymask models pull <name>` where the file is not on this machine.
    """
    return _load(read_weights(require_local(name)), find_entry(name).preset, image_size)


def _load(weights: WeightsFile, wanted: str | None, image_size: int | None) -> Sam:
    """Build the recognised model blank and give it the file's tensors."""
    preset, decoder_depth = recognise(weights.state)
    if wanted is not None and preset != wanted:
        raise CheckpointError(
            f"{weights.path} holds {preset} weights, you asked for {wanted}; use --model {preset} "
            f"(in Python: sam_model_registry[{preset!r}])."
        )
    if image_size is None:
        image_size = _stored_image_size(weights)
    elif image_size < 1:
        raise OptionError(f"image_size must be a number of pixels such as 1024, got {image_size}.")
    sam = build_blank(preset, image_size, decoder_depth)
    if TEXT in weights.state:
        sam.prompt_encoder.add_text(weights.state[TEXT].shape[-1])
    check_fits(sam, weights.state, preset, weights.path)
    # Copies: the file may be memory-mapped, and whoever overwrites it must not crash a loaded model.
    own = {
        key: value.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        for key, value in weights.state.items()
    }
    sam.load_state_dict(own, assign=True)
    return sam.eval()


def _stored_image_size(weights: WeightsFile) -> int | None:
    text = weights.metadata.get("image_size") if weights.layout == "anymask" else None
    if text is None:
        return None
    if not text.isdigit() or int(text) == 0:
        raise CheckpointError(f"{weights.path} has image_size {text!r} in its metadata, expected pixels.")
    return int(text)


def _from_registry(preset: str, checkpoint: str | Path | None = None, image_size: int | None = None) -> Sam:
    """From `checkpoint`, else random weights (lite: the weights inside the package)."""
    if checkpoint is not None:
        return load_model(preset, checkpoint=checkpoint, image_size=image_size)
    if preset == "lite":
        return load_pretrained("lite", image_size)
    return build_sam(preset, image_size)


class _Registry(dict[str, Callable[..., Sam]]):
    """A dict whose missing keys are answered with the known ones."""

    def __missing__(self, key: str) -> Callable[..., Sam]:
        error: OptionError = unknown_name("model", str(key), list(self))
        raise _UnknownModelError(*error.args)


class _UnknownModelError(OptionError, KeyError):
    """Also a KeyError, which callers of the official dict may catch."""

    __str__ = Exception.__str__


sam_model_registry: dict[str, Callable[..., Sam]] = _Registry(
    default=partial(_from_registry, "vit_h"),
    vit_h=partial(_from_registry, "vit_h"),
    vit_l=partial(_from_registry, "vit_l"),
    vit_b=partial(_from_registry, "vit_b"),
    lite=partial(_from_registry, "lite"),
)
"""Name to builder `(checkpoint=None, image_size=None) -> Sam`, as in the official package, and "lite"."""
