"""What the model does for the server, on plain values: read and encode, answer prompts, find everything."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from anymask.core.arrays import as_numpy
from anymask.core.geometry import Frame
from anymask.core.images import read_image
from anymask.core.masks import mask_to_logits
from anymask.core.rle import area, decode_one, to_bbox_xywh
from anymask.core.types import Embedding, MaskBatch, PromptBatch, Segmenter
from anymask.predict.candidates import CropMasks
from anymask.predict.cleanup import clean
from anymask.predict.crops import Crop
from anymask.predict.focus import Focus
from anymask.predict.grid import build_point_grid
from anymask.predict.options import AutomaticOptions
from anymask.predict.patches import PatchUpscaler, box_of, encode_patch
from anymask.predict.prompts import check_prompts
from anymask.server.schemas import Mask, Prompt, Rle
from anymask.server.sessions import Session, photo_id_of
from anymask.server.words import Words, to_picture

Decode = Callable[[Embedding, PromptBatch, bool], MaskBatch]


def encode(segmenter: Segmenter, encoded: bytes, max_pixels: int, with_picture: bool = False) -> Session:
    """A photo's file to its embedding and a small copy. Raises ImageError; for too many pixels before decoding."""
    image = read_image(encoded, max_pixels=max_pixels)
    started = time.perf_counter()
    embedding = segmenter.encode([image])[0]
    spent_ms = 1e3 * (time.perf_counter() - started)
    return Session(photo_id_of(encoded), segmenter, embedding, spent_ms, to_picture(image) if with_picture else b"")


def to_batch(prompt: Prompt, embedding: Embedding) -> PromptBatch:
    """One prompt of the wire, checked and in the model's frame. Raises PromptError."""
    low_res = low_res_hw(embedding)
    logits = None
    if prompt.mask is not None:
        height, width = embedding.frame.original_hw
        mask = decode_one(prompt.mask.model_dump(), max_pixels=height * width)
        logits = mask_to_logits(mask, embedding.frame, low_res)
    return check_prompts(
        embedding.frame, low_res, prompt.points or None, prompt.labels or None, prompt.box, logits
    ).batch


def batch_key(batch: PromptBatch, multimask: bool) -> tuple[Any, ...]:
    """Prompts with the same key give the same answer together as alone: nothing needs padding."""
    points = 0 if batch.points_xy is None else batch.points_xy.shape[1]
    return points, batch.boxes_xyxy is not None, batch.mask_logits is not None, multimask


def join(batches: list[PromptBatch]) -> PromptBatch:
    """Several prompts of one key as one batch."""

    def column(name: str) -> Any:
        parts = [getattr(batch, name) for batch in batches]
        return None if parts[0] is None else np.concatenate(parts)

    return PromptBatch(column("points_xy"), column("labels"), column("boxes_xyxy"), column("mask_logits"))


def decode_together(
    segmenter: Segmenter, embedding: Embedding, batches: list[PromptBatch], multimask: bool
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Low-resolution logits (M, 4h, 4w) and predicted IoU (M,) of each prompt, from one call."""
    answer = segmenter.decode(embedding, join(batches), multimask)
    return list(zip(as_numpy(answer.low_res), as_numpy(answer.predicted_iou)))


def to_masks(low_res: np.ndarray, predicted_iou: np.ndarray, frame: Frame, threshold: float) -> list[Mask]:
    """Candidates at the photo's size as run lengths, best first."""
    upscaler = PatchUpscaler(frame, (low_res.shape[1], low_res.shape[2]))
    masks = []
    for i in np.argsort(-predicted_iou, kind="stable"):
        patch = upscaler.above(low_res[i], threshold)
        inside = patch.values > threshold
        x0, y0, x1, y1 = box_of(inside)
        tight = inside[y0 : y1 + 1, x0 : x1 + 1]
        rle = encode_patch(tight, patch.top + y0, patch.left + x0, frame.original_hw)
        masks.append(
            Mask(segmentation=Rle(**rle), area=area(rle), bbox=to_bbox_xywh(rle), predicted_iou=float(predicted_iou[i]))
        )
    return masks


class Through:
    """A `Segmenter` whose decoding goes through someone else, here the lane; encoding is over already."""

    def __init__(self, segmenter: Segmenter, decode: Decode) -> None:
        self.side, self.mask_threshold = segmenter.side, segmenter.mask_threshold
        self._decode = decode

    def encode(self, images: list[Any]) -> list[Embedding]:
        """Never needed: the embedding is there."""
        raise AssertionError("the photo is encoded already")

    def decode(self, embedding: Embedding, prompts: PromptBatch, multimask: bool) -> MaskBatch:
        """As any segmenter."""
        return self._decode(embedding, prompts, multimask)


def everything(
    segmenter: Segmenter, embedding: Embedding, options: AutomaticOptions, on_points: Callable[[int, int], bool]
) -> list[dict[str, Any]]:
    """Masks of everything as records, best first. on_points: told of points done and in all; True stops the search."""
    hw = embedding.frame.original_hw
    points = build_point_grid(int(options.points_per_side or 1)) * np.array(hw[::-1])
    done = 0

    def should_stop(num_points: int) -> bool:
        nonlocal done
        done += num_points
        return on_points(done, len(points))

    masks = CropMasks(segmenter, embedding, Crop((0, 0, hw[1], hw[0]), 0), hw, options, Focus.of(hw, None, None, None))
    records = []
    for c in masks.find(points, should_stop):
        assert c.rle is not None
        cleaned = clean(c.rle, options.min_mask_region_area, False).rle if options.min_mask_region_area > 0 else c.rle
        records.append(
            {
                "segmentation": cleaned,
                "area": area(cleaned),
                "bbox": to_bbox_xywh(cleaned),
                "predicted_iou": c.predicted_iou,
                "stability_score": c.stability,
                "point_coords": [list(c.point_xy)],
            }
        )
    return records


def by_words(
    words: Words, picture: bytes, masks: list[dict[str, Any]], phrase: str, on_masks: Callable[[int, int], bool]
) -> list[dict[str, Any]]:
    """Masks with their similarity to a phrase, the most similar first. on_masks: as `on_points` of `everything`."""
    done = 0

    def should_stop(num_masks: int) -> bool:
        nonlocal done
        done += num_masks
        return on_masks(done, len(masks))

    found = words.similarities(picture, masks, phrase, should_stop)
    ranked = [{**mask, "text_similarity": round(similarity, 6)} for mask, similarity in zip(masks, found)]
    return sorted(ranked, key=lambda mask: -mask["text_similarity"])


def low_res_hw(embedding: Embedding) -> tuple[int, int]:
    """Size of the logits: four times the embedding's cells."""
    h, w = (int(n) for n in embedding.features.shape[-2:])
    return 4 * h, 4 * w
