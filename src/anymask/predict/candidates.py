"""From points on one crop to candidate masks: decode, filter early, and keep run lengths only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from anymask.core.arrays import as_numpy
from anymask.core.geometry import Frame, to_model_xy
from anymask.core.rle import RLE
from anymask.core.types import Embedding, PromptBatch, Segmenter
from anymask.predict.coarse import coarser, promising
from anymask.predict.crops import Crop
from anymask.predict.filters import cut_off_by_crop, nms, stability
from anymask.predict.focus import Focus
from anymask.predict.options import AutomaticOptions
from anymask.predict.patches import PackedMask, Patch, PatchUpscaler, box_of
from anymask.predict.side_by_side import side_by_side

BLOCK = 16  # prompts whose low-resolution logits exist at once, in all threads; more is not faster (docs/log.md)
HELD_BYTES = 64 * 2**20  # kept before masks that NMS will remove anyway are let go


@dataclass(frozen=True)
class Candidate:
    """One mask of one point, in pixels of the photo.

    slot: which of the candidates of its point. packed: the mask until it is sure to stay, rle: from then on; neither
    where it was let go. low_res: only on request.
    """

    predicted_iou: float
    stability: float
    box_xyxy: tuple[int, int, int, int]
    num_px: int
    point_xy: tuple[float, float]  # of the photo
    crop_xy: tuple[float, float]  # the same point, of the crop
    slot: int
    crop: Crop
    packed: PackedMask | None
    rle: RLE | None = None
    low_res: np.ndarray | None = None


class CropMasks:
    """Candidate masks of one crop, from an embedding of it.

    Held at once: low-resolution logits of `block` prompts, one mask at the crop's size, and at most
    about HELD_BYTES of masks that NMS is still to thin out; never more than one picture at full size.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        embedding: Embedding,
        crop: Crop,
        image_hw: tuple[int, int],
        options: AutomaticOptions,
        focus: Focus,
    ) -> None:
        self._segmenter, self._embedding, self._crop, self._image_hw = segmenter, embedding, crop, image_hw
        self._options, self._focus = options, focus
        num_threads = getattr(segmenter, "num_threads", 1)
        self._block = min(max(1, BLOCK // num_threads), options.points_per_batch)
        self._upscaler: PatchUpscaler | None = None

    def find(
        self, points_xy: np.ndarray, should_stop: Callable[[int], bool], portion: int | None = None
    ) -> list[Candidate]:
        """Masks of points (N, 2) of the crop, thinned out by NMS, best predicted IoU first.

        should_stop: called after each block with the number of its points; True ends the search early. portion: a
        coarse first look goes no further ahead than this many points.
        """
        found: list[Candidate] = []
        limit = HELD_BYTES
        blocks = self._blocks(points_xy, should_stop, portion or len(points_xy))
        for candidates, num_points in side_by_side(self._segmenter, self._judge_block, blocks):
            found += candidates
            if sum(map(_num_bytes, found)) > limit:
                found = self._let_go(found)
                limit = 2 * max(HELD_BYTES, sum(map(_num_bytes, found)))
            if should_stop(num_points):
                break
        return self._complete(self._thin_out(found))

    def _blocks(
        self, points_xy: np.ndarray, should_stop: Callable[[int], bool], portion: int
    ) -> Iterator[tuple[np.ndarray, int]]:
        """Points to decode in full, block by block, each with how many of the points it is the first to try."""
        coarse = coarser(self._segmenter, self._embedding) if self._options.coarse_first else None
        for at in range(0, len(points_xy), portion):
            some = points_xy[at : at + portion]
            if coarse is not None:
                some = promising(self._segmenter, coarse, some, self._options, should_stop)
            for start in range(0, len(some), self._block):
                block = some[start : start + self._block]
                yield block, len(block) if coarse is None else 0

    def _thin_out(self, found: list[Candidate]) -> list[Candidate]:
        boxes = np.array([c.box_xyxy for c in found])
        scores = np.array([c.predicted_iou for c in found])
        return [found[i] for i in nms(boxes, scores, self._options.box_nms_thresh)]

    def _let_go(self, found: list[Candidate]) -> list[Candidate]:
        """Forget masks that NMS would remove now, and keep run lengths of the others.

        They stay candidates: what removes them may itself be removed by a better mask found later.
        """
        kept = {id(c) for c in self._thin_out(found)}
        return [replace(c, packed=None, rle=self._rle(c) if id(c) in kept else None) for c in found]

    def _rle(self, candidate: Candidate) -> RLE | None:
        return candidate.packed.encode(self._image_hw) if candidate.packed else candidate.rle

    def _complete(self, kept: list[Candidate]) -> list[Candidate]:
        """Run lengths of what stays. What was let go is decoded again, and logits if they are asked for."""
        keep_low_res = self._options.return_low_res
        kept = [replace(c, packed=None, rle=self._rle(c)) for c in kept]
        missing = [i for i, c in enumerate(kept) if c.rle is None or keep_low_res]
        for start in range(0, len(missing), self._block):
            some = missing[start : start + self._block]
            low_res, _ = self._decode(np.array([kept[i].crop_xy for i in some]))
            for row, i in enumerate(some):
                logits = _numpy(low_res[row, kept[i].slot])
                rle = kept[i].rle or self._mask(logits)
                kept[i] = replace(kept[i], rle=rle, low_res=logits.copy() if keep_low_res else None)
        return kept

    def _judge_block(self, block: tuple[np.ndarray, int]) -> tuple[list[Candidate], int]:
        """As `_blocks` gives it, with the candidates in place of the points."""
        return list(self._judge(block[0])), block[1]

    def _judge(self, points_xy: np.ndarray) -> Iterator[Candidate]:
        """Candidates of one block of points that pass every filter, in the order of the official code."""
        options = self._options
        low_res, iou = self._decode(points_xy, options.pred_iou_thresh or None)
        chosen = np.ones(iou.shape, dtype=bool)
        if options.pred_iou_thresh > 0:
            chosen &= iou > options.pred_iou_thresh
        if options.granularity != "all":
            chosen &= self._of_granularity(low_res)
        for p, slot in zip(*np.nonzero(chosen)):
            candidate = self._judge_one(_numpy(low_res[p, slot]), float(iou[p, slot]), points_xy[p], int(slot))
            if candidate is not None:
                yield candidate

    def _judge_one(self, logits: np.ndarray, iou: float, xy: np.ndarray, slot: int) -> Candidate | None:
        options, threshold = self._options, self._segmenter.mask_threshold
        patch = self._upscale(logits)
        score = stability(patch.values, threshold, options.stability_score_offset)
        if options.stability_score_thresh > 0 and not score >= options.stability_score_thresh:
            return None
        mask = patch.values > threshold
        left, top = self._crop.box_xyxy[:2]
        box = box_of(mask)
        num_px = int(np.count_nonzero(mask))
        dx, dy = (left + patch.left, top + patch.top) if num_px else (left, top)
        box_xyxy = (box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy)
        if cut_off_by_crop(np.array(box_xyxy), self._crop.box_xyxy, self._image_hw)[0] or self._too_large(num_px):
            return None
        packed = self._pack(mask, box, patch)
        if not self._focus.accepts(lambda: packed.encode(self._image_hw), box_xyxy):
            return None
        x, y = float(xy[0]), float(xy[1])
        return Candidate(iou, score, box_xyxy, num_px, (x + left, y + top), (x, y), slot, self._crop, packed)

    def _too_large(self, num_px: int) -> bool:
        area, share = self._options.max_mask_region_area, self._options.max_coverage
        pixels = self._image_hw[0] * self._image_hw[1]
        return (area is not None and num_px > area) or (share is not None and num_px >= share * pixels)

    def _mask(self, logits: np.ndarray) -> RLE:
        patch = self._upscale(logits)
        mask = patch.values > self._segmenter.mask_threshold
        return self._pack(mask, box_of(mask), patch).encode(self._image_hw)

    def _pack(self, mask: np.ndarray, box: tuple[int, int, int, int], patch: Patch) -> PackedMask:
        """The part in its box of the mask of a patch."""
        x0, y0, x1, y1 = box
        left, top = self._crop.box_xyxy[:2]
        return PackedMask.of(mask[y0 : y1 + 1, x0 : x1 + 1], top + patch.top + y0, left + patch.left + x0)

    def _upscale(self, logits: np.ndarray) -> Patch:
        if self._upscaler is None:
            frame: Frame = self._embedding.frame
            self._upscaler = PatchUpscaler(frame, (logits.shape[0], logits.shape[1]))
        return self._upscaler.above(logits, self._segmenter.mask_threshold - self._options.stability_score_offset)

    def _decode(self, points_xy: np.ndarray, min_iou: float | None = None) -> tuple[Any, np.ndarray]:
        """Low-resolution logits (P, M, 4h, 4w) as they come, and predicted IoU (P, M) float32.

        min_iou: see `PromptBatch`.
        """
        points = to_model_xy(points_xy, self._embedding.frame)[:, None].astype(np.float32)
        labels = np.ones((len(points), 1), dtype=np.int64)
        prompts = PromptBatch(points, labels, min_iou=min_iou, inside_only=not self._options.return_low_res)
        answer = self._segmenter.decode(self._embedding, prompts, multimask=True)
        return answer.low_res, _numpy(answer.predicted_iou)

    def _of_granularity(self, low_res: Any) -> np.ndarray:
        """(P, M) bool: the largest, middle or smallest candidate of each point."""
        inside = low_res > self._segmenter.mask_threshold
        areas = _numpy(inside.sum(-1).sum(-1))
        order = np.argsort(areas, axis=1, kind="stable")
        last = areas.shape[1] - 1
        place = {"subpart": 0, "part": (last + 1) // 2, "whole": last}[self._options.granularity]
        return np.arange(last + 1) == order[:, place : place + 1]


def _num_bytes(candidate: Candidate) -> int:
    if candidate.packed is not None:
        return int(candidate.packed.bits.nbytes)
    return len(candidate.rle["counts"]) if candidate.rle else 0


def _numpy(values: Any) -> np.ndarray:
    """A tensor or array as float32 in main memory, contiguous."""
    return np.ascontiguousarray(as_numpy(values), dtype=np.float32)
