"""The words of the package as types, and the one narrow waist between models and everything that uses them.

Shape legend, used everywhere: B images, P prompts, N points of a prompt, M masks of a prompt (3 or 1), C channels,
H W pixels of the photo, S side of the model's square, h w cells of the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from anymask.core.geometry import Frame


@dataclass(frozen=True)
class Embedding:
    """What the image encoder made of one photo; complete, so it can be stored and used by another process.

    features: (1, C, h, w) array or tensor. frame: the photo's geometry. model: fingerprint of the model it is for.
    """

    features: Any
    frame: Frame
    model: str = ""


@dataclass(frozen=True)
class PromptBatch:
    """P prompts on one photo, in the model frame; tensors or arrays, None where a kind is absent.

    points_xy: (P, N, 2). labels: (P, N), -1 padding, 0 background, 1 foreground. boxes_xyxy: (P, 4).
    mask_logits: (P, 1, 4h, 4w). min_iou: of prompts with no predicted IoU above it the logits are not wanted; a
    segmenter may leave them zero. inside_only: logits of the padding beside the photo are not wanted; a segmenter may
    give any number far below the threshold for them.
    """

    points_xy: Any = None
    labels: Any = None
    boxes_xyxy: Any = None
    mask_logits: Any = None
    min_iou: float | None = None
    inside_only: bool = False


@dataclass(frozen=True)
class MaskBatch:
    """Answers to P prompts. low_res: logits (P, M, 4h, 4w). predicted_iou: (P, M)."""

    low_res: Any
    predicted_iou: Any


class Segmenter(Protocol):
    """Anything that can encode a photo and answer prompts: torch, ONNX Runtime, OpenVINO."""

    side: int
    mask_threshold: float

    def encode(self, images: list[Any]) -> list[Embedding]:
        """Photos (H, W, 3) uint8 RGB to embeddings, in one batch."""
        ...

    def decode(self, embedding: Embedding, prompts: PromptBatch, multimask: bool) -> MaskBatch:
        """Masks for prompts on one embedding: three candidates each, or one."""
        ...
