"""The simulated annotator: first prompts and corrective clicks for all masks at once (PAPER §3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from anymask.model.prompt_encoder import (
    BACKGROUND,
    BOX_BOTTOM_RIGHT,
    BOX_TOP_LEFT,
    FOREGROUND,
    PADDING,
)


@dataclass(frozen=True)
class Prompts:
    """Sparse prompts of P masks. coords_xy: (P, N, 2) in the model frame; labels: (P, N) ids -1 … 3.

    A first point comes with its padding token, a box is two corner tokens: both are two tokens, so masks that start
    differently share a batch.
    """

    coords_xy: Tensor
    labels: Tensor

    def with_clicks(self, coords_xy: Tensor, labels: Tensor) -> Prompts:
        """One more click for each mask: coords (P, 2), labels (P)."""
        return Prompts(
            torch.cat([self.coords_xy, coords_xy[:, None]], dim=1),
            torch.cat([self.labels, labels[:, None]], dim=1),
        )


@dataclass(frozen=True)
class Draws:
    """What chance decides for P masks in all rounds, drawn at once, so that it does not matter who works on which.

    pixels: (P, K) float64 in [0, 1), which pixel of a region the first point and each click take. is_box: (P,) in
    [0, 1). noise: (P, 4) normal, of the boxes.
    """

    pixels: Tensor
    is_box: Tensor
    noise: Tensor

    @classmethod
    def make(cls, num_masks: int, num_rounds: int, device: torch.device) -> Draws:
        """From torch's generator of that device."""
        return cls(
            torch.rand(num_masks, num_rounds, dtype=torch.float64, device=device),
            torch.rand(num_masks, device=device),
            torch.randn(num_masks, 4, device=device),
        )

    def of(self, masks: slice) -> Draws:
        """Those of some of the masks."""
        return Draws(self.pixels[masks], self.is_box[masks], self.noise[masks])


def no_prompts(masks: Tensor) -> Prompts:
    """Nothing for each of the masks (P, H, W); what starts with text."""
    count = len(masks)
    return Prompts(torch.zeros(count, 0, 2, device=masks.device), torch.zeros(count, 0, device=masks.device).long())


def sample_pixels(regions: Tensor, uniform: Tensor) -> Tensor:
    """One pixel (x, y), integer, uniformly from each region (P, H, W) bool; every region must have one.

    uniform: (P,) float64 in [0, 1).
    """
    seen = regions.flatten(1).cumsum(dim=1, dtype=torch.int32)
    count = seen[:, -1:]
    rank = (uniform[:, None] * count).int() + 1  # 1 … count
    at = torch.searchsorted(seen, rank)[:, 0]
    width = regions.shape[-1]
    return torch.stack([at % width, at // width], dim=-1)


def bounding_boxes(masks: Tensor) -> Tensor:
    """Boxes (P, 4) x0, y0, x1, y1 of masks (P, H, W) bool, as pixel indices; x1 and y1 are the last pixels."""
    h, w = masks.shape[-2:]
    columns, rows = masks.any(dim=1), masks.any(dim=2)
    x0, y0 = columns.int().argmax(dim=1), rows.int().argmax(dim=1)
    x1 = w - 1 - columns.flip(1).int().argmax(dim=1)
    y1 = h - 1 - rows.flip(1).int().argmax(dim=1)
    return torch.stack([x0, y0, x1, y1], dim=1)


def noised_boxes(
    boxes_xyxy: Tensor, side: int, normal: Tensor, noise: float = 0.1, max_noise_px: float = 20.0
) -> Tensor:
    """Boxes (P, 4) whose coordinates are moved by noise of 10 % of the box side, at most 20 px, kept inside S×S.

    normal: (P, 4), drawn from the normal distribution.

    The cap is applied to each offset in the model frame (the paper names no frame).
    """
    sides = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).repeat(1, 2)
    offset = (normal * noise * sides).clamp(-max_noise_px, max_noise_px)
    moved = (boxes_xyxy + offset).clamp(0, side - 1)
    low = torch.minimum(moved[:, :2], moved[:, 2:])
    return torch.cat([low, torch.maximum(moved[:, :2], moved[:, 2:])], dim=1)


def first_prompts(masks: Tensor, side: int, draws: Draws, box_chance: float = 0.5) -> Prompts:
    """A uniform foreground point or a noised box for each mask (P, H, W) bool, coordinates in the S×S frame."""
    stride = side / masks.shape[-1]
    points = _centres(sample_pixels(masks, draws.pixels[:, 0]), stride)
    boxes = bounding_boxes(masks).float() * stride
    boxes[:, 2:] += stride - 1  # the last pixel of the last cell
    boxes = noised_boxes(boxes, side, draws.noise)
    is_box = draws.is_box < box_chance
    pointed = torch.stack([points, torch.zeros_like(points)], dim=1)
    coords = torch.where(is_box[:, None, None], boxes.reshape(-1, 2, 2), pointed)
    box_ids = torch.tensor([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT], device=masks.device)
    point_ids = torch.tensor([FOREGROUND, PADDING], device=masks.device)
    return Prompts(coords, torch.where(is_box[:, None], box_ids, point_ids))


def corrective_clicks(logits: Tensor, masks: Tensor, side: int, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """A click in the error region of each mask: foreground where missed, background where too much.

    logits: (P, H, W) of the previous round. masks: (P, H, W) bool. uniform: as for `sample_pixels`. A mask without an
    error gets a foreground click. Returns coords (P, 2) in the S×S frame and labels (P).
    """
    wrong = (logits > 0) != masks
    perfect = ~wrong.flatten(1).any(dim=1)
    at = sample_pixels(torch.where(perfect[:, None, None], masks, wrong), uniform)
    inside = masks[torch.arange(len(masks), device=masks.device), at[:, 1], at[:, 0]]
    labels = torch.where(inside, FOREGROUND, BACKGROUND)
    return _centres(at, side / masks.shape[-1]), labels


def _centres(pixels_xy: Tensor, stride: float) -> Tensor:
    """Grid pixels to coordinates whose +0.5 (added by the prompt encoder) is the centre of the pixel."""
    return (pixels_xy.float() + 0.5) * stride - 0.5


def round_plan(num_clicks: int, num_empty: int, generator: torch.Generator | None = None) -> list[bool]:
    """After the first round: True for a round with a new click, False for one without.

    The last round is without a click, any other such round stands at a random place among the clicks
    (num_clicks 8, num_empty 2 in the paper: eleven rounds with the first).
    """
    if num_empty == 0:
        return [True] * num_clicks
    plan = [True] * num_clicks
    for _ in range(num_empty - 1):
        at = int(torch.randint(0, len(plan) + 1, (1,), generator=generator))
        plan.insert(at, False)
    return [*plan, False]
