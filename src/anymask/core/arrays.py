"""Tensors and arrays as arrays, without importing torch."""

from __future__ import annotations

from typing import Any

import numpy as np


def as_numpy(values: Any) -> np.ndarray:
    """A tensor, on any device and of any floating type, or an array, as an array in main memory.

    A tensor's values become float32.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu().float().numpy()
    return np.asarray(values)
