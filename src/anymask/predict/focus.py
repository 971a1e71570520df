"""Masks of only a part of the photo: inside a region, or near some points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco

from anymask.core.errors import PromptError
from anymask.core.rle import RLE
from anymask.predict.crops import Crop
from anymask.predict.patches import encode_patch

INSIDE = 0.5  # share of a mask that must lie in the region


@dataclass(frozen=True)
class Focus:
    """What is asked for; `region` as (H, W) bool and as RLE, points (N, 2) xy with a radius, in photo
    pixels."""

    region: np.ndarray | None = None
    region_rle: RLE | None = None
    near_xy: np.ndarray | None = None
    near_px: float = 0.0

    @classmethod
    def of(cls, image_hw: tuple[int, int], region: Any, near_points: Any, near_px: float | None) -> Focus:
        """Checked and turned into one form.

        region: a box x0, y0, x1, y1 or a mask (H, W) bool. near_points: (N, 2) xy. near_px: radius around
        them, default an eighth of the photo's longer side.
        """
        mask, rle, points = None, None, None
        if region is not None:
            mask = _region_mask(region, image_hw)
            rle = encode_patch(mask, 0, 0, image_hw)
        if near_points is not None:
            points = np.asarray(near_points, dtype=np.float64).reshape(-1, 2)
            limit = (image_hw[1], image_hw[0])
            if not len(points) or not ((points >= 0) & (points <= limit)).all():
                raise PromptError(
                    f"near_points must be (N, 2) xy inside the photo of {limit[0]}×{limit[1]} pixels (W×H)."
                )
        radius = max(image_hw) / 8 if near_px is None else float(near_px)
        if not radius >= 0:
            raise PromptError(f"near_px must be a radius of 0 or more pixels, got {near_px}.")
        return cls(mask, rle, points, radius)

    def points(self, crop: Crop, grid_xy: np.ndarray) -> np.ndarray:
        """Of a crop's points (N, 2) those worth trying; on the whole photo also the points asked for
        themselves."""
        x0, y0, x1, y1 = crop.box_xyxy
        points = grid_xy
        if self.near_xy is not None:
            own = self.near_xy - (x0, y0)
            distance = np.linalg.norm(points[:, None] - own[None], axis=-1)
            points = points[(distance <= self.near_px).any(axis=1)]
            if crop.layer == 0:
                points = np.concatenate([own, points])
        if self.region is not None:
            at = (points + (x0, y0)).astype(np.int64)
            last = np.array(self.region.shape[::-1]) - 1
            at = at.clip(0, last)
            points = points[self.region[at[:, 1], at[:, 0]]]
        return points

    def accepts(self, encode: Callable[[], RLE], box_xyxy: tuple[int, int, int, int]) -> bool:
        """Does at least half of the mask lie in the region, and its box near a point? encode: gives its run lengths."""
        if self.near_xy is not None:
            low, high = np.array(box_xyxy[:2]), np.array(box_xyxy[2:])
            outside = np.maximum(np.maximum(low - self.near_xy, self.near_xy - high), 0)
            if not (np.linalg.norm(outside, axis=1) <= self.near_px).any():
                return False
        if self.region_rle is not None:
            return bool(coco.iou([encode()], [self.region_rle], [1])[0, 0] >= INSIDE)  # 1: share of the mask
        return True


def _region_mask(region: Any, image_hw: tuple[int, int]) -> np.ndarray:
    array = np.asarray(region)
    if array.shape == image_hw and array.dtype == bool:
        mask = array
    elif array.shape == (4,) and array.dtype.kind in "iuf":
        x0, y0, x1, y1 = (int(v) for v in np.round(array.clip(0)))
        mask = np.zeros(image_hw, dtype=bool)
        mask[y0:y1, x0:x1] = True
    else:
        raise PromptError(
            f"region must be a box x0, y0, x1, y1 or a mask {image_hw} (H, W) bool, got shape {array.shape} "
            f"{array.dtype}."
        )
    if not mask.any():
        raise PromptError("the region holds no pixel of the photo.")
    return mask
