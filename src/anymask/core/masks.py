"""Binary masks (H, W): small regions, boxes, the centre click, a mask as a prompt."""

from __future__ import annotations

import cv2
import numpy as np

from anymask.core.errors import InputError, OptionError, PromptError
from anymask.core.geometry import Frame


def remove_small_regions(mask: np.ndarray, area_px: float, mode: str) -> tuple[np.ndarray, bool]:
    """A mask (H, W) bool without regions under `area_px` pixels, and whether anything changed (PAPER §4.4).

    mode "holes" fills background regions, "islands" removes foreground ones, keeping the largest if all are
    small. Regions touch over corners too (8-connectivity). Same results as segment_anything's function of
    this name; an unchanged mask is returned as it is.
    """
    if mode not in ("holes", "islands"):
        raise OptionError(f"mode must be 'holes' or 'islands', got {mode!r}.")
    mask = _as_mask(mask)
    islands = mode == "islands"
    regions, areas = _regions(mask if islands else ~mask)
    is_small = areas < area_px
    is_small[0] = False  # label 0 is everything that is not a region
    if not is_small.any():
        return mask, False
    if islands and is_small[1:].all():
        is_small[1 + areas[1:].argmax()] = False
    kept = ~is_small
    kept[0] = False
    return (kept[regions] if islands else ~kept[regions]), True


def fill_holes_and_sprinkles(
    masks: np.ndarray, max_hole_area: float = 0.0, max_sprinkle_area: float = 0.0
) -> np.ndarray:
    """Masks (M, H, W) bool with holes and islands *up to* these areas in px turned over; 0: leave them.

    The meaning of SAM 2's options of these names: both are found in the mask as it came, and a mask that
    consists of sprinkles only becomes empty.
    """
    masks = _as_masks(masks).copy()
    for mask in masks:
        holes = _up_to(~mask, max_hole_area)
        sprinkles = _up_to(mask, max_sprinkle_area)
        mask |= holes
        mask &= ~sprinkles
    return masks


def mask_boxes(masks: np.ndarray) -> np.ndarray:
    """Tight boxes (N, 4) int64 x0, y0, x1, y1 of masks (N, H, W) bool; x1, y1 *are* the last pixels.

    segment_anything's convention. COCO's boxes (`rle.to_bbox_xywh`) are one wider. An empty mask gives 0, 0,
    0, 0.
    """
    masks = _as_masks(masks)
    height, width = masks.shape[1:]
    if masks.size == 0:
        return np.zeros((len(masks), 4), dtype=np.int64)
    columns = np.asarray(masks.any(axis=1))
    rows = np.asarray(masks.any(axis=2))
    x0, y0 = columns.argmax(axis=1), rows.argmax(axis=1)
    x1 = width - 1 - columns[:, ::-1].argmax(axis=1)
    y1 = height - 1 - rows[:, ::-1].argmax(axis=1)
    boxes = np.stack([x0, y0, x1, y1], axis=1).astype(np.int64)
    boxes[~columns.any(axis=1)] = 0
    return boxes


def center_click(mask: np.ndarray) -> tuple[int, int]:
    """The pixel (x, y) of a mask (H, W) bool farthest from its boundary (PAPER §7.1); the first of equals.

    The image border counts as boundary, so an object that is cut off is clicked well inside.
    """
    mask = _as_mask(mask)
    if not mask.any():
        raise PromptError("an empty mask has no centre to click. Leave it out.")
    x0, y0, x1, y1 = mask_boxes(mask[None])[0]
    inside = np.pad(mask[y0 : y1 + 1, x0 : x1 + 1], 1).astype(np.uint8)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    y, x = np.unravel_index(distance.argmax(), distance.shape)
    return int(x - 1 + x0), int(y - 1 + y0)


def mask_to_logits(
    mask: np.ndarray, frame: Frame, low_res_hw: tuple[int, int] = (256, 256), strength: float = 10.0
) -> np.ndarray:
    """A mask (H, W) bool of the photo as a mask prompt: logits (1, h, w) float32 on the model's square.

    Each cell of the square gets strength · (2 · coverage - 1), where coverage is the part of its area that
    the mask covers; padding is -strength. Linear in the coverage, not its log-odds, because cells are
    upsampled linearly
    later: so the zero line runs within a tenth of a cell of the mask's edge. `strength` 10 is about where the
    model's own logits lie inside and outside clear objects.
    """
    mask = _as_mask(mask)
    if mask.shape != frame.original_hw:
        raise PromptError(
            f"the mask must have the photo's size {frame.original_hw} (H, W), got {mask.shape}. "
            "Resize it, or take it from the same photo."
        )
    coverage = mask
    for axis in (0, 1):
        # edges of the cells, in original pixels along this axis; beyond the photo there is nothing to cover
        edges = np.arange(low_res_hw[axis] + 1) * (frame.side / low_res_hw[axis])
        edges = edges * (frame.original_hw[axis] / frame.input_hw[axis])
        coverage = area_average(coverage, edges, axis)
    return (strength * (2 * coverage.clip(0, 1) - 1)).astype(np.float32)[None]


def mask_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two masks (H, W) bool, 0 … 1; 1 where both are empty."""
    a, b = _as_mask(a), _as_mask(b)
    if a.shape != b.shape:
        raise InputError(f"masks must have the same size (H, W), got {a.shape} and {b.shape}.")
    union = int(np.count_nonzero(a | b))
    return int(np.count_nonzero(a & b)) / union if union else 1.0


def area_average(values: np.ndarray, edges: np.ndarray, axis: int) -> np.ndarray:
    """Mean of `values`, pixels [i, i + 1) along `axis`, between neighbouring edges; zero beyond the photo."""
    length = values.shape[axis]
    total = np.zeros([n + (i == axis) for i, n in enumerate(values.shape)], dtype=np.float32)
    np.cumsum(values, axis=axis, out=total[1:] if axis == 0 else total[:, 1:])
    inside = edges.clip(0, length)
    below = np.minimum(inside.astype(int), length - 1)
    part = (inside - below).reshape(-1, *[1] * (values.ndim - 1 - axis))
    at_edges = total.take(below, axis) * (1 - part) + total.take(below + 1, axis) * part
    return np.diff(at_edges, axis=axis) / (edges[1] - edges[0])


def _up_to(mask: np.ndarray, limit: float) -> np.ndarray:
    """Pixels (H, W) of the regions of a mask that have at most `limit` pixels."""
    if limit <= 0:
        return np.zeros_like(mask)
    regions, areas = _regions(mask)
    is_small = areas <= limit
    is_small[0] = False
    return is_small[regions]


def _regions(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels (H, W) of the 8-connected regions of a mask, 0 outside, and areas (K,) by label."""
    pixels = np.ascontiguousarray(mask).view(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(pixels, connectivity=8)
    return labels, stats[:, cv2.CC_STAT_AREA]


def _as_mask(mask: np.ndarray) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype != bool or mask.size == 0:
        raise InputError(
            f"expected a mask (H, W) bool, got shape {mask.shape} {mask.dtype}. Pass one, as mask > 0."
        )
    return mask


def _as_masks(masks: np.ndarray) -> np.ndarray:
    masks = np.asarray(masks)
    if masks.ndim != 3 or masks.dtype != bool:
        raise InputError(
            f"expected masks (N, H, W) bool, got shape {masks.shape} {masks.dtype}. Pass masks > threshold."
        )
    return masks


def pairwise_iou(masks: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU (M, N) in 0 … 1 of every pair of bool masks (M, H, W) and (N, H, W); 0 where both are empty."""
    a, b = (m.reshape(len(m), m.shape[1] * m.shape[2]).astype(np.float32) for m in (masks, others))
    overlap = a @ b.T
    return np.asarray(overlap / np.maximum(a.sum(axis=1)[:, None] + b.sum(axis=1) - overlap, 1))
