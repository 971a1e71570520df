"""The named models: sizes only, no weights."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from anymask.core.errors import unknown_name
from anymask.model.image_encoder import ImageEncoderViT
from anymask.model.lite_encoder import LiteEncoder
from anymask.model.mask_decoder import MaskDecoder
from anymask.model.prompt_encoder import PromptEncoder
from anymask.model.sam import Sam
from anymask.model.transformer import TwoWayTransformer

PROMPT_DIM = 256  # width of embeddings and prompts in every official model


@dataclass(frozen=True)
class ViTSize:
    """Width, depth, heads and global blocks of an image encoder (PAPER §2.2)."""

    embed_dim: int
    depth: int
    num_heads: int
    global_attn_indexes: tuple[int, ...]


VIT_SIZES = {
    "vit_b": ViTSize(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": ViTSize(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": ViTSize(1280, 32, 16, (7, 15, 23, 31)),
}
MODEL_NAMES = ("lite", "vit_b", "vit_l", "vit_h")


def build_sam(
    name: str = "lite",
    image_size: int | None = None,
    decoder_depth: int = 2,
    dropout: float = 0.0,
    drop_path_rate: float = 0.0,
) -> Sam:
    """A model of a named size with random weights, in evaluation mode.

    name: "lite", "vit_b", "vit_l" or "vit_h" ("default" is vit_h, as in the official registry).
    image_size: side of the square the photo is scaled into, a multiple of 16 (32 for lite); 1024, lite 512.
    decoder_depth: 2, or 3 for the automatic-mask model of app. B. dropout, drop_path_rate: for training only.
    """
    name = "vit_h" if name == "default" else name
    if name == "lite":
        encoder: nn.Module = LiteEncoder(image_size or 512, PROMPT_DIM)
    elif name in VIT_SIZES:
        size = VIT_SIZES[name]
        encoder = ImageEncoderViT(
            image_size or 1024,
            embed_dim=size.embed_dim,
            depth=size.depth,
            num_heads=size.num_heads,
            global_attn_indexes=size.global_attn_indexes,
            drop_path_rate=drop_path_rate,
        )
    else:
        raise unknown_name("model", name, [*MODEL_NAMES, "default"])
    return sam_around(encoder, decoder_depth, dropout, is_lite=name == "lite").eval()


def sam_around(encoder: nn.Module, decoder_depth: int = 2, dropout: float = 0.0, is_lite: bool = False) -> Sam:
    """SAM's prompt encoder and mask decoder around any encoder with `img_size`, `stride` and 256 output channels.

    is_lite: with what `lite` adds to the paper's decoder (`MaskDecoder`), all of it without weights.
    """
    side, stride = int(encoder.img_size), int(encoder.stride)  # type: ignore[arg-type]
    cells = side // stride
    return Sam(
        encoder,
        PromptEncoder(PROMPT_DIM, (cells, cells), (side, side)),
        MaskDecoder(
            transformer_dim=PROMPT_DIM,
            transformer=TwoWayTransformer(decoder_depth, PROMPT_DIM, 8, 2048, dropout=dropout),
            smooth=is_lite,
            rates_stability=is_lite,
        ),
    )
