"""The simulated annotator's hand: clicks where the mask is most wrong, then a brush; and the time it would take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from anymask.core.errors import InputError
from anymask.core.geometry import to_model_xy, to_model_xyxy
from anymask.core.masks import mask_iou
from anymask.core.types import Embedding, PromptBatch
from anymask.evaluate.interactive import first_clicks, next_click
from anymask.predict.filters import stability
from anymask.predict.patches import Patch, PatchUpscaler
from anymask.predict.segmenter import TorchSegmenter

STABILITY_OFFSET = 1.0  # as the official generator's


@dataclass(frozen=True)
class Hand:
    """How the simulated annotator works. Times are in a person's seconds.

    satisfied_iou: no further click once the mask is this good; a prefilled one is accepted. max_clicks: then the rest
    is done by brush. worth_iou: a prefilled mask that agrees less with its object is removed, not corrected.
    start_s: finding the object and the first click; a box by extreme points takes 7 s (PAPER §4.2: 14 s a mask is
    twice that). click_s: each further click (the paper gives none). by_hand_s: a mask without a model, 6.5 × 14 s in
    the paper; the brush takes the part of it that the clicks left wrong. move_on_s: after a mask that took longer, go
    to the next photo; the paper's hint is 30 s, but at 34 s a mask in the beginning people cannot have kept to it.
    Those 34 s are 5 clicks that reach an IoU of 0.77, the 14 s later 5 clicks that reach 0.99.
    look_s: judging a prefilled mask, with the click that accepts or removes it (the paper gives none).
    """

    satisfied_iou: float = 0.9
    max_clicks: int = 5
    start_s: float = 7.0
    click_s: float = 1.5
    by_hand_s: float = 91.0
    move_on_s: float = 60.0
    look_s: float = 2.0
    worth_iou: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.satisfied_iou <= 1 or not 0 < self.worth_iou <= 1 or self.max_clicks < 1:
            raise InputError("satisfied_iou and worth_iou lie in 0 … 1, and max_clicks is 1 or more.")

    def seconds(self, num_clicks: int, brushed: float, *, prefilled: bool = False) -> float:
        """Time for a mask. brushed: the part, 0 … 1, that was drawn by hand. prefilled: it was there, and corrected."""
        begun = self.look_s + self.click_s if prefilled else self.start_s
        return begun + self.click_s * (num_clicks - 1) + self.by_hand_s * brushed


@dataclass(frozen=True)
class DrawnMask:
    """mask: (H, W) bool as the annotator leaves it. model_iou: of the model's last answer with the truth.

    points_xy, labels: the clicks in pixels of the photo. brushed: whether the mask is the truth, drawn by brush.
    """

    mask: np.ndarray
    points_xy: tuple[tuple[int, int], ...]
    labels: tuple[int, ...]
    model_iou: float
    predicted_iou: float
    stability_score: float
    brushed: bool
    seconds: float

    def prompts(self) -> dict[str, Any]:
        """As the store keeps them."""
        clicks = {"points_xy": [list(p) for p in self.points_xy], "labels": list(self.labels)}
        return {**clicks, "brushed": self.brushed, "model_iou": round(self.model_iou, 4)}


def draw_masks(
    segmenter: TorchSegmenter, embedding: Embedding, truth: np.ndarray, hand: Hand, boxes_xyxy: np.ndarray | None = None
) -> list[DrawnMask]:
    """Draw the objects truth (P, H, W) bool, none of them empty; all of them click together on one embedding.

    The first click is the centre, later ones the middle of the error region; logits are fed back and one mask is taken,
    as in training. boxes_xyxy (P, 4), pixels of the photo: correct what the model makes of these boxes instead, as
    prefilled masks were made.
    """
    drawn: dict[int, DrawnMask] = {}
    going = np.arange(len(truth))
    is_new = boxes_xyxy is None
    points = first_clicks(truth, "center")[:, None].astype(np.float64) if is_new else np.zeros((len(truth), 0, 2))
    labels = np.ones(points.shape[:2], np.float32)
    boxes = None if is_new else to_model_xyxy(boxes_xyxy, embedding.frame).astype(np.float32)
    previous: np.ndarray | None = None
    while going.size:
        num_clicks = points.shape[1]
        coords = to_model_xy(points, embedding.frame).astype(np.float32) if num_clicks else None
        prompts = PromptBatch(coords, labels if num_clicks else None, boxes, previous)
        answer = segmenter.decode(embedding, prompts, previous is None)
        low_res, predicted = answer.low_res.float().cpu().numpy(), answer.predicted_iou.float().cpu().numpy()
        best = predicted.argmax(axis=1)
        upscaler = PatchUpscaler(embedding.frame, (low_res.shape[-2], low_res.shape[-1]))
        stay, clicks, ids = [], [], []
        for row, (at, slot) in enumerate(zip(going, best)):
            level = segmenter.mask_threshold
            patch = upscaler.above(np.ascontiguousarray(low_res[row, slot]), level - STABILITY_OFFSET)
            mask, target = _whole(patch, level, truth.shape[1:]), truth[at]
            iou = mask_iou(mask, target)
            if iou >= hand.satisfied_iou or num_clicks == hand.max_clicks:
                brushed = iou < hand.satisfied_iou
                drawn[int(at)] = DrawnMask(
                    target if brushed else mask,
                    tuple((int(x), int(y)) for x, y in points[row]),
                    tuple(int(label) for label in labels[row]),
                    iou,
                    float(predicted[row, slot]),
                    float(np.nan_to_num(stability(patch.values, level, STABILITY_OFFSET))),
                    brushed,
                    hand.seconds(num_clicks, 1 - iou if brushed else 0.0, prefilled=not is_new),
                )
                continue
            xy, label = next_click(mask, target)
            stay.append(row)
            clicks.append(xy)
            ids.append(label)
        if stay:
            points = np.concatenate([points[stay], np.array(clicks, np.float64)[:, None]], axis=1)
            labels = np.concatenate([labels[stay], np.array(ids, np.float32)[:, None]], axis=1)
            boxes = None if boxes is None else boxes[stay]
            previous = low_res[stay, best[stay]][:, None]
        going = going[stay]
    return [drawn[i] for i in range(len(truth))]


def _whole(patch: Patch, threshold: float, hw: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(hw, bool)
    height, width = patch.values.shape
    mask[patch.top : patch.top + height, patch.left : patch.left + width] = patch.values > threshold
    return mask
