"""Low-resolution logits to the photo's size: bilinear to S×S, crop the padding, bilinear to H×W.

Two steps, as the official model does them; a single step would move edges. On the CPU OpenCV's resize does the same
arithmetic 3 to 5 times faster than torch's (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from anymask.model.layers import runs_eagerly_on_cpu


def upscale_logits(
    low_res: Tensor, side: int, input_hw: tuple[int, int], original_hw: tuple[int, int]
) -> Tensor:
    """Logits (P, M, 4h, 4w) to logits (P, M, H, W) float32."""
    if runs_eagerly_on_cpu(low_res):
        return _with_opencv(low_res, side, input_hw, original_hw)
    x = F.interpolate(low_res.float(), (side, side), mode="bilinear", align_corners=False)
    x = x[..., : input_hw[0], : input_hw[1]]
    if input_hw == original_hw:
        return x
    return F.interpolate(x, original_hw, mode="bilinear", align_corners=False)


def upscale_masks(
    low_res: Tensor, side: int, input_hw: tuple[int, int], original_hw: tuple[int, int], threshold: float
) -> Tensor:
    """Logits (P, M, 4h, 4w) to masks (P, M, H, W) bool, `upscale_logits(…) > threshold`.

    On the CPU one mask's logits exist at a time.
    """
    if not runs_eagerly_on_cpu(low_res):
        return upscale_logits(low_res, side, input_hw, original_hw) > threshold
    p, m = low_res.shape[:2]
    out = np.empty((p * m, *original_hw), bool)
    for mask, logits in zip(out, _each_with_opencv(low_res, side, input_hw, original_hw), strict=True):
        np.greater(logits, threshold, out=mask)
    return torch.from_numpy(out.reshape(p, m, *original_hw))


def _with_opencv(
    low_res: Tensor, side: int, input_hw: tuple[int, int], original_hw: tuple[int, int]
) -> Tensor:
    p, m = low_res.shape[:2]
    out = np.empty((p * m, *original_hw), np.float32)
    for kept, logits in zip(out, _each_with_opencv(low_res, side, input_hw, original_hw), strict=True):
        kept[:] = logits
    return torch.from_numpy(out.reshape(p, m, *original_hw))


def _each_with_opencv(
    low_res: Tensor, side: int, input_hw: tuple[int, int], original_hw: tuple[int, int]
) -> Iterator[np.ndarray]:
    """Logits (H, W) of one mask after the other, in a buffer that the next one reuses."""
    square = np.empty((side, side), np.float32)
    buffer = np.empty(original_hw, np.float32)
    for small in low_res.float().flatten(0, 1).numpy():
        cv2.resize(small, (side, side), dst=square, interpolation=cv2.INTER_LINEAR)
        x = square[: input_hw[0], : input_hw[1]]
        if input_hw == original_hw:
            yield x
        else:
            cv2.resize(x, original_hw[::-1], dst=buffer, interpolation=cv2.INTER_LINEAR)
            yield buffer
