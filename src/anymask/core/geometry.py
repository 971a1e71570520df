"""The one resize-and-pad rule, both ways, for points, boxes and sizes.

A photo of H×W pixels is scaled so that its longer side equals the model side S, each side rounded half up on
its own, then padded with zeros on the right and at the bottom to S×S (PAPER app. A; rounding as in the official
code). Coordinates are scaled by the *rounded* sizes. `tests/golden/geometry.json` pins this rule; every other
implementation (ONNX, OpenVINO, TypeScript) reads the same file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from anymask.core.errors import ImageError


def scaled_hw(original_hw: tuple[int, int], side: int) -> tuple[int, int]:
    """Size after scaling the longer side to `side`; each side is at least 1 pixel.

    >>> scaled_hw((480, 640), 1024)
    (768, 1024)
    """
    height, width = original_hw
    if height < 1 or width < 1:
        raise ImageError(f"an image needs at least 1×1 pixels, got {height}×{width} (H×W).")
    scale = side * 1.0 / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


@dataclass(frozen=True)
class Frame:
    """Geometry of one image: where original pixels lie in the model's square.

    original_hw: size of the photo (H, W) in pixels.
    side: model side S in pixels (1024 for the official models).
    input_hw: size of the photo inside the S×S square; the rest is padding.
    """

    original_hw: tuple[int, int]
    input_hw: tuple[int, int]
    side: int

    @classmethod
    def of(cls, original_hw: tuple[int, int], side: int) -> Frame:
        """The frame of a photo of `original_hw` (H, W) for a model of `side` pixels."""
        return cls(tuple(original_hw), scaled_hw(original_hw, side), side)  # type: ignore[arg-type]

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Factors (x, y) from original pixels to the model frame."""
        return (
            self.input_hw[1] / self.original_hw[1],
            self.input_hw[0] / self.original_hw[0],
        )


def to_model_xy(points_xy: Any, frame: Frame) -> Any:
    """Points (..., 2) in original pixels, array or tensor, to the model frame; floats, no clipping."""
    return points_xy * _pair(points_xy, frame.scale_xy)


def to_original_xy(points_xy: Any, frame: Frame) -> Any:
    """Exact inverse of `to_model_xy`."""
    x, y = frame.scale_xy
    return points_xy * _pair(points_xy, (1.0 / x, 1.0 / y))


def to_model_xyxy(boxes_xyxy: Any, frame: Frame) -> Any:
    """Boxes (..., 4) as x0, y0, x1, y1 in original pixels to the model frame."""
    return boxes_xyxy * _pair(boxes_xyxy, frame.scale_xy * 2)


def to_original_xyxy(boxes_xyxy: Any, frame: Frame) -> Any:
    """Exact inverse of `to_model_xyxy`."""
    x, y = frame.scale_xy
    return boxes_xyxy * _pair(boxes_xyxy, (1.0 / x, 1.0 / y) * 2)


def _pair(like: Any, values: tuple[float, ...]) -> Any:
    """`values` as an array or tensor that multiplies `like` in floating point."""
    if hasattr(like, "new_tensor"):  # a torch tensor, without importing torch
        import torch

        dtype = like.dtype if like.is_floating_point() else torch.float32
        return torch.tensor(values, dtype=dtype, device=like.device)
    import numpy as np

    return np.asarray(values, dtype=np.float64)
