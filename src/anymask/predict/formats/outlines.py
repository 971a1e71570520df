"""Masks as polygons along the edges of their pixels, and back without loss but for holes.

Pixel (x, y) covers x … x + 1, y … y + 1, as COCO's polygons mean it; pycocotools fills such an outline to exactly
the pixels it came from. Outlines through pixel centres would lose a row and a column.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from pycocotools import mask as coco

from anymask.core.errors import InputError
from anymask.core.rle import RLE
from anymask.predict.windows import decode_box


def to_outlines(rle: RLE) -> list[np.ndarray]:
    """Outer outlines (K, 2) int xy of a mask, one for each island (8-connected); holes are filled."""
    mask, x, y = decode_box(rle)
    if not mask.size:
        return []
    pixels = mask.view(np.uint8)
    # each pixel becomes 2×2: an outline through their centres tells a pixel's first edge (even) from its last (odd)
    doubled = np.ascontiguousarray(pixels.repeat(2, axis=0).repeat(2, axis=1))
    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outlines = []
    for contour in contours:
        edges = (contour.reshape(-1, 2).astype(np.int64) + 1) // 2 + (x, y)
        moved = (edges != np.roll(edges, 1, axis=0)).any(axis=1)
        outlines.append(edges[moved])
    return outlines


def of_outlines(outlines: Sequence[np.ndarray], hw: tuple[int, int]) -> RLE:
    """The mask that outlines (K, 2) xy enclose together."""
    polygons = [np.asarray(o, dtype=np.float64).reshape(-1) for o in outlines]
    for polygon in polygons:
        if polygon.size < 6 or not np.isfinite(polygon).all():
            raise InputError(f"a polygon needs 3 or more points, all of them numbers; got {polygon.size // 2}.")
    if not polygons:
        counts = coco.encode(np.zeros(hw, dtype=np.uint8, order="F"))["counts"]
    else:
        counts = coco.merge(coco.frPyObjects([p.tolist() for p in polygons], *hw))["counts"]
    return {"size": list(hw), "counts": counts.decode("ascii")}


def joined(outlines: Sequence[np.ndarray]) -> np.ndarray:
    """One outline (K, 2) of several: paths of no width lead along the pixels' edges to the next and back."""
    if len(outlines) == 1:
        return outlines[0]
    start = outlines[0][0]
    parts = [outlines[0], start[None]]
    for outline in outlines[1:]:
        corner = np.array([[outline[0][0], start[1]]])
        parts += [corner, outline, outline[:1], corner, start[None]]
    return np.concatenate(parts)
