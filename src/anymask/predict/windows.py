"""Masks that are stored as run lengths, decoded only where they are: costs the mask's box, not the photo."""

from __future__ import annotations

import numpy as np

from anymask.core.rle import RLE, to_bbox_xywh, to_uncompressed


def decode_box(rle: RLE) -> tuple[np.ndarray, int, int]:
    """The mask inside its own tight box, (h, w) bool, and the box's corner x, y; (0, 0) for an empty mask."""
    x, y, w, h = to_bbox_xywh(rle)
    if not w or not h:
        return np.zeros((0, 0), dtype=bool), 0, 0
    height = int(rle["size"][0])
    runs = np.array(to_uncompressed(rle)["counts"], dtype=np.int64)
    ends = runs.cumsum().clip(x * height, (x + w) * height)  # runs go column by column
    values = (np.arange(runs.size) % 2).astype(bool)
    columns = np.repeat(values, np.diff(ends, prepend=x * height)).reshape(w, height)
    return np.ascontiguousarray(columns[:, y : y + h].T), x, y


def decode_window(rle: RLE, window_xyxy: tuple[int, int, int, int]) -> np.ndarray:
    """The mask inside a window x0, y0, x1, y1 (the end excluded) of its photo, (y1 - y0, x1 - x0) bool."""
    x0, y0, x1, y1 = window_xyxy
    part = np.zeros((y1 - y0, x1 - x0), dtype=bool)
    mask, x, y = decode_box(rle)
    left, top = max(x, x0), max(y, y0)
    right, bottom = min(x + mask.shape[1], x1), min(y + mask.shape[0], y1)
    if left < right and top < bottom:
        part[top - y0 : bottom - y0, left - x0 : right - x0] = mask[top - y : bottom - y, left - x : right - x]
    return part
