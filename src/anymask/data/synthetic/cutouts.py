"""Segments of real photos as pieces, with the smaller segments inside them as parts."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from pycocotools import mask as coco

from anymask.core.errors import ImageError, InputError
from anymask.core.images import read_image
from anymask.core.rle import area, decode_one, to_bbox_xywh, to_compressed
from anymask.data.readers.photo import Photo
from anymask.data.synthetic.pieces import Piece, crop, nested_sets

INSIDE = 0.95  # share of a segment that must lie in another to be its part
MIN_AREA_PX, MIN_PART_PX, MAX_PARTS = 400, 60, 24
SHARES = (0.004, 0.5)  # of the photo, that a segment to cut out may cover


class Cutouts:
    """Segments that may be cut out: not tiny, not most of the photo, not cut off by its border."""

    def __init__(self, photos: Sequence[Photo]) -> None:
        self._photos = list(photos)
        self._segments = [(i, j) for i, photo in enumerate(self._photos) for j in _usable(photo)]
        if not self._segments:
            raise InputError(
                f"none of {len(self._photos)} photos has a segment to cut out: at least {MIN_AREA_PX} px, "
                f"{SHARES[0]:.1%} to {SHARES[1]:.0%} of the photo, and not touching its border."
            )

    def __len__(self) -> int:
        return len(self._segments)

    def piece(self, index: int) -> Piece | None:
        """Segment `index` with the segments inside it; None where its photo cannot be read."""
        at, segment = self._segments[index]
        photo = self._photos[at]
        try:
            image = read_image(photo.encoded)
        except ImageError:
            return None
        if image.shape[:2] != photo.hw:
            return None
        x, y, w, h = to_bbox_xywh(photo.rles[segment])
        box = np.s_[y : y + h, x : x + w]
        # a pixel less on each side: the outermost show the old background
        whole = cv2.erode(decode_one(photo.rles[segment])[box].astype(np.uint8), np.ones((3, 3), np.uint8))
        inside = [decode_one(photo.rles[j])[box] & (whole > 0) for j in _inside(photo, segment)]
        leaves, parts = partition(whole > 0, inside)
        alpha = cv2.GaussianBlur(whole * 255, (0, 0), 0.7)
        rgba = np.dstack([image[box], np.where(whole > 0, np.maximum(alpha, 128), 0).astype(np.uint8)])
        label = photo.labels[segment] if segment < len(photo.labels) else None
        return crop(label or "segment", rgba, leaves, parts)


def partition(whole: np.ndarray, inside: Sequence[np.ndarray]) -> tuple[np.ndarray, tuple[frozenset[int], ...]]:
    """Leaves (h, w) uint8 and nested parts of a mask (h, w) bool and masks within it that may overlap a little.

    Larger masks first; a later one is clipped into the smallest it lies in, loses what it shares with those
    beside it, and is left out where it is neither inside nor beside.
    """
    leaves = whole.astype(np.uint8)
    kept = [whole]
    around: list[int | None] = [None]
    for mask in sorted(inside, key=lambda m: -int(m.sum())):
        home = 0
        for k, other in enumerate(kept[1:], start=1):
            share = float((mask & other).sum()) / max(1, int(mask.sum()))
            if share >= INSIDE:
                home, mask = k, mask & other
            elif share <= 1 - INSIDE:
                mask = mask & ~other
            else:
                home = -1
                break
        if home < 0 or int(mask.sum()) < MIN_PART_PX:
            continue
        kept.append(mask)
        around.append(home)
        leaves[mask] = len(kept)
    sets = [{k + 1} for k in range(len(kept))]
    for k in range(len(kept) - 1, 0, -1):
        home_of = around[k]
        if home_of is not None:
            sets[home_of] |= sets[k]
    counts = dict(enumerate(np.bincount(leaves.ravel()).tolist()))
    return leaves, nested_sets(map(frozenset, sets), counts)


def _usable(photo: Photo) -> list[int]:
    total = photo.hw[0] * photo.hw[1]
    found = []
    for j, rle in enumerate(photo.rles):
        if not max(MIN_AREA_PX, SHARES[0] * total) <= area(rle) <= SHARES[1] * total:
            continue
        x, y, w, h = to_bbox_xywh(rle)
        if x > 0 and y > 0 and x + w < photo.hw[1] and y + h < photo.hw[0]:
            found.append(j)
    return found


def _inside(photo: Photo, segment: int) -> list[int]:
    """Segments that lie in this one, found from run lengths."""
    rles = [_packed(photo, j) for j in range(len(photo.rles))]
    areas = np.array([coco.area(rle) for rle in rles])
    share = coco.iou(rles, [rles[segment]], [1])[:, 0]  # 1: of the first, not of the union
    found = np.flatnonzero((share >= INSIDE) & (areas < areas[segment]) & (areas >= MIN_PART_PX))
    return [int(j) for j in found if j != segment][:MAX_PARTS]


def _packed(photo: Photo, j: int) -> dict[str, object]:
    rle = to_compressed(photo.rles[j])
    return {**rle, "counts": rle["counts"].encode("ascii")}
