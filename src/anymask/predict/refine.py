"""Automatic masks of small things, drawn again from crops around them (`predict.zoom`).

Not in the paper, whose generator zooms in by regular crops and asks all points again there. This looks closer at what
was found already: one encoding a mask, no new point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
from pycocotools import mask as coco

from anymask.core.arrays import as_numpy
from anymask.core.geometry import Frame, to_model_xy
from anymask.core.types import Embedding, PromptBatch, Segmenter
from anymask.predict.candidates import Candidate
from anymask.predict.filters import stability
from anymask.predict.options import AutomaticOptions
from anymask.predict.patches import PatchUpscaler, box_of, encode_patch
from anymask.predict.zoom import GUESS_MARGIN, Window, crop_segmenter, window_around

LEAST_IOU = 0.5  # with what was found: below, the closer look shows something else
AT_ONCE = 4  # crops encoded together


def refine(
    segmenter: Segmenter,
    photo: np.ndarray,
    found: list[Candidate],
    options: AutomaticOptions,
    is_over: Callable[[], bool] = lambda: False,
) -> list[Candidate]:
    """The same masks in the same order, sharper where a crop shows more than the photo did.

    A closer look takes the place of a mask with which its IoU is 0.5 or more; its predicted IoU and stability are the
    new ones. is_over: True ends it early.
    """
    closer, result = crop_segmenter(segmenter), list(found)
    jobs = iter(_jobs(photo.shape[:2], found, segmenter, closer))
    while some := list(islice(jobs, AT_ONCE)):
        if is_over():
            break
        crops = [np.ascontiguousarray(photo[y0:y1, x0:x1]) for _, (x0, y0, x1, y1) in some]
        for (at, window), embedding in zip(some, closer.encode(crops)):
            result[at] = _look(closer, embedding, window, found[at], options, (photo.shape[0], photo.shape[1]))
    return result


def _jobs(
    hw: tuple[int, ...], found: list[Candidate], segmenter: Segmenter, closer: Segmenter
) -> Iterator[tuple[int, Window]]:
    """Masks, by number, and where to look for them."""
    for at, candidate in enumerate(found):
        seen = Frame.of(candidate.crop.hw, segmenter.side)  # how it was seen
        photo = Frame((hw[0], hw[1]), seen.input_hw, seen.side) if candidate.crop.layer == 0 else None
        if photo is None:
            continue  # from a zoomed-in crop already
        window = window_around(np.array(candidate.box_xyxy, np.float64), photo, closer.side, GUESS_MARGIN)
        if window is not None:
            yield at, window


def _look(
    closer: Segmenter, embedding: Embedding, window: Window, old: Candidate, options: AutomaticOptions,
    hw: tuple[int, int],
) -> Candidate:  # fmt: skip
    """The candidate of a closer look that is most like `old`, or `old` itself."""
    left, top = window[:2]
    point = np.array([[[old.point_xy[0] - left, old.point_xy[1] - top]]])
    prompts = PromptBatch(to_model_xy(point, embedding.frame).astype(np.float32), np.ones((1, 1), np.int64))
    answer = closer.decode(embedding, prompts, True)
    low_res, predicted = as_numpy(answer.low_res)[0], as_numpy(answer.predicted_iou)[0]
    upscaler = PatchUpscaler(embedding.frame, (low_res.shape[1], low_res.shape[2]))
    level, best, best_iou = closer.mask_threshold, old, LEAST_IOU
    assert old.rle is not None
    for slot, logits in enumerate(low_res):
        patch = upscaler.above(np.ascontiguousarray(logits), level - options.stability_score_offset)
        mask = patch.values > level
        if not mask.any():
            continue
        x0, y0, x1, y1 = box_of(mask)
        y, x = top + patch.top, left + patch.left
        rle = encode_patch(np.ascontiguousarray(mask[y0 : y1 + 1, x0 : x1 + 1]), y + y0, x + x0, hw)
        iou = float(coco.iou([rle], [old.rle], [0])[0, 0])
        if iou < best_iou:
            continue
        score = stability(patch.values, level, options.stability_score_offset)
        if options.stability_score_thresh > 0 and not score >= options.stability_score_thresh:
            continue
        best_iou, best = iou, replace(
            old, rle=rle, box_xyxy=(x0 + x, y0 + y, x1 + x, y1 + y), num_px=int(np.count_nonzero(mask)),
            predicted_iou=float(predicted[slot]), stability=float(score), slot=slot,
        )  # fmt: skip
    return best
