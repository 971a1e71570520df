"""Key names of Hugging Face's `SamModel` and of the official files, one table read in both directions.

In a row, `#` stands for a number and a final `*` for the rest of the key, the same on both sides. The first
row that fits decides; keys that fit no row stay as they are, so that loading reports them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

GAUSSIAN = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
HF_GAUSSIAN = "shared_image_embedding.positional_embedding"
HF_GAUSSIAN_TWIN = "prompt_encoder.shared_embedding.positional_embedding"  # the same parameter, tied

_ENCODER = (
    ("vision_encoder.pos_embed", "image_encoder.pos_embed"),
    ("vision_encoder.patch_embed.projection.*", "image_encoder.patch_embed.proj.*"),
    ("vision_encoder.layers.#.layer_norm#.*", "image_encoder.blocks.#.norm#.*"),
    ("vision_encoder.layers.#.*", "image_encoder.blocks.#.*"),
    ("vision_encoder.neck.conv1.*", "image_encoder.neck.0.*"),
    ("vision_encoder.neck.layer_norm1.*", "image_encoder.neck.1.*"),
    ("vision_encoder.neck.conv2.*", "image_encoder.neck.2.*"),
    ("vision_encoder.neck.layer_norm2.*", "image_encoder.neck.3.*"),
)
_PROMPTS = (
    (HF_GAUSSIAN, GAUSSIAN),
    (HF_GAUSSIAN_TWIN, GAUSSIAN),
    ("prompt_encoder.point_embed.#.*", "prompt_encoder.point_embeddings.#.*"),
    ("prompt_encoder.mask_embed.conv1.*", "prompt_encoder.mask_downscaling.0.*"),
    ("prompt_encoder.mask_embed.layer_norm1.*", "prompt_encoder.mask_downscaling.1.*"),
    ("prompt_encoder.mask_embed.conv2.*", "prompt_encoder.mask_downscaling.3.*"),
    ("prompt_encoder.mask_embed.layer_norm2.*", "prompt_encoder.mask_downscaling.4.*"),
    ("prompt_encoder.mask_embed.conv3.*", "prompt_encoder.mask_downscaling.6.*"),
)
_DECODER = (
    ("mask_decoder.transformer.layers.#.layer_norm#.*", "mask_decoder.transformer.layers.#.norm#.*"),
    ("mask_decoder.transformer.layer_norm_final_attn.*", "mask_decoder.transformer.norm_final_attn.*"),
    ("mask_decoder.upscale_conv1.*", "mask_decoder.output_upscaling.0.*"),
    ("mask_decoder.upscale_layer_norm.*", "mask_decoder.output_upscaling.1.*"),
    ("mask_decoder.upscale_conv2.*", "mask_decoder.output_upscaling.3.*"),
)
_HEADS = tuple(
    (f"mask_decoder.{head}.{theirs}.*", f"mask_decoder.{head}.{ours}.*")
    for head in ("output_hypernetworks_mlps.#", "iou_prediction_head")
    for theirs, ours in (("proj_in", "layers.0"), ("layers.0", "layers.1"), ("proj_out", "layers.2"))
)
TABLE: tuple[tuple[str, str], ...] = (*_ENCODER, *_PROMPTS, *_DECODER, *_HEADS)


def is_huggingface(state: Mapping[str, object]) -> bool:
    """True where the keys are those of `SamModel`."""
    return any(key.startswith(("vision_encoder.", HF_GAUSSIAN)) for key in state)


def from_huggingface(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`SamModel` keys to official keys, the same tensors; the two tied matrices become one."""
    return {_translate(key, _TO_OFFICIAL): value for key, value in state.items()}


def to_huggingface(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official keys to `SamModel` keys; the tied positional matrix appears twice, as in its state dict."""
    renamed = {_translate(key, _TO_HUGGINGFACE): value for key, value in state.items()}
    if HF_GAUSSIAN in renamed:
        renamed[HF_GAUSSIAN_TWIN] = renamed[HF_GAUSSIAN].clone()
    return renamed


def _compile(source: str, target: str) -> tuple[re.Pattern[str], str]:
    """A row as a regular expression and its replacement template."""
    pattern = re.escape(source).replace(r"\#", r"(\d+)").replace(r"\*", "(.+)")
    groups = iter(range(1, 9))
    return re.compile(pattern), re.sub(r"[#*]", lambda _: rf"\g<{next(groups)}>", target)


_TO_OFFICIAL = [_compile(theirs, ours) for theirs, ours in TABLE]
_TO_HUGGINGFACE = [_compile(ours, theirs) for theirs, ours in TABLE]


def _translate(key: str, rows: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, template in rows:
        match = pattern.fullmatch(key)
        if match is not None:
            return match.expand(template)
    return key
