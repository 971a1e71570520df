"""Small islands and holes out of masks that are stored as run lengths (PAPER §4.4)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from anymask.core.masks import remove_small_regions
from anymask.core.rle import RLE, decode_one, to_bbox_xywh
from anymask.predict.patches import box_of, encode_patch


@dataclass(frozen=True)
class Cleaned:
    """A mask after cleaning. num_px 0: nothing is left."""

    rle: RLE
    box_xyxy: tuple[int, int, int, int]
    num_px: int
    changed: bool


def clean(rle: RLE, min_area_px: float, drop_small: bool) -> Cleaned:
    """Fill holes, then remove islands, of fewer than `min_area_px` pixels.

    drop_small: a mask whose every island is small becomes empty (the paper); otherwise its largest one stays
    (the official code). Works in the mask's box, widened so far that no hole can look smaller than it is.
    """
    height, width = rle["size"]
    x, y, w, h = to_bbox_xywh(rle)
    margin = math.ceil(min_area_px)
    top, left = max(0, y - margin), max(0, x - margin)
    window = (slice(top, min(height, y + h + margin)), slice(left, min(width, x + w + margin)))
    mask = np.ascontiguousarray(decode_one(rle)[window])
    mask, filled = remove_small_regions(mask, min_area_px, "holes")
    mask, removed = remove_small_regions(mask, min_area_px, "islands")
    changed = filled or removed
    num_px = int(np.count_nonzero(mask))
    if not num_px or (drop_small and num_px < min_area_px):
        empty = encode_patch(np.zeros((0, 0), dtype=bool), 0, 0, (height, width))
        return Cleaned(empty, (0, 0, 0, 0), 0, changed or num_px > 0)
    x0, y0, x1, y1 = box_of(mask)
    if changed:
        rle = encode_patch(mask[y0 : y1 + 1, x0 : x1 + 1], top + y0, left + x0, (height, width))
    return Cleaned(rle, (left + x0, top + y0, left + x1, top + y1), num_px, changed)
