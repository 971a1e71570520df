"""Overlapping windows of the photo in layers: 2×2, 4×4, … (PAPER §4.4)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True)
class Crop:
    """A window of the photo. box_xyxy: pixels, the end excluded. layer: 0 for the whole photo."""

    box_xyxy: tuple[int, int, int, int]
    layer: int

    @property
    def hw(self) -> tuple[int, int]:
        """Size in pixels (H, W)."""
        x0, y0, x1, y1 = self.box_xyxy
        return y1 - y0, x1 - x0

    @property
    def box_xywh(self) -> list[int]:
        """Left, top, width, height."""
        x0, y0, x1, y1 = self.box_xyxy
        return [x0, y0, x1 - x0, y1 - y0]


def crop_windows(image_hw: tuple[int, int], num_layers: int, overlap_ratio: float) -> list[Crop]:
    """The whole photo, then layer by layer 2ᴸ×2ᴸ windows, column by column.

    overlap_ratio: overlap of the first layer as a share of the photo's shorter side; halved from layer to
    layer. Photos of so few pixels that a window would be empty give fewer windows.
    """
    height, width = image_hw
    crops = [Crop((0, 0, width, height), 0)]
    for layer in range(1, num_layers + 1):
        per_side = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / per_side))
        crop_w = math.ceil((overlap * (per_side - 1) + width) / per_side)
        crop_h = math.ceil((overlap * (per_side - 1) + height) / per_side)
        lefts = [(crop_w - overlap) * i for i in range(per_side)]
        tops = [(crop_h - overlap) * i for i in range(per_side)]
        for x0, y0 in product(lefts, tops):
            if x0 < width and y0 < height:
                crops.append(Crop((x0, y0, min(x0 + crop_w, width), min(y0 + crop_h, height)), layer))
    return crops
