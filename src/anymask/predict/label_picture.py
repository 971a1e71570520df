"""The photo with all its masks in colour, from a label map: as many masks as there are, in the memory of one."""

from __future__ import annotations

import numpy as np

from anymask.core.images import resize_image
from anymask.predict.records import PhotoMasks
from anymask.predict.render import colour_of
from anymask.predict.windows import decode_box

LONGEST_PX = 1600  # of the picture: enough to look at, small enough for thousands
_ALPHA = 0.5


def label_picture(image: np.ndarray, masks: PhotoMasks, longest_px: int = LONGEST_PX) -> np.ndarray:
    """A picture (h, w, 3) uint8 of a photo: smaller masks over larger ones, with outlines.

    image: the photo (H, W, 3) uint8, or a smaller version of it. Costs the masks' boxes and the result, not H×W.
    """
    height, width = image.shape[:2]
    scale = min(1.0, longest_px / max(height, width))
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    canvas = resize_image(image, (h, w)).astype(np.float32)
    labels = _small_label_map(masks, (h, w))
    colours = np.array([(0, 0, 0), *(colour_of(i) for i in range(len(masks.masks)))], dtype=np.float32)
    inside = labels > 0
    canvas[inside] += (colours[labels[inside]] - canvas[inside]) * _ALPHA
    canvas[_edges(labels)] = 255
    return (canvas + 0.5).astype(np.uint8)


def _small_label_map(masks: PhotoMasks, hw: tuple[int, int]) -> np.ndarray:
    """(h, w) int32, 0 where there is none, k + 1 where mask k is on top; sampled from the masks' own pixels."""
    labels = np.zeros(hw, dtype=np.int32)
    rows, columns = ((np.arange(n) * full) // n for n, full in zip(hw, masks.hw))
    for i in sorted(range(len(masks.masks)), key=lambda i: -masks.masks[i].num_px):
        mask, x, y = decode_box(masks.masks[i].rle)
        top, bottom = np.searchsorted(rows, [y, y + mask.shape[0]])
        left, right = np.searchsorted(columns, [x, x + mask.shape[1]])
        sampled = mask[rows[top:bottom, None] - y, columns[left:right] - x]
        labels[top:bottom, left:right][sampled] = i + 1
    return labels


def _edges(labels: np.ndarray) -> np.ndarray:
    """Pixels (h, w) on the upper or left side of a border between labels."""
    edges = np.zeros(labels.shape, dtype=bool)
    edges[:-1] |= labels[:-1] != labels[1:]
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return edges
