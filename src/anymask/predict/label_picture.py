"""The photo with all its masks in colour, from a label map: as many masks as there are, in the memory of one."""

from __future__ import annotations

import numpy as np

from anymask.core.images import resize_image
from anymask.predict.hierarchy import label_map
from anymask.predict.records import PhotoMasks
from anymask.predict.render import colour_of

LONGEST_PX = 1600  # of the picture: enough to look at, small enough for thousands
_ALPHA = 0.5


def label_picture(image: np.ndarray, masks: PhotoMasks, longest_px: int = LONGEST_PX) -> np.ndarray:
    """A picture (h, w, 3) uint8 of a photo (H, W, 3) uint8: smaller masks over larger ones, with outlines."""
    height, width = image.shape[:2]
    labels = label_map([mask.to_official() for mask in masks.masks], masks.hw)
    scale = min(1.0, longest_px / max(height, width))
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    canvas = resize_image(image, (h, w)).astype(np.float32)
    rows, columns = (np.arange(h) * height) // h, (np.arange(w) * width) // w
    labels = labels[rows[:, None], columns]
    colours = np.array([(0, 0, 0), *(colour_of(i) for i in range(len(masks.masks)))], dtype=np.float32)
    inside = labels > 0
    canvas[inside] += (colours[labels[inside]] - canvas[inside]) * _ALPHA
    canvas[_edges(labels)] = 255
    return (canvas + 0.5).astype(np.uint8)


def _edges(labels: np.ndarray) -> np.ndarray:
    """Pixels (h, w) on the upper or left side of a border between labels."""
    edges = np.zeros(labels.shape, dtype=bool)
    edges[:-1] |= labels[:-1] != labels[1:]
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return edges
