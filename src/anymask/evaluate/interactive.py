"""The simulated annotator: clicks, one after the other, where the mask is still most wrong (PAPER §7.1).

All masks of a photo go through a round together, on one embedding. From the second click on, the logits of the round
before are fed back and the single-output mask is taken, as in training (§10.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from anymask.core.errors import InputError, OptionError
from anymask.core.geometry import to_model_xy
from anymask.core.masks import center_click
from anymask.core.types import Embedding, PromptBatch, Segmenter
from anymask.predict.patches import Patch
from anymask.predict.zoom import Look, Zoom

FIRST_CLICKS = ("center", "random")


@dataclass(frozen=True)
class ClickRounds:
    """IoU (0 … 1) of P masks with their truths. selected: (P, K) after click 1 … K; after the first, the candidate
    with the highest predicted IoU. oracle: (P,) the best of the three candidates after the first click.
    """

    selected: np.ndarray
    oracle: np.ndarray


def click_rounds(
    segmenter: Segmenter,
    embedding: Embedding,
    truth: np.ndarray,
    num_clicks: int,
    first: str = "center",
    seed: int = 0,
    feed_back: bool = True,
    zoom: Zoom | None = None,
) -> ClickRounds:
    """Click every mask of truth (P, H, W) bool, none of them empty, `num_clicks` times.

    first: "center", the pixel farthest from the boundary, or "random", any pixel of the mask, drawn from `seed`;
    later clicks are always the pixel farthest from the boundary of the region that is wrong. feed_back: hand the
    logits of the round before to the next one. zoom: looks closer at small things, on the same photo. A mask without
    an error gets no further click and keeps its IoU of 1. Raises InputError where the model's answer is not finite.
    """
    if num_clicks < 1:
        raise OptionError(f"the number of clicks must be 1 or more, got {num_clicks}.")
    points = first_clicks(truth, first, seed)[:, None].astype(np.float64)
    labels = np.ones(points.shape[:2], np.float32)
    selected = np.zeros((len(truth), num_clicks))
    oracle = np.zeros(len(truth))
    previous: np.ndarray | None = None
    for turn in range(num_clicks):
        in_frame = to_model_xy(points, embedding.frame).astype(np.float32)
        looks = _looks(segmenter, embedding, PromptBatch(in_frame, labels, None, previous), turn == 0, zoom)
        best = [int(look.predicted_iou.argmax()) for look in looks]
        coords, ids = np.zeros((len(truth), 1, 2)), np.full((len(truth), 1), -1, np.float32)
        for i, mask in enumerate(truth):
            if turn and selected[i, turn - 1] == 1:
                selected[i, turn] = 1
                continue
            patches = looks[i].patches(segmenter.mask_threshold)
            ious = [_patch_iou(patch, segmenter.mask_threshold, mask) for patch in patches]
            selected[i, turn] = ious[best[i]]
            if turn == 0:
                oracle[i] = max(ious)
            if turn + 1 < num_clicks and selected[i, turn] < 1:
                answered = _whole(patches[best[i]], segmenter.mask_threshold, mask.shape)
                coords[i, 0], ids[i, 0] = next_click(answered, mask)
        points, labels = np.concatenate([points, coords], axis=1), np.concatenate([labels, ids], axis=1)
        if feed_back and turn + 1 < num_clicks:
            hw = looks[0].low_res.shape[1:]
            hw = getattr(segmenter, "low_res_hw", hw)
            previous = np.stack([look.on(embedding.frame, hw)[k] for look, k in zip(looks, best)])[:, None]
    return ClickRounds(selected, oracle)


def candidate_ious(
    segmenter: Segmenter, embedding: Embedding, prompts: PromptBatch, truth: np.ndarray, zoom: Zoom | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """IoU (P, M) of the three candidates for each prompt with its truth (P, H, W) bool, and predicted IoU (P, M)."""
    level = segmenter.mask_threshold
    looks = _looks(segmenter, embedding, prompts, True, zoom)
    ious = [[_patch_iou(patch, level, mask) for patch in look.patches(level)] for look, mask in zip(looks, truth)]
    return np.array(ious).reshape(len(truth), -1), np.stack([look.predicted_iou for look in looks])


def _looks(
    segmenter: Segmenter, embedding: Embedding, prompts: PromptBatch, multimask: bool, zoom: Zoom | None
) -> list[Look]:
    """One answer for each prompt. Raises InputError where one is not finite."""
    if zoom is not None:
        looks = zoom.decode(prompts, multimask)
        for look in looks:
            _finite(look.low_res), _finite(look.predicted_iou)
        return looks
    answer = segmenter.decode(embedding, prompts, multimask)
    return [Look(a, b, embedding.frame) for a, b in zip(_finite(answer.low_res), _finite(answer.predicted_iou))]


def first_clicks(truth: np.ndarray, first: str, seed: int = 0) -> np.ndarray:
    """One foreground pixel (P, 2) xy of each mask (P, H, W)."""
    if first not in FIRST_CLICKS:
        raise OptionError(f"the first click is one of {', '.join(FIRST_CLICKS)}, got {first!r}.")
    if first == "center":
        return np.array([center_click(mask) for mask in truth]).reshape(-1, 2)
    rng = np.random.default_rng(seed)
    points = []
    for mask in truth:
        inside = np.flatnonzero(mask)
        y, x = divmod(int(inside[rng.integers(inside.size)]), mask.shape[1])
        points.append((x, y))
    return np.array(points).reshape(-1, 2)


def next_click(mask: np.ndarray, truth: np.ndarray) -> tuple[tuple[int, int], int]:
    """Where (x, y) an annotator corrects a mask (H, W) bool, and how: label 1 where it misses, 0 where it is too much.

    The pixel farthest from the boundary of what is missed, or of what is too much, whichever lies deeper; the image
    border is a boundary. Raises InputError where nothing is wrong.
    """
    rows, columns = np.flatnonzero((mask ^ truth).any(axis=1)), np.flatnonzero((mask ^ truth).any(axis=0))
    if not rows.size:
        raise InputError("the mask is the truth; there is nothing to correct.")
    part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    deepest = []
    for wrong in (truth[part] & ~mask[part], mask[part] & ~truth[part]):
        padded = np.pad(wrong.view(np.uint8), 1)
        distance = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_5)
        y, x = np.unravel_index(distance.argmax(), distance.shape)
        deepest.append((float(distance[y, x]), (int(x - 1 + columns[0]), int(y - 1 + rows[0]))))
    (missed, missed_xy), (extra, extra_xy) = deepest
    return (missed_xy, 1) if missed >= extra else (extra_xy, 0)


def clicks_to_reach(selected: np.ndarray, target: float) -> np.ndarray:
    """Number of clicks (P,) after which IoU (P, K) first reaches `target`; K where it never does."""
    reached = selected >= target
    return np.where(reached.any(axis=1), reached.argmax(axis=1) + 1, selected.shape[1])


def _patch_iou(patch: Patch, threshold: float, truth: np.ndarray) -> float:
    inside = patch.values > threshold
    height, width = inside.shape
    shared = np.count_nonzero(inside & truth[patch.top : patch.top + height, patch.left : patch.left + width])
    union = np.count_nonzero(inside) + np.count_nonzero(truth) - shared
    return shared / union if union else 1.0


def _whole(patch: Patch, threshold: float, hw: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(hw, bool)
    height, width = patch.values.shape
    mask[patch.top : patch.top + height, patch.left : patch.left + width] = patch.values > threshold
    return mask


def _finite(values: Any) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().cpu().float().numpy()
    array = np.asarray(values, np.float32)
    if not np.isfinite(array).all():
        raise InputError("the model answered with NaN or infinity; the weights or the precision are not usable.")
    return array
