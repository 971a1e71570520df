"""Predicted IoU of `lite`: the head's estimate and the mask's own stability, in equal parts.

A small model's head knows little about which of three candidates is meant; how firm their outlines are tells as much
again. The line was fitted on masks of training photos (docs/log.md). No model of the paper does this.
"""

from __future__ import annotations

from torch import Tensor

SHIFT, SLOPE = 0.112, 0.441  # IoU ≈ SHIFT + SLOPE · (head + stability), 759 training masks after one click
OFFSET = 1.0  # logits beside the threshold, as in the filter of automatic masks (PAPER §4.4)


def rated(logits: Tensor, head: Tensor) -> Tensor:
    """Predicted IoU (P, M) of masks with logits (P, M, h, w) and the head's estimate (P, M)."""
    inner, outer = ((logits > at).float().sum(dim=(-2, -1)) for at in (OFFSET, -OFFSET))
    return SHIFT + SLOPE * (head + inner / outer.clamp(min=1))


def least_head(predicted_iou: float) -> float:
    """The head's least estimate that can lead to this predicted IoU."""
    return (predicted_iou - SHIFT) / SLOPE - 1
