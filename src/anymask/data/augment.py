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


def random_view(
    image: np.ndarray,
    masks: np.ndarray,
    side: int,
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """A photo (H, W, 3) uint8 and masks (M, H, W) uint8, scaled by chance, then cropped or padded to S×S.

    Returns the photo (S, S, 3) float32 on the 0..255 scale (NaN where there is no photo), masks (M, S, S) uint8.
    """
    h, w = masks.shape[-2:]
    image = image if image.shape[:2] == (h, w) else cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA)
    low, high = augmentation.scale
    scale = side / max(h, w) * float(np.exp(rng.uniform(np.log(low), np.log(high))))
    new_hw = max(1, int(h * scale + 0.5)), max(1, int(w * scale + 0.5))
    flip = rng.random() < augmentation.flip
    y0 = int(rng.integers(0, max(0, new_hw[0] - side) + 1))
    x0 = int(rng.integers(0, max(0, new_hw[1] - side) + 1))
    out_image = np.full((side, side, 3), np.nan, np.float32)
    out_masks = np.zeros((len(masks), side, side), np.uint8)
    resized = cv2.resize(
        image, new_hw[::-1], interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )[y0 : y0 + side, x0 : x0 + side]
    resized = resized[:, ::-1] if flip else resized
    valid = np.s_[: resized.shape[0], : resized.shape[1]]
    out_image[valid] = jitter_color(resized.astype(np.float32), augmentation.color, rng)
    for i, mask in enumerate(masks):
        view = cv2.resize(mask, new_hw[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        view = view[y0 : y0 + side, x0 : x0 + side]
        out_masks[i][valid] = view[:, ::-1] if flip else view
    return out_image, out_masks


def jitter_color(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast and saturation of a (H, W, 3) photo changed by up to ± `strength`."""
    if not strength:
        return image
    brightness, contrast, saturation = 1 + rng.uniform(-strength, strength, 3).astype(np.float32)
    grey = image.mean(axis=2, keepdims=True)
    image = grey + (image - grey) * saturation
    mean = image.mean()
    return np.clip((mean + (image - mean) * contrast) * brightness, 0, 255)
