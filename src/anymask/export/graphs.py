"""The parts of a model as modules without a branch on data, ready to be traced.

Nothing of the model is written again here: every part calls the modules that inference uses, and only decides what goes
in and what comes out. `onnx.py` joins parts into files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymask.model.sam import Sam
from anymask.model.transformer import ImageTokens, SharedProjections

SLOTS_OF_ONE_CLICK = 2.5  # at most two point slots (a click and its padding, or a box) ask for the best of three masks
STABILITY_OFFSET = 1.0


class EncodeScaled(nn.Module):
    """input_image (B, h, w, 3) uint8 RGB, scaled so that the longer side is S, to image_embeddings (B, C, h/.., w/..).

    Normalising and padding happen inside, so a caller only scales. batch: B, or -1 where it may vary.
    """

    def __init__(self, sam: Sam, batch: int = -1) -> None:
        super().__init__()
        self.sam = sam
        self.batch = batch

    def forward(self, input_image: Tensor) -> Tensor:
        sam, side = self.sam, int(self.sam.image_encoder.img_size)
        pixels = input_image.permute(0, 3, 1, 2).to(sam.pixel_mean.dtype)
        x = (pixels - sam.pixel_mean) / sam.pixel_std
        x = torch.cat([x, x.new_zeros(x.shape[0], 3, side - x.shape[2], x.shape[3])], dim=2)
        x = torch.cat([x, x.new_zeros(x.shape[0], 3, side, side - x.shape[3])], dim=3)
        return sam.image_encoder(x.reshape(self.batch, 3, side, side))  # from here on the sizes are constants


class EncodeNormalised(nn.Module):
    """input_image (B, 3, S, S) float32, normalised and padded, to image_embeddings (B, C, h, w)."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam

    def forward(self, input_image: Tensor) -> Tensor:
        return self.sam.image_encoder(input_image)


class Prepare(nn.Module):
    """image_embeddings (1, C, h, w) to what the decoder needs of a photo; once per photo, see `prepared_names`."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam

    def forward(self, image_embeddings: Tensor) -> tuple[Tensor, ...]:
        return tuple(_flat(self.sam.prepare(image_embeddings)).values())


def prepared_names(sam: Sam) -> list[str]:
    """Names of the tensors that `Prepare` gives and the decoder takes, in their order."""
    with torch.no_grad():
        h, w = sam.prompt_encoder.image_embedding_size
        blank = torch.zeros(1, sam.prompt_encoder.embed_dim, h, w, dtype=sam.dtype, device=sam.device)
        return list(_flat(sam.prepare(blank)))


class Decode(nn.Module):
    """Four mask logits (P, 4, 4h, 4w) and predicted IoU (P, 4) for P prompts of N point slots on one photo.

    masked: with a mask prompt (P or 1, 1, 4h, 4w), or without. prepared: names of `Prepare`'s outputs where they are
    given instead of the embedding.
    """

    def __init__(self, sam: Sam, masked: bool, prepared: list[str] | None = None) -> None:
        super().__init__()
        self.sam = sam
        self.masked = masked
        self.prepared = prepared

    def forward(
        self, image: Tensor | list[Tensor], point_coords: Tensor, point_labels: Tensor, mask_input: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        encoder, decoder = self.sam.prompt_encoder, self.sam.mask_decoder
        sparse = encoder.embed_tokens(point_coords, point_labels)
        tokens = self._image_tokens(image)
        if self.masked:
            assert mask_input is not None
            part = encoder.mask_part(mask_input, tokens.keys.dtype)
            last = torch.ones_like(mask_input[:, 0, 0, 0], dtype=torch.int64).sum() - 1
            at = torch.minimum(torch.arange(point_coords.shape[0]), last)  # one mask for all, or one each
            tokens = replace(tokens, masks=replace(part, w=part.w[at]))
        every = slice(0, decoder.num_mask_tokens)
        masks, iou = decoder.decode_chosen(tokens, encoder.image_embedding_size, sparse, every)
        return masks, decoder.rated(masks, iou)

    def _image_tokens(self, image: Tensor | list[Tensor]) -> ImageTokens:
        """The image side without a mask prompt."""
        if isinstance(image, Tensor):
            return self.sam.prepare(image)
        assert self.prepared is not None
        pe = _cells(self.sam.prompt_encoder.get_dense_pe())
        tensors = dict(zip(self.prepared, image))
        shared = SharedProjections(**{f.name: tensors[f.name] for f in fields(SharedProjections)})
        return ImageTokens(tensors["keys"], pe, shared)


class Select(nn.Module):
    """What is returned of the four masks: scores, the best mask, as the official export does it (PAPER §2.4, X 7)."""

    def __init__(self, single: bool, stability: bool, mask_threshold: float) -> None:
        super().__init__()
        self.single = single
        self.stability = stability
        self.mask_threshold = mask_threshold

    def forward(self, low_res: Tensor, iou: Tensor, point_labels: Tensor) -> tuple[Tensor, Tensor]:
        scores = stability_of(low_res, self.mask_threshold) if self.stability else iou
        if not self.single:
            return low_res, scores
        num_slots = torch.ones_like(point_labels[:1]).sum()
        first = torch.tensor([1000.0] + [0.0] * (low_res.shape[1] - 1))
        best = (scores + (num_slots - SLOTS_OF_ONE_CLICK) * first).argmax(dim=1, keepdim=True)  # (P, 1)
        chosen = low_res.gather(1, best[:, :, None, None].expand(-1, -1, *low_res.shape[2:]))
        return chosen, scores.gather(1, best)


def stability_of(logits: Tensor, threshold: float, offset: float = STABILITY_OFFSET) -> Tensor:
    """IoU between the masks at threshold + offset and threshold - offset, (P, M)."""
    inner = (logits > threshold + offset).float().sum(dim=(-2, -1))
    return inner / (logits > threshold - offset).float().sum(dim=(-2, -1))


class Measure(nn.Module):
    """Stability and area in pixels of full-size masks, (P, M) each: the official export's extra metrics."""

    def __init__(self, mask_threshold: float) -> None:
        super().__init__()
        self.mask_threshold = mask_threshold

    def forward(self, masks: Tensor) -> tuple[Tensor, Tensor]:
        areas = (masks > self.mask_threshold).float().sum(dim=(-2, -1))
        return stability_of(masks, self.mask_threshold), areas


@contextmanager
def tanh_gelu(wanted: bool) -> Iterator[None]:
    """While inside, GELU is traced as its tanh approximation, for runtimes without the error function."""
    exact = F.gelu
    if wanted:
        F.gelu = partial(exact, approximate="tanh")
    try:
        yield
    finally:
        F.gelu = exact


def _flat(tokens: ImageTokens) -> dict[str, Tensor]:
    """Tensors of a photo by field name: without the positional code, which all photos share, and without masks."""
    flat: dict[str, Tensor] = {}
    for field in fields(tokens):
        value: Any = getattr(tokens, field.name)
        if is_dataclass(value):
            flat |= {f.name: getattr(value, f.name) for f in fields(value)}
        elif field.name == "keys":
            flat[field.name] = value
    return flat


def _cells(x: Tensor) -> Tensor:
    """(B, C, h, w) to (B, h·w, C)."""
    return x.flatten(2).transpose(1, 2)

