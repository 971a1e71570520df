"""Prompts as people write them, checked once and brought into the model's frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from anymask.core.errors import PromptError
from anymask.core.geometry import Frame, to_model_xy, to_model_xyxy
from anymask.core.types import PromptBatch

LABELS = (-1, 0, 1, 2, 3)  # padding, background, foreground, box top-left, box bottom-right


@dataclass(frozen=True)
class CheckedPrompts:
    """Prompts in the model frame as float32 arrays. batched: several prompts were given, or a leading axis."""

    batch: PromptBatch
    batched: bool


def check_prompts(
    frame: Frame,
    low_res_hw: tuple[int, int],
    point_coords: Any = None,
    point_labels: Any = None,
    box: Any = None,
    mask_input: Any = None,
    normalize_coords: bool = True,
) -> CheckedPrompts:
    """Points (N, 2) or (P, N, 2) with labels, boxes (4) or (P, 4), mask logits (1, 4h, 4w) or (P, 1, 4h, 4w).

    Pixels of the photo; with normalize_coords=False shares of its width and height (SAM 2's convention).
    Raises PromptError naming what was expected, what came, and for which prompt.
    """
    points = _points(point_coords, point_labels)
    boxes = _boxes(box)
    masks = _masks(mask_input, low_res_hw)
    counts = {
        name: len(value)
        for name, value in (
            ("point_coords", points[0] if points else None),
            ("box", boxes),
            ("mask_input", masks),
        )
        if value is not None
    }
    total = max(counts.values(), default=1)
    if any(n not in (1, total) for n in counts.values()):
        given = ", ".join(f"{name} for {n}" for name, n in counts.items())
        raise PromptError(f"all kinds of prompts must come for the same number of objects; got {given}.")
    if not normalize_coords:
        height, width = frame.original_hw
        points = (points[0] * (width, height), points[1]) if points else None
        boxes = boxes * (width, height, width, height) if boxes is not None else None
    if points:
        _check_points_inside(points[0], points[1], frame)
    if boxes is not None:
        _check_boxes(boxes, frame)
    batch = PromptBatch(
        _spread(to_model_xy(points[0], frame), total) if points else None,
        _spread(points[1], total) if points else None,
        _spread(to_model_xyxy(boxes, frame), total) if boxes is not None else None,
        _spread(masks, total) if masks is not None else None,
    )
    return CheckedPrompts(batch, total > 1)


def _spread(array: np.ndarray, count: int) -> np.ndarray:
    """One entry repeated for every prompt; float32."""
    return np.broadcast_to(array, (count, *array.shape[1:])).astype(np.float32)


def _array(value: Any, what: str) -> np.ndarray:
    if hasattr(value, "detach"):  # a torch tensor
        value = value.detach().cpu().numpy()
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise PromptError(f"{what} must be numbers, got {value!r:.80}.") from error
    if not np.isfinite(array).all():
        raise PromptError(f"{what} must be finite numbers, got NaN or infinity in {value!r:.80}.")
    return array


def _points(coords: Any, labels: Any) -> tuple[np.ndarray, np.ndarray] | None:
    if coords is None and labels is None:
        return None
    if coords is None or labels is None:
        have, lack = ("point_labels", "point_coords")[:: 1 if coords is None else -1]
        raise PromptError(f"{have} came without {lack}; points need both, one label for each point.")
    points, ids = _array(coords, "point_coords"), _array(labels, "point_labels")
    if points.size == 0 and ids.size == 0:
        return None
    if points.ndim == 2:
        points, ids = points[None], ids[None]
    if points.ndim != 3 or points.shape[-1] != 2:
        raise PromptError(
            f"point_coords must be (N, 2) or (P, N, 2) xy pixels, got shape {np.shape(coords)}."
        )
    if ids.shape != points.shape[:2]:
        raise PromptError(
            f"point_labels must be one for each point, shape {points.shape[:2]}, got {np.shape(labels)}."
        )
    if not np.isin(ids, LABELS).all():
        bad = sorted(set(ids[~np.isin(ids, LABELS)].tolist()))
        raise PromptError(f"point_labels must be 1 (foreground) or 0 (background), got {bad}.")
    return points, ids


def _boxes(box: Any) -> np.ndarray | None:
    if box is None:
        return None
    boxes = _array(box, "box")
    if boxes.size == 0:
        return None
    boxes = boxes[:, 0] if boxes.ndim == 3 and boxes.shape[1] == 1 else boxes
    boxes = boxes[None] if boxes.ndim == 1 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise PromptError(f"box must be (4,) or (P, 4) as x0, y0, x1, y1 pixels, got shape {np.shape(box)}.")
    return boxes


def _masks(mask_input: Any, low_res_hw: tuple[int, int]) -> np.ndarray | None:
    if mask_input is None:
        return None
    masks = _array(mask_input, "mask_input")
    masks = masks[None] if masks.ndim == 3 else masks
    h, w = low_res_hw
    if masks.ndim != 4 or masks.shape[1:] != (1, h, w):
        raise PromptError(
            f"mask_input must be low-resolution logits of shape (1, {h}, {w}) or (P, 1, {h}, {w}), got "
            f"{np.shape(mask_input)}. To use a binary mask of the photo, call predictor.mask_to_logits(mask)."
        )
    return masks


def _check_points_inside(points: np.ndarray, labels: np.ndarray, frame: Frame) -> None:
    height, width = frame.original_hw
    x, y = points[..., 0], points[..., 1]
    outside = ((x < 0) | (y < 0) | (x > width) | (y > height)) & (labels != -1)
    if outside.any():
        px, py = points[outside][0]
        raise PromptError(
            f"point ({px:g}, {py:g}) lies outside the photo, which is {width}×{height} pixels (W×H); "
            f"x must be in 0 … {width} and y in 0 … {height}."
        )


def _check_boxes(boxes: np.ndarray, frame: Frame) -> None:
    """A box may reach beyond the photo, as detectors' boxes do, but must have an area and meet the photo."""
    height, width = frame.original_hw
    for x0, y0, x1, y1 in boxes:
        where = f"box ({x0:g}, {y0:g}, {x1:g}, {y1:g})"
        if x1 <= x0 or y1 <= y0:
            raise PromptError(f"{where} is empty or turned round; expected x0 < x1 and y0 < y1 (XYXY, not XYWH).")
        if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
            raise PromptError(f"{where} lies outside the photo, which is {width}×{height} pixels (W×H).")
