"""Masks of a photo ranked by a phrase: each is cut out, padded, embedded and compared (PAPER §7.6)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anymask.core.masks import mask_boxes
from anymask.text.embedders import TextEmbedder


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


def similarities(embedder: TextEmbedder, image: np.ndarray, masks: np.ndarray, phrases: Sequence[str]) -> np.ndarray:
    """(phrases, masks) float32: how well each mask (M, H, W) bool of a photo fits each phrase, -1 … 1.

    The mean of the mask alone and of the mask in its faded surroundings, which say much about what a thing is.
    """
    words = embedder.texts(phrases)
    if not len(masks):
        return np.zeros((len(phrases), 0), np.float32)
    alone = embedder.pictures([cut_out(image, mask) for mask in masks])
    around = embedder.pictures([cut_out(image, mask, 1.5, 0.5) for mask in masks])
    return np.asarray(words @ ((alone + around) / 2).T, np.float32)


def rank(embedder: TextEmbedder, image: np.ndarray, masks: np.ndarray, phrase: str) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the masks (M, H, W), best first, and their similarities in that order."""
    similarity = similarities(embedder, image, masks, [phrase])[0]
    order = np.argsort(-similarity, kind="stable")
    return order, similarity[order]
