"""Tensors and arrays as arrays, without importing torch."""

from __future__ import annotations

from typing import Any

import numpy as np


def as_numpy(values: Any) -> np.ndarray:
    """A tensor, on any device and of any floating type, or an array: float32 in main memory."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().float().numpy()
    return np.asarray(values, np.float32)
