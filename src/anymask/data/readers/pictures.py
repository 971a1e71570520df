"""Masks that are stored as pictures: indexed by value, by colour, or black and white."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from anymask.data.readers.photo import DataError

MAX_MASKS = 4096  # more values than this is a photo, not masks
_EDGE_PX = 5  # values between black and white in a band narrower than this are a softened edge, not objects


def read_label_map(path: Path) -> np.ndarray:
    """Labels (H, W) int32 of a mask picture, 0 where there is none.

    Palette and 8- or 16-bit gray: the values. Colours: one label for each colour, black is none. One bit, or
    soft edges between black and white: 0 and 1. Raises DataError naming the file.
    """
    try:
        with Image.open(path) as image:
            values = np.asarray(image)
            mode = image.mode
    except FileNotFoundError:
        raise DataError("missing file", path, "the mask picture is not there.") from None
    except Exception as error:  # decoders of foreign data raise anything
        raise DataError("broken record", path, f"no readable mask picture: {error}") from error
    if mode in ("LA", "RGBA", "PA"):
        values = values[..., :-1] if values.shape[-1] > 2 else values[..., 0]
    if values.ndim == 3:
        packed = values.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
        gray = bool((values == values[..., :1]).all())
        values = values[..., 0] if gray else packed
        mode = "L" if gray else mode
    values = values.astype(np.int32)
    if mode == "L" and _has_soft_edges(values):
        return (values > 127).astype(np.int32)
    kinds = np.unique(values)
    if len(kinds) > MAX_MASKS:
        raise DataError(
            "broken record",
            path,
            f"{len(kinds)} different values; expected a mask with one value or colour per object.",
        )
    return values


def _has_soft_edges(values: np.ndarray) -> bool:
    """Whether 8-bit values are one white mask with a smoothed edge: nothing between black and white is wide."""
    between = ((values > 0) & (values < 255)).astype(np.uint8)
    square = np.ones((_EDGE_PX, _EDGE_PX), np.uint8)
    if len(np.unique(values)) <= _EDGE_PX or cv2.erode(between, square).any():
        return False
    return bool(cv2.erode((values == 255).astype(np.uint8), square).any())


def is_black_and_white(labels: np.ndarray) -> bool:
    """Whether a label map holds one mask: nothing but 0 and one other value."""
    return len(np.unique(labels[labels != 0])) <= 1
