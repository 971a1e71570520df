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
    planes = low_res.float().flatten(0, 1).numpy()
    for mask, logits in zip(out, _each_with_opencv(planes, side, input_hw, original_hw), strict=True):
        np.greater(logits, threshold, out=mask)
    return torch.from_numpy(out.reshape(p, m, *original_hw))


def upscale_one(
    low_res: np.ndarray, side: int, input_hw: tuple[int, int], original_hw: tuple[int, int]
) -> np.ndarray:
    """Logits (4h, 4w) float32 of one mask to logits (H, W) float32, with OpenCV."""
    return next(_each_with_opencv(low_res[None], side, input_hw, original_hw))


def _with_opencv(
    low_res: Tensor, side: int, input_hw: tuple[int, int], original_hw: tuple[int, int]
) -> Tensor:
    p, m = low_res.shape[:2]
    out = np.empty((p * m, *original_hw), np.float32)
    planes = low_res.float().flatten(0, 1).numpy()
    for kept, logits in zip(out, _each_with_opencv(planes, side, input_hw, original_hw), strict=True):
        kept[:] = logits
    return torch.from_numpy(out.reshape(p, m, *original_hw))


def _each_with_opencv(
    planes: np.ndarray, side: int, input_hw: tuple[int, int], original_hw: tuple[int, int]
) -> Iterator[np.ndarray]:
    """Logits (H, W) of one plane (4h, 4w) after the other, in a buffer that the next one reuses.

    Of the square only what the photo covers is made, and a row and column of low-resolution logits beyond it.
    """
    cells = planes.shape[-2:]
    times = [side // n if side % n == 0 else 0 for n in cells]  # whole numbers in every model; else the whole square
    rows, columns = (
        min(n, -(-pixels // k) + 1) if k else n for n, k, pixels in zip(cells, times, input_hw, strict=True)
    )
    height, width = rows * times[0] or side, columns * times[1] or side
    square = np.empty((height, width), np.float32)
    buffer = np.empty(original_hw, np.float32)
    for small in planes:
        cv2.resize(small[:rows, :columns], (width, height), dst=square, interpolation=cv2.INTER_LINEAR)
        x = square[: input_hw[0], : input_hw[1]]
        if input_hw == original_hw:
            yield x
        else:
            cv2.resize(x, original_hw[::-1], dst=buffer, interpolation=cv2.INTER_LINEAR)
            yield buffer
