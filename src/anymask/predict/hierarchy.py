"""How masks of one photo lie in and over each other: parents, and a label map without overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco

from anymask.core.errors import OptionError, unknown_name
from anymask.core.rle import RLE, decode_one, encode_one, to_compressed

CONTAINED = 0.9  # share of a mask that must lie inside another for the other to be its parent


def parents(rles: Sequence[RLE], contained: float = CONTAINED) -> list[int | None]:
    """For each mask the index of the smallest larger one that contains it, None where there is none.

    A mask is contained where at least this share of its pixels lies inside. Of two equally large masks the
    earlier counts as the larger, so there are no circles. An empty mask has no parent and is none.
    """
    if not 0 < contained <= 1:
        raise OptionError(f"contained is a share, above 0 and up to 1, got {contained}.")
    if not rles:
        return []
    checked = [to_compressed(rle) for rle in rles]
    areas = np.array([int(coco.area(rle)) for rle in checked])
    rank = np.lexsort((np.arange(len(checked)), -areas))  # largest first
    place = np.empty_like(rank)
    place[rank] = np.arange(len(rank))
    found: list[int | None] = []
    for i, rle in enumerate(checked):
        larger = rank[: place[i]]
        if not areas[i] or not larger.size:
            found.append(None)
            continue
        share = coco.iou([rle], [checked[j] for j in larger], [1] * len(larger))[0]  # 1: share of the first
        containing = np.flatnonzero(share >= contained)
        found.append(int(larger[containing[-1]]) if containing.size else None)
    return found


def label_map(records: Sequence[dict[str, Any]], image_hw: tuple[int, int], by: str = "area") -> np.ndarray:
    """Masks without overlap: (H, W) int32, 0 where there is none, k + 1 where record k is on top.

    by: "area" lays smaller masks over larger ones, so parts stay visible; "predicted_iou" better over worse.
    """
    if by == "area":
        bottom_up = sorted(range(len(records)), key=lambda i: -records[i]["area"])
    elif by == "predicted_iou":
        bottom_up = sorted(range(len(records)), key=lambda i: records[i]["predicted_iou"])
    else:
        raise unknown_name("order", by, ["area", "predicted_iou"])
    labels = np.zeros(image_hw, dtype=np.int32)
    for i in bottom_up:
        labels[as_mask(records[i]["segmentation"])] = i + 1
    return labels


def as_mask(segmentation: Any) -> np.ndarray:
    """The `segmentation` of a record in any output mode as a mask (H, W) bool."""
    return segmentation if isinstance(segmentation, np.ndarray) else decode_one(segmentation)


def as_rle(segmentation: Any) -> RLE:
    """The `segmentation` of a record in any output mode as compressed RLE."""
    return encode_one(segmentation) if isinstance(segmentation, np.ndarray) else to_compressed(segmentation)
