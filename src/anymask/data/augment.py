"""Random views of a photo and its masks together."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Augmentation:
    """Limits of a random view.

    scale: range of the scale beside "longer side = S"; (0.1, 2.0) is the paper's large-scale jitter.
    flip: chance of a mirror image. color: strength of brightness, contrast and saturation changes.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.0
    color: float = 0.0

    @property
    def is_identity(self) -> bool:
        """Is every view the whole photo as it is?"""
        return self.scale == (1.0, 1.0) and not self.flip and not self.color


@dataclass(frozen=True)
class View:
    """A photo scaled to `scaled_hw`, then cut at (y0, x0) to at most S×S, perhaps mirrored."""

    scaled_hw: tuple[int, int]
    y0: int
    x0: int
    flip: bool
    side: int

    def cut(self, scaled: np.ndarray) -> np.ndarray:
        """The part of a scaled (H, W, …) array that the view shows."""
        part = scaled[self.y0 : self.y0 + self.side, self.x0 : self.x0 + self.side]
        return part[:, ::-1] if self.flip else part


def draw_view(hw: tuple[int, int], side: int, augmentation: Augmentation, rng: np.random.Generator) -> View:
    """A view of a photo of H×W pixels: scaled by chance, then cropped or padded to S×S."""
    h, w = hw
    low, high = augmentation.scale
    scale = side / max(h, w) * float(np.exp(rng.uniform(np.log(low), np.log(high))))
    new_hw = max(1, int(h * scale + 0.5)), max(1, int(w * scale + 0.5))
    flip = rng.random() < augmentation.flip
    y0 = int(rng.integers(0, max(0, new_hw[0] - side) + 1))
    x0 = int(rng.integers(0, max(0, new_hw[1] - side) + 1))
    return View(new_hw, y0, x0, flip, side)


def image_in_view(
    image: np.ndarray, hw: tuple[int, int], view: View, color: float, rng: np.random.Generator
) -> np.ndarray:
    """A photo (H, W, 3) uint8 as (S, S, 3) float32 on the 0..255 scale, NaN where there is no photo.

    hw: the size of its masks, which the photo is brought to first. color: see `Augmentation`.
    """
    image = image if image.shape[:2] == hw else cv2.resize(image, hw[::-1], interpolation=cv2.INTER_AREA)
    smaller = view.scaled_hw[0] * view.scaled_hw[1] < hw[0] * hw[1]
    kind = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    part = view.cut(cv2.resize(image, view.scaled_hw[::-1], interpolation=kind))
    out = np.full((view.side, view.side, 3), np.nan, np.float32)
    out[: part.shape[0], : part.shape[1]] = jitter_color(part.astype(np.float32), color, rng)
    return out


def masks_in_view(masks: np.ndarray, view: View) -> np.ndarray:
    """Masks (M, H, W) uint8 as (M, S, S) uint8, zero outside the photo."""
    out = np.zeros((len(masks), view.side, view.side), np.uint8)
    for i, mask in enumerate(masks):
        part = view.cut(cv2.resize(mask, view.scaled_hw[::-1], interpolation=cv2.INTER_NEAREST_EXACT))
        out[i, : part.shape[0], : part.shape[1]] = part
    return out


def random_view(
    image: np.ndarray,
    masks: np.ndarray,
    side: int,
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """A photo (H, W, 3) uint8 and masks (M, H, W) uint8 in one random view.

    Returns the photo (S, S, 3) float32 on the 0..255 scale (NaN where there is no photo), masks (M, S, S) uint8.
    """
    hw = (masks.shape[-2], masks.shape[-1])
    view = draw_view(hw, side, augmentation, rng)
    return image_in_view(image, hw, view, augmentation.color, rng), masks_in_view(masks, view)


def jitter_color(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast and saturation of a (H, W, 3) photo changed by up to ± `strength`."""
    if not strength:
        return image
    brightness, contrast, saturation = 1 + rng.uniform(-strength, strength, 3).astype(np.float32)
    grey = image.mean(axis=2, keepdims=True)
    image = grey + (image - grey) * saturation
    mean = image.mean()
    return np.clip((mean + (image - mean) * contrast) * brightness, 0, 255)
