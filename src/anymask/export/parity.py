"""Is an exported model the model? Tensors, masks and times of both on the same photos and prompts."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from anymask.core.errors import ExportError
from anymask.core.types import Embedding, MaskBatch, PromptBatch, Segmenter

LEAST_MASK_IOU = {"fp32": 0.999, "fp16": 0.98, "int8": 0.95}  # mean over prompts; below it nothing is written
LARGEST_ERROR = 1e-3  # of float32 tensors, as a share of the largest value


@dataclass(frozen=True)
class Parity:
    """Means over photos and prompts. Errors: largest difference as a share of the reference's largest value."""

    mask_iou: float
    worst_mask_iou: float
    embedding_error: float
    logit_error: float
    predicted_iou_error: float
    torch_encode_ms: float
    export_encode_ms: float
    torch_decode_ms: float
    export_decode_ms: float

    def __str__(self) -> str:
        return (
            f"mask IoU {self.mask_iou:.4f} (worst {self.worst_mask_iou:.4f}) · errors: embedding "
            f"{self.embedding_error:.1e}, logits {self.logit_error:.1e}, predicted IoU {self.predicted_iou_error:.1e}"
            f" · encode {self.export_encode_ms:.0f} ms (torch {self.torch_encode_ms:.0f}) · "
            f"decode {self.export_decode_ms:.0f} ms (torch {self.torch_decode_ms:.0f})"
        )


def compare(reference: Segmenter, exported: Segmenter, photos: Iterable[np.ndarray]) -> Parity:
    """Both models on every photo, with clicks, boxes, and clicks on top of an earlier mask."""
    ious: list[np.ndarray] = []
    errors: list[tuple[float, float, float]] = []
    times: list[tuple[float, float, float, float]] = []
    for photo in photos:
        ours, theirs = (_encoded(s, photo) for s in (reference, exported))
        embedding_error = _error(theirs[0].features, ours[0].features)
        spent = [0.0, 0.0]
        logit_error = iou_error = 0.0
        for prompts, multimask in _prompts(reference, ours[0]):
            a, b = _decoded(reference, ours[0], prompts, multimask), _decoded(exported, theirs[0], prompts, multimask)
            spent = [spent[0] + a[1], spent[1] + b[1]]
            logit_error = max(logit_error, _error(b[0].low_res, a[0].low_res))
            iou_error = max(iou_error, _error(b[0].predicted_iou, a[0].predicted_iou))
            ious.append(mask_ious(a[0], b[0], reference.mask_threshold, _valid_hw(reference, ours[0], a[0])))
        errors.append((embedding_error, logit_error, iou_error))
        times.append((ours[1], theirs[1], spent[0], spent[1]))
    if not ious:
        raise ExportError("an export is checked on photos, and there were none.")
    flat = np.concatenate(ious)
    worst, median = np.max(errors, axis=0).tolist(), np.median(times, axis=0).tolist()
    return Parity(float(flat.mean()), float(flat.min()), *worst, *median)


def require(parity: Parity, precision: str, what: str) -> None:
    """Raises ExportError with the numbers where an export is not the model."""
    least = LEAST_MASK_IOU[precision]
    error = max(parity.embedding_error, parity.logit_error)
    if parity.mask_iou >= least and (precision != "fp32" or error <= LARGEST_ERROR):
        return
    limit = f"mask IoU at least {least}" + (f" and errors up to {LARGEST_ERROR:.0e}" if precision == "fp32" else "")
    raise ExportError(
        f"{what} was not written, because it does not compute what the model does: {parity}. Expected {limit}. "
        + ("Calibrate on more, and more varied, photos." if precision == "int8" else "Please report this.")
    )


def mask_ious(reference: MaskBatch, other: MaskBatch, threshold: float, valid_hw: tuple[int, int]) -> np.ndarray:
    """(P,) IoU of the reference's best candidate with the same candidate of the other model, without the padding."""
    h, w = valid_hw
    best = _numpy(reference.predicted_iou).argmax(axis=1)
    at = np.arange(len(best)), best
    a, b = (_numpy(x.low_res)[at][:, :h, :w] > threshold for x in (reference, other))
    union = (a | b).sum(axis=(1, 2))
    return np.where(union == 0, 1.0, (a & b).sum(axis=(1, 2)) / np.maximum(union, 1))


def plain_photos() -> list[np.ndarray]:
    """Two pictures made on the spot, upright and wide, for exports that need no calibration."""
    rng = np.random.default_rng(7)
    photos = []
    for height, width in ((480, 640), (640, 400)):
        y, x = np.mgrid[:height, :width]
        photo = np.stack([120 + 60 * np.sin(x / 90), 110 + 50 * np.cos(y / 70), 90 + 0.1 * x], axis=-1)
        for _ in range(7):
            cx, cy, radius = rng.uniform(0.1, 0.9) * width, rng.uniform(0.1, 0.9) * height, rng.uniform(30, 110)
            photo[((x - cx) / 1.3) ** 2 + (y - cy) ** 2 < radius**2] = rng.uniform(0, 255, 3)
        photos.append((photo + rng.normal(0, 6, photo.shape)).clip(0, 255).astype(np.uint8))
    return photos


def _prompts(reference: Segmenter, embedding: Embedding) -> Iterable[tuple[PromptBatch, bool]]:
    """Nine clicks, four boxes, and two clicks a prompt on top of an earlier answer, in the model frame."""
    height, width = embedding.frame.input_hw
    grid = np.stack(np.meshgrid([0.2, 0.5, 0.8], [0.2, 0.5, 0.8]), axis=-1).reshape(-1, 2) * (width, height)
    clicks = PromptBatch(grid[:, None].astype(np.float32), np.ones((9, 1), np.float32))
    yield clicks, True
    corners = np.array([[0.1, 0.1], [0.4, 0.2], [0.2, 0.5], [0.5, 0.4]])
    boxes = np.concatenate([corners, corners + 0.35], axis=1) * (width, height, width, height)
    yield PromptBatch(boxes_xyxy=boxes.astype(np.float32)), False
    earlier = reference.decode(embedding, clicks, False).low_res[:4]
    two = np.stack([grid[:4], grid[5:]], axis=1).astype(np.float32)
    labels = np.tile(np.array([1, 0], np.float32), (4, 1))
    yield PromptBatch(two, labels, mask_logits=earlier), False


def _encoded(segmenter: Segmenter, photo: np.ndarray) -> tuple[Embedding, float]:
    started = time.perf_counter()
    embedding = segmenter.encode([photo])[0]
    return embedding, 1e3 * (time.perf_counter() - started)


def _decoded(
    segmenter: Segmenter, embedding: Embedding, prompts: PromptBatch, multimask: bool
) -> tuple[MaskBatch, float]:
    started = time.perf_counter()
    answer = segmenter.decode(embedding, prompts, multimask)
    return answer, 1e3 * (time.perf_counter() - started)


def _valid_hw(reference: Segmenter, embedding: Embedding, answer: MaskBatch) -> tuple[int, int]:
    """Rows and columns of a low-resolution plane that show the photo, not the padding."""
    height, width = embedding.frame.input_hw
    rows, cols = answer.low_res.shape[-2:]
    return -(-height * rows // reference.side), -(-width * cols // reference.side)


def _error(value: Any, reference: Any) -> float:
    value, reference = _numpy(value), _numpy(reference)
    if value.shape != reference.shape or not np.isfinite(value).all():
        return float("inf")
    return float(np.abs(value - reference).max() / max(np.abs(reference).max(), 1e-12))


def _numpy(value: Any) -> np.ndarray:
    return torch.as_tensor(value).detach().cpu().float().numpy()
