"""A mask cut out of its photo, for models that look at pictures."""

from __future__ import annotations

import numpy as np

from anymask.core.masks import mask_boxes


def cut_out(image: np.ndarray, mask: np.ndarray, enlarge: float = 1.2, keep_outside: float = 0.0) -> np.ndarray:
    """A square picture of a mask (H, W) bool of a photo (H, W, 3) uint8: its box, `enlarge` times as wide and high.

    Outside the mask the photo is mixed with middle gray, `keep_outside` (0 … 1) of it stays; beyond the photo all
    is gray. An empty mask gives a gray pixel.
    """
    x0, y0, x1, y1 = (int(v) for v in mask_boxes(mask[None])[0])
    side = max(1, round(max(x1 - x0 + 1, y1 - y0 + 1) * enlarge))
    left, top = (x0 + x1 + 1 - side) // 2, (y0 + y1 + 1 - side) // 2
    picture = np.full((side, side, 3), 127, np.uint8)
    rows = slice(max(0, top), min(image.shape[0], top + side))
    columns = slice(max(0, left), min(image.shape[1], left + side))
    share = np.where(mask[rows, columns], 1.0, keep_outside)[..., None]
    part = image[rows, columns] * share + 127 * (1 - share)
    picture[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = part.astype(np.uint8)
    return picture
