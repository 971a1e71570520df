"""Mask metrics on arrays."""

from __future__ import annotations

import numpy as np


def iou_of_candidates(candidates: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """IoU of masks (P, M, H, W) bool with their truths (P, H, W) bool: (P, M) float64; 0 where both are empty."""
    overlap = (candidates & truth[:, None]).sum(axis=(-2, -1), dtype=np.int64)
    areas = candidates.sum(axis=(-2, -1), dtype=np.int64)
    union = areas + truth.sum(axis=(-2, -1), dtype=np.int64)[:, None] - overlap
    return overlap / np.maximum(union, 1)
