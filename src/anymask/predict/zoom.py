"""Zoom: a prompt on something small is answered again on a crop around it, where more pixels fall to it.

The photo's own embedding says where to look: a box says it itself, a mask that is fed back too, clicks by the middle
one of their three first answers. The crop is encoded, the prompt moves into it, and the answer comes back to the
photo. Zero-shot transfer of the paper uses one look at the photo; automatic masks zoom in by crops (PAPER §4.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from anymask.core.arrays import as_numpy
from anymask.core.geometry import Frame, to_model_xy, to_model_xyxy, to_original_xy, to_original_xyxy
from anymask.core.types import Embedding, PromptBatch, Segmenter
from anymask.predict.patches import Patch, PatchUpscaler

OUTSIDE = -32.0  # logits beyond a crop
BOX_MARGIN = 1.3  # side of the crop, in longer sides of what is looked at: a box is known,
GUESS_MARGIN = 1.5  # a first answer is not (docs/log.md)
MIN_CROP_PX = 48

Window = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels of the photo, the last two exclusive


@dataclass(frozen=True)
class Look:
    """The answer to one prompt, as seen on `frame`, which lies at (left, top) of the photo.

    low_res: logits (M, 4h, 4w). predicted_iou: (M,).
    """

    low_res: np.ndarray
    predicted_iou: np.ndarray
    frame: Frame
    left: int = 0
    top: int = 0

    def patches(self, level: float) -> list[Patch]:
        """Each candidate's logits at the photo's size, in a rectangle outside of which none exceeds `level`."""
        upscaler = _upscaler(self.frame, (self.low_res.shape[1], self.low_res.shape[2]))
        found = [upscaler.above(np.ascontiguousarray(logits), level) for logits in self.low_res]
        return [Patch(p.values, p.top + self.top, p.left + self.left) for p in found]

    def on(self, photo: Frame, low_res_hw: tuple[int, int]) -> np.ndarray:
        """The logits (M, 4h, 4w) on the photo's own frame, to be fed back; far below zero beyond the crop."""
        if (self.frame, self.left, self.top) == (photo, 0, 0):
            return self.low_res
        own = _Cells(self.frame, self.low_res.shape[1:], self.left, self.top)
        moved = [_resample(logits, own, _Cells(photo, low_res_hw)) for logits in self.low_res]
        return np.stack(moved)


_upscaler = lru_cache(maxsize=8)(PatchUpscaler)


@dataclass(frozen=True)
class _Cells:
    """Where the cells of low-resolution logits lie in the photo: pixel = place + (cell + ½) · step."""

    frame: Frame
    hw: tuple[int, ...]
    left: int = 0
    top: int = 0

    @property
    def step_xy(self) -> tuple[float, float]:
        (scale_x, scale_y), side = self.frame.scale_xy, self.frame.side
        return side / self.hw[1] / scale_x, side / self.hw[0] / scale_y


def _resample(logits: np.ndarray, source: _Cells, target: _Cells) -> np.ndarray:
    """Logits of one field on the cells of another; linear between cells, far below zero beyond them."""
    values = np.pad(logits.astype(np.float32), 1, constant_values=OUTSIDE)
    for axis, (place, begin) in enumerate(((target.top, source.top), (target.left, source.left))):
        step, own = target.step_xy[1 - axis], source.step_xy[1 - axis]
        position = (place - begin + (np.arange(target.hw[axis]) + 0.5) * step) / own + 0.5  # one more for the rim
        position = position.clip(0, values.shape[axis] - 1)
        low = np.minimum(position.astype(np.int64), values.shape[axis] - 2)
        part = np.expand_dims((position - low).astype(np.float32), 1 - axis)
        below, above = values.take(low, axis), values.take(low + 1, axis)
        values = below + (above - below) * part
    return values


class Zoom:
    """Answers prompts on one photo, on crops of it where that shows more.

    segmenter: of the photo's embedding. photo: (H, W, 3) uint8.
    """

    def __init__(self, segmenter: Segmenter, photo: np.ndarray, embedding: Embedding) -> None:
        self._segmenter, self._photo, self._embedding = segmenter, photo, embedding
        self._crops = crop_segmenter(segmenter)

    def decode(self, prompts: PromptBatch, multimask: bool) -> list[Look]:
        """One look for each of the P prompts, which are in the frame of the photo's embedding."""
        kinds = [v for v in (prompts.points_xy, prompts.boxes_xyxy, prompts.mask_logits) if v is not None]
        if not kinds:
            return self._first(prompts, multimask)  # nothing to look closer at
        count = len(kinds[0])
        each = [_rows(prompts, [i]) for i in range(count)]
        first: list[Look | None] = [None] * count
        if prompts.boxes_xyxy is None and prompts.mask_logits is None:
            first = list(self._first(prompts, True))  # also for one mask: three places to choose from
        windows = [self._window(prompt, look) for prompt, look in zip(each, first)]
        at = [i for i, window in enumerate(windows) if window is not None]
        crops = [self._photo[y0:y1, x0:x1] for x0, y0, x1, y1 in (w for w in windows if w is not None)]
        looks: dict[int, Look] = {}
        for i, embedding in zip(at, self._encode(crops)):
            window = windows[i]
            assert window is not None
            moved = self._moved(each[i], window, embedding.frame)
            answer = self._crops.decode(embedding, moved, multimask)
            looks[i] = Look(
                as_numpy(answer.low_res)[0], as_numpy(answer.predicted_iou)[0], embedding.frame, window[0], window[1]
            )
        rest = [i for i in range(count) if i not in looks]
        if rest:
            looks |= dict(zip(rest, self._first(_rows(prompts, rest), multimask)))
        return [looks[i] for i in range(count)]

    def _first(self, prompts: PromptBatch, multimask: bool) -> list[Look]:
        answer = self._segmenter.decode(self._embedding, prompts, multimask)
        frame = self._embedding.frame
        return [Look(a, b, frame) for a, b in zip(as_numpy(answer.low_res), as_numpy(answer.predicted_iou))]

    def _encode(self, crops: Sequence[np.ndarray]) -> list[Embedding]:
        if not crops:
            return []
        return self._crops.encode([np.ascontiguousarray(crop) for crop in crops])

    def _window(self, prompt: PromptBatch, look: Look | None) -> Window | None:
        """Where to look for a prompt; None where a crop would show no more than the photo."""
        frame = self._embedding.frame
        if prompt.boxes_xyxy is not None:
            box, margin = to_original_xyxy(as_numpy(prompt.boxes_xyxy)[0], frame), BOX_MARGIN
        else:
            logits = as_numpy(prompt.mask_logits)[0] if look is None else look.low_res
            boxes = [b for mask in logits if (b := _box(mask > self._segmenter.mask_threshold, frame)) is not None]
            if not boxes:
                return None
            boxes.sort(key=lambda b: (b[2] - b[0]) * (b[3] - b[1]))
            box, margin = boxes[len(boxes) // 2], GUESS_MARGIN
        if prompt.points_xy is not None:
            points = to_original_xy(as_numpy(prompt.points_xy)[0], frame)[as_numpy(prompt.labels)[0] == 1]
            box = np.concatenate([np.minimum(box[:2], points.min(0, initial=np.inf)),
                                  np.maximum(box[2:], points.max(0, initial=-np.inf))])  # fmt: skip
        return window_around(box, frame, self._crops.side, margin)

    def _moved(self, prompt: PromptBatch, window: Window, frame: Frame) -> PromptBatch:
        """The prompt in the frame of the crop; background clicks beyond it say nothing there."""
        own, place = self._embedding.frame, np.array(window[:2], np.float64)
        points = labels = boxes = masks = None
        if prompt.points_xy is not None:
            xy = to_original_xy(as_numpy(prompt.points_xy)[0].astype(np.float64), own) - place
            size = np.array([window[2] - window[0], window[3] - window[1]])
            inside = ((xy >= 0) & (xy <= size)).all(axis=1)
            points = to_model_xy(xy, frame).astype(np.float32)[None]
            labels = np.where(inside, as_numpy(prompt.labels)[0], -1).astype(np.float32)[None]
        if prompt.boxes_xyxy is not None:
            box = to_original_xyxy(as_numpy(prompt.boxes_xyxy)[0].astype(np.float64), own) - np.tile(place, 2)
            boxes = to_model_xyxy(box, frame).astype(np.float32)[None]
        if prompt.mask_logits is not None:
            logits = as_numpy(prompt.mask_logits)[0, 0]
            hw = self._crops.low_res_hw if hasattr(self._crops, "low_res_hw") else logits.shape
            masks = to_window(logits, own, window, frame, hw)[None, None]
        return PromptBatch(points, labels, boxes, masks)


def crop_segmenter(segmenter: Segmenter) -> Segmenter:
    """What looks at crops: the segmenter's own way to do it (`for_crops`), else the segmenter itself."""
    made: Segmenter = getattr(segmenter, "for_crops", lambda: segmenter)()
    return made


def window_around(box_xyxy: np.ndarray, frame: Frame, crop_side: int, margin: float) -> Window | None:
    """A square of the photo around a box, `margin` times its longer side; None where it is no closer look.

    crop_side: side in pixels that crops are encoded at. The box is kept whole as far as the photo reaches.
    """
    height, width = frame.original_hw
    x0, y0 = np.maximum(np.floor(box_xyxy[:2]), 0)
    x1, y1 = np.minimum(np.ceil(box_xyxy[2:]) + 1, (width, height))
    length = max(MIN_CROP_PX, margin * max(x1 - x0, y1 - y0))
    if crop_side / length <= max(frame.scale_xy):
        return None
    left = min(max(0.0, (x0 + x1 - length) / 2), max(0.0, width - length))
    top = min(max(0.0, (y0 + y1 - length) / 2), max(0.0, height - length))
    return (
        int(min(left, x0)), int(min(top, y0)), int(min(width, max(left + length, x1))),
        int(min(height, max(top + length, y1))),
    )  # fmt: skip


def to_window(logits: np.ndarray, photo: Frame, window: Window, crop: Frame, hw: tuple[int, int]) -> np.ndarray:
    """Logits (4h, 4w) on the photo's frame as logits of this size on the frame of a crop."""
    return _resample(logits, _Cells(photo, logits.shape), _Cells(crop, hw, *window[:2]))


def _box(mask: np.ndarray, frame: Frame) -> np.ndarray | None:
    """Box in pixels of the photo of a mask (4h, 4w) on its frame; None where it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    step_x, step_y = _Cells(frame, mask.shape).step_xy
    edges = columns[0] * step_x, rows[0] * step_y, (columns[-1] + 1) * step_x - 1, (rows[-1] + 1) * step_y - 1
    height, width = frame.original_hw
    box = np.minimum(edges, (width - 1, height - 1, width - 1, height - 1))
    return box if box[0] <= box[2] and box[1] <= box[3] else None


def _rows(prompts: PromptBatch, rows: list[int]) -> PromptBatch:
    """Only these prompts."""
    kinds = prompts.points_xy, prompts.labels, prompts.boxes_xyxy, prompts.mask_logits
    points, labels, boxes, masks = (None if kind is None else kind[rows] for kind in kinds)
    return PromptBatch(points, labels, boxes, masks)
