"""A fixed low-pass over mask logits, against the checkerboard of an upscaling that was trained briefly.

Each cell of the embedding becomes 4×4 logits through two transposed convolutions without overlap. What these add alike
to every cell has a period of 2 or 4 pixels; the kernel is zero at both.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from anymask.model.layers import runs_eagerly_on_cpu

KERNEL = (0.125, 0.25, 0.25, 0.25, 0.125)  # a box of four after a box of two


def smooth_logits(logits: Tensor) -> Tensor:
    """Logits (P, M, h, w) of any floating type to float32 logits of the same shape; the border is continued."""
    p, m, h, w = logits.shape
    flat = logits.float().reshape(p * m, 1, h, w)
    if runs_eagerly_on_cpu(logits):  # OpenCV's separable filter takes a tenth of the time
        kernel = np.array(KERNEL, np.float32)
        out = np.empty((p * m, h, w), np.float32)
        for smooth, mask in zip(out, flat[:, 0].numpy(), strict=True):
            cv2.sepFilter2D(mask, cv2.CV_32F, kernel, kernel, dst=smooth, borderType=cv2.BORDER_REPLICATE)
        return torch.from_numpy(out).reshape(p, m, h, w)
    kernel_t = torch.tensor(KERNEL, device=logits.device)
    padded = F.pad(flat, (2, 2, 2, 2), mode="replicate")
    rows = F.conv2d(padded, kernel_t.reshape(1, 1, 1, 5))
    return F.conv2d(rows, kernel_t.reshape(1, 1, 5, 1)).reshape(p, m, h, w)
