"""Which masks of a model count as confident without a look: one scale for the official models, one for lite.

Stricter than the presets of `predict.options`, because nobody may ever look at these masks again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from anymask.predict.options import preset_for


@dataclass(frozen=True)
class Confidence:
    """min_iou: least predicted IoU. min_stability: least IoU between logits cut at ± offset."""

    min_iou: float
    min_stability: float
    offset: float


OFFICIAL = Confidence(0.88, 0.95, 1.0)  # the paper's for stage 3 (PAPER §4.4)
LITE = Confidence(0.7, 0.8, 0.25)  # it predicts lower IoUs and flatter logits


def confidence_for(segmenter: Any) -> Confidence:
    """The scale that suits a model."""
    return LITE if preset_for(segmenter) == "lite" else OFFICIAL
