"""The one resize-and-pad rule, both ways, for points, boxes and sizes.

A photo of H×W pixels is scaled so that its longer side equals the model side S, each side rounded half up on
its own, then padded with zeros on the right and at the bottom to S×S (PAPER app. A; rounding as in the
official code). Coordinates are scaled by the *rounded* sizes. `tests/golden/geometry.json` pins this rule;
every other implementation (ONNX, OpenVINO, TypeScript) reads the same file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from anymask.core.errors import ImageError, OptionError

MAX_PIXELS = 200_000_000  # largest picture or mask decoded from outside unless told otherwise: 600 MB as RGB


def scaled_hw(original_hw: tuple[int, int], side: int) -> tuple[int, int]:
    """Size after scaling the longer side to `side`; each side is at least 1 pixel.

    >>> scaled_hw((480, 640), 1024)
    (768, 1024)
    """
    height, width = original_hw
    if height < 1 or width < 1:
        raise ImageError(f"an image needs at least 1×1 pixels, got {height}×{width} (H×W).")
    if side < 1:
        raise OptionError(f"the model side must be at least 1 pixel, got {side}.")
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
        height, width = original_hw
        return cls((int(height), int(width)), scaled_hw(original_hw, side), side)

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Factors (x, y) from original pixels to the model frame."""
        return (
            self.input_hw[1] / self.original_hw[1],
            self.input_hw[0] / self.original_hw[0],
        )


def to_model_xy(points_xy: Any, frame: Frame) -> Any:
    """Points (..., 2) in original pixels, array or tensor, to the model frame; floats, no clipping.

    An array gives float64; a tensor float32, or float64 if it was. Bit-equal to segment_anything's
    `apply_coords`.
    """
    return points_xy * _like(points_xy, frame.scale_xy)


def to_original_xy(points_xy: Any, frame: Frame) -> Any:
    """Inverse of `to_model_xy`."""
    return points_xy / _like(points_xy, frame.scale_xy)


def to_model_xyxy(boxes_xyxy: Any, frame: Frame) -> Any:
    """Boxes (..., 4) as x0, y0, x1, y1 in original pixels to the model frame."""
    return boxes_xyxy * _like(boxes_xyxy, frame.scale_xy * 2)


def to_original_xyxy(boxes_xyxy: Any, frame: Frame) -> Any:
    """Inverse of `to_model_xyxy`."""
    return boxes_xyxy / _like(boxes_xyxy, frame.scale_xy * 2)


def _like(like: Any, values: tuple[float, ...]) -> Any:
    """`values` as an array or tensor that computes with `like` in floating point."""
    if hasattr(like, "new_tensor"):  # a torch tensor, without importing torch for arrays
        import torch

        # half precision is too coarse for pixels
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        return torch.tensor(values, dtype=dtype, device=like.device)
    import numpy as np

    return np.asarray(values, dtype=np.float64)
