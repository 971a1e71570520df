"""Predicted IoU of `lite`: the head's estimate and the mask's own stability, in equal parts.

A small model's head knows little about which of three candidates is meant; how firm their outlines are tells as much
again. The line was fitted on masks of training photos (docs/log.md). No model of the paper does this.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from anymask.model.layers import runs_eagerly_on_cpu

SHIFT, SLOPE = 0.112, 0.441  # IoU ≈ SHIFT + SLOPE · (head + stability), 759 training masks after one click
OFFSET = 1.0  # logits beside the threshold, as in the filter of automatic masks (PAPER §4.4)


def rated(logits: Tensor, head: Tensor) -> Tensor:
    """Predicted IoU (…) of masks with logits (…, h, w) and the head's estimate (…)."""
    inner, outer = (_count_above(logits, at) for at in (OFFSET, -OFFSET))
    return SHIFT + SLOPE * (head + inner / outer.clamp(min=1))


def _count_above(logits: Tensor, level: float) -> Tensor:
    """Pixels of each mask (…, h, w) above a level, (…) float32."""
    if not runs_eagerly_on_cpu(logits):
        return (logits > level).float().sum(dim=(-2, -1))
    masks = logits.float().numpy().reshape(-1, *logits.shape[-2:])
    counts = [np.count_nonzero(mask > level) for mask in masks]
    return torch.tensor(counts, dtype=torch.float32).view(logits.shape[:-2])  # in a thirtieth of the time


def least_head(predicted_iou: float) -> float:
    """The head's least estimate that can lead to this predicted IoU."""
    return (predicted_iou - SHIFT) / SLOPE - 1
