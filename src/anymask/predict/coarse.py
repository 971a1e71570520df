"""A first look with a quarter of the cells: which points are worth the full decoder.

Neighbouring points of a grid find the same masks, and many find none. Both show already on an embedding of half the
cells a side, which costs a quarter. Points whose coarse masks pass the filters with a margin, and are among the best
of their kind, go on. The model must have been trained on several numbers of cells, as `lite` was.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

import numpy as np

from anymask.core.arrays import as_numpy
from anymask.core.geometry import to_model_xy
from anymask.core.types import Embedding, PromptBatch, Segmenter
from anymask.predict.filters import nms
from anymask.predict.options import AutomaticOptions
from anymask.predict.side_by_side import side_by_side

BLOCK = 16  # points decoded together
MARGIN_IOU, MARGIN_STABILITY = 0.05, 0.1  # below the options' thresholds that still go on
SAME_BOX_IOU = 0.8  # boxes of coarse masks that count as the same mask
PER_MASK = 3  # points that go on for the same mask


def coarser(segmenter: Segmenter, embedding: Embedding) -> Embedding | None:
    """The embedding with half the cells a side; None where the segmenter has no way to use it."""
    halve = getattr(segmenter, "coarser", None)
    return None if halve is None else halve(embedding)


def promising(
    segmenter: Segmenter,
    embedding: Embedding,
    points_xy: np.ndarray,
    options: AutomaticOptions,
    should_stop: Callable[[int], bool],
) -> np.ndarray:
    """Of points (N, 2) in the embedding's photo or crop those (K, 2) to decode in full, in their order.

    embedding: a coarse one. should_stop: called after each block with the number of its points.
    """
    boxes, scores, points = [], [], []
    starts = range(0, len(points_xy), BLOCK)
    looks = side_by_side(
        segmenter, lambda at: _look(segmenter, embedding, points_xy[at : at + BLOCK], options), starts
    )
    for start, (passed, box, score) in zip(starts, looks):
        boxes.append(box)
        scores.append(score)
        points.append(start + passed)
        if should_stop(min(BLOCK, len(points_xy) - start)):
            break
    if not points:
        return points_xy
    chosen = best_of_each(np.concatenate(boxes), np.concatenate(scores))
    return points_xy[np.unique(np.concatenate(points)[chosen])]


def best_of_each(boxes_xyxy: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Indices of the boxes (N, 4) that are among the PER_MASK best of those they overlap with."""
    left, chosen = np.arange(len(boxes_xyxy)), []
    for _ in range(PER_MASK):
        kept = nms(boxes_xyxy[left], scores[left], SAME_BOX_IOU)
        chosen.append(left[kept])
        left = np.delete(left, kept)
    return np.concatenate(chosen)


def _look(
    segmenter: Segmenter, embedding: Embedding, points_xy: np.ndarray, options: AutomaticOptions
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coarse masks of one block that pass: index of the point (K,), box (K, 4) in logits, predicted IoU (K,)."""
    xy = to_model_xy(points_xy, embedding.frame)[:, None].astype(np.float32)
    least = options.pred_iou_thresh - MARGIN_IOU if options.pred_iou_thresh > 0 else None
    prompts = PromptBatch(xy, np.ones((len(xy), 1), dtype=np.int64), min_iou=least, inside_only=True)
    answer = segmenter.decode(embedding, prompts, multimask=True)
    iou = as_numpy(answer.predicted_iou)
    passed = iou > (-np.inf if least is None else least)  # (P, M)
    side = answer.low_res.shape[-1]
    height, width = (ceil(pixels * side / segmenter.side) for pixels in embedding.frame.input_hw)
    logits = as_numpy(answer.low_res[..., :height, :width])[passed]  # (K, h, w)
    level, offset = segmenter.mask_threshold, options.stability_score_offset
    inner, outer = ((logits > level + d).sum(axis=(1, 2)) for d in (offset, -offset))
    stable = inner >= (options.stability_score_thresh - MARGIN_STABILITY) * np.maximum(outer, 1)
    inside = logits[stable] > level
    boxes = np.concatenate([_ends(inside.any(axis=1)), _ends(inside.any(axis=2))], axis=1)[:, [0, 2, 1, 3]]
    return np.nonzero(passed)[0][stable], boxes, iou[passed][stable]


def _ends(line: np.ndarray) -> np.ndarray:
    """First and one past the last true value of each row (K, n): (K, 2); 0, 0 for an empty row."""
    first, last = line.argmax(axis=1), line.shape[1] - line[:, ::-1].argmax(axis=1)
    return np.stack([first, last], axis=1) * line.any(axis=1, keepdims=True)

