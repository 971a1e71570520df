"""A fixed low-pass over mask logits, against the checkerboard of an upscaling that was trained briefly.

Each cell of the embedding becomes 4×4 logits through two transposed convolutions without overlap. What these add alike
to every cell has a period of 2 or 4 pixels; the kernel is zero at both.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from anymask.model.layers import is_traced, runs_eagerly_on_cpu

KERNEL = (0.125, 0.25, 0.25, 0.25, 0.125)  # a box of four after a box of two


def smooth_logits(logits: Tensor) -> Tensor:
    """Logits (P, M, h, w) of any floating type to float32 logits of the same shape; the border is continued."""
    p, m, h, w = logits.shape
    flat = logits.float().reshape(p * m, h, w)
    if runs_eagerly_on_cpu(logits):  # OpenCV's separable filter takes a tenth of the time
        return _with_opencv(flat, cv2.BORDER_REPLICATE).reshape(p, m, h, w)
    if flat.requires_grad and flat.device.type == "cpu" and not is_traced():
        return _Smooth.apply(flat).reshape(p, m, h, w)
    kernel = torch.tensor(KERNEL, device=logits.device)
    padded = F.pad(flat.unsqueeze(1), (2, 2, 2, 2), mode="replicate")
    rows = F.conv2d(padded, kernel.reshape(1, 1, 1, 5))
    return F.conv2d(rows, kernel.reshape(1, 1, 5, 1)).reshape(p, m, h, w)


class _Smooth(torch.autograd.Function):
    """OpenCV's filter, and its transpose for the gradient."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor) -> Tensor:
        return _with_opencv(flat.detach(), cv2.BORDER_REPLICATE)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        spread = _with_opencv(F.pad(grads[0], (2, 2, 2, 2)), cv2.BORDER_CONSTANT)
        for axis in (1, 2):  # the border was continued outwards: what came from there belongs to it
            n = spread.shape[axis]
            spread.narrow(axis, 2, 1).add_(spread.narrow(axis, 0, 2).sum(axis, keepdim=True))
            spread.narrow(axis, n - 3, 1).add_(spread.narrow(axis, n - 2, 2).sum(axis, keepdim=True))
        return spread[:, 2:-2, 2:-2]


def _with_opencv(flat: Tensor, border: int) -> Tensor:
    """Logits (N, h, w) float32 on the CPU, filtered."""
    kernel = np.array(KERNEL, np.float32)
    out = np.empty(tuple(flat.shape), np.float32)
    for smooth, mask in zip(out, flat.numpy(), strict=True):
        cv2.sepFilter2D(mask, cv2.CV_32F, kernel, kernel, dst=smooth, borderType=border)
    return torch.from_numpy(out)
