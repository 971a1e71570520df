"""`ResizeLongestSide` under its known name: a thin cover over `core.geometry`."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from anymask.core.geometry import Frame, scaled_hw, to_model_xy, to_model_xyxy
from anymask.core.images import resize_image


class ResizeLongestSide:
    """Scales images so that the longer side is `target_length` pixels, and coordinates with them."""

    def __init__(self, target_length: int) -> None:
        self.target_length = target_length

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 to the scaled size, uint8."""
        return resize_image(image, scaled_hw(image.shape[:2], self.target_length))

    def apply_coords(self, coords: np.ndarray, original_size: tuple[int, int]) -> np.ndarray:
        """(…, 2) xy pixels of the photo to the model frame, float64."""
        return to_model_xy(np.asarray(coords, dtype=np.float64), self._frame(original_size))

    def apply_boxes(self, boxes: np.ndarray, original_size: tuple[int, int]) -> np.ndarray:
        """(P, 4) xyxy pixels of the photo to the model frame."""
        boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        return to_model_xyxy(boxes, self._frame(original_size))

    def apply_image_torch(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to the scaled size; close to `apply_image`, not bit for bit."""
        size = scaled_hw((image.shape[2], image.shape[3]), self.target_length)
        return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)

    def apply_coords_torch(self, coords: Tensor, original_size: tuple[int, int]) -> Tensor:
        """As `apply_coords`, for tensors."""
        return to_model_xy(coords.float(), self._frame(original_size))

    def apply_boxes_torch(self, boxes: Tensor, original_size: tuple[int, int]) -> Tensor:
        """As `apply_boxes`, for tensors."""
        return to_model_xyxy(boxes.float().reshape(-1, 4), self._frame(original_size))

    @staticmethod
    def get_preprocess_shape(oldh: int, oldw: int, long_side_length: int) -> tuple[int, int]:
        """Scaled size (H, W) of a photo."""
        return scaled_hw((oldh, oldw), long_side_length)

    def _frame(self, original_size: tuple[int, int]) -> Frame:
        height, width = original_size
        return Frame.of((int(height), int(width)), self.target_length)
