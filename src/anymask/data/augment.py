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
    zoom: chance of a view around one mask, as `predict.zoom` makes them. camera: chance of a view as another kind of
    camera would take it (`other_camera`).
    """

    scale: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.0
    color: float = 0.0
    zoom: float = 0.0
    camera: float = 0.0

    @property
    def is_identity(self) -> bool:
        """Is every view the whole photo as it is?"""
        return self == Augmentation()


ZOOM_MARGIN = (1.15, 2.5)  # side of a view around one mask, in longer sides of the mask's box
ZOOM_MIN_PX = 48  # a view around a mask shows at least so many pixels of the photo


@dataclass(frozen=True)
class View:
    """The rectangle y0, x0, y1, x1 of a photo, brought to `drawn_hw`, perhaps mirrored, on an S×S canvas."""

    window: tuple[int, int, int, int]
    drawn_hw: tuple[int, int]
    flip: bool
    side: int

    def cut(self, whole: np.ndarray, interpolation: int) -> np.ndarray:
        """What the view shows of an (H, W, …) array, at its drawn size."""
        y0, x0, y1, x1 = self.window
        part = cv2.resize(whole[y0:y1, x0:x1], self.drawn_hw[::-1], interpolation=interpolation)
        return part[:, ::-1] if self.flip else part


def draw_view(hw: tuple[int, int], side: int, augmentation: Augmentation, rng: np.random.Generator) -> View:
    """A view of a photo of H×W pixels: scaled by chance, then cropped or padded to S×S."""
    low, high = augmentation.scale
    length = max(hw) / float(np.exp(rng.uniform(np.log(low), np.log(high))))
    flip = rng.random() < augmentation.flip
    places = [rng.integers(0, max(0, n - round(length)) + 1) for n in hw]
    return _view_at(hw, side, float(places[0]), float(places[1]), length, flip)


def zoomed_view(
    hw: tuple[int, int], box_xyxy: np.ndarray, side: int, augmentation: Augmentation, rng: np.random.Generator
) -> View:
    """A view of a photo of H×W pixels around the box of a mask, which it holds whole."""
    x0, y0, x1, y1 = (float(v) for v in box_xyxy)
    low, high = ZOOM_MARGIN
    longer = max(x1 - x0, y1 - y0) + 1
    length = min(max(longer * float(np.exp(rng.uniform(np.log(low), np.log(high)))), ZOOM_MIN_PX), max(hw))
    flip = rng.random() < augmentation.flip
    top = rng.uniform(min(y1 + 1 - length, y0), y0)
    left = rng.uniform(min(x1 + 1 - length, x0), x0)
    return _view_at(hw, side, top, left, length, flip)


def _view_at(hw: tuple[int, int], side: int, top: float, left: float, length: float, flip: bool) -> View:
    """The square of this length (photo pixels) nearest to that place, as far as the photo reaches."""
    window: list[int] = []
    for n, start in zip(hw, (top, left)):
        first = round(min(max(start, 0.0), max(0.0, n - length)))
        window += [first, min(n, max(first + 1, first + round(length)))]
    y0, y1, x0, x1 = window
    drawn = [min(side, max(1, int(n * side / length + 0.5))) for n in (y1 - y0, x1 - x0)]
    return View((y0, x0, y1, x1), (drawn[0], drawn[1]), flip, side)


def image_in_view(
    image: np.ndarray, hw: tuple[int, int], view: View, augmentation: Augmentation, rng: np.random.Generator
) -> np.ndarray:
    """A photo (H, W, 3) uint8 as (S, S, 3) float32 on the 0..255 scale, NaN where there is no photo.

    hw: the size of its masks, which the photo is brought to first. augmentation: its color and camera.
    """
    image = image if image.shape[:2] == hw else cv2.resize(image, hw[::-1], interpolation=cv2.INTER_AREA)
    y0, _, y1, _ = view.window
    smaller = view.drawn_hw[0] < y1 - y0
    part = view.cut(image, cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    out = np.full((view.side, view.side, 3), np.nan, np.float32)
    pixels = jitter_color(part.astype(np.float32), augmentation.color, rng)
    if augmentation.camera and rng.random() < augmentation.camera:
        pixels = other_camera(pixels, rng)
    out[: part.shape[0], : part.shape[1]] = pixels
    return out


def masks_in_view(masks: np.ndarray, view: View) -> np.ndarray:
    """Masks (M, H, W) uint8 as (M, S, S) uint8, zero outside the photo."""
    out = np.zeros((len(masks), view.side, view.side), np.uint8)
    for i, mask in enumerate(masks):
        part = view.cut(mask, cv2.INTER_NEAREST_EXACT)
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
    return image_in_view(image, hw, view, augmentation, rng), masks_in_view(masks, view)


def jitter_color(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast and saturation of a (H, W, 3) photo changed by up to ± `strength`."""
    if not strength:
        return image
    brightness, contrast, saturation = 1 + rng.uniform(-strength, strength, 3).astype(np.float32)
    grey = image.mean(axis=2, keepdims=True)
    image = grey + (image - grey) * saturation
    mean = image.mean()
    return np.clip((mean + (image - mean) * contrast) * brightness, 0, 255)


def other_camera(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A (H, W, 3) photo as a microscope, a night or an infrared camera might show it.

    Grey (one in two), negative (one in four), channels exchanged (one in four), gamma 0.5 to 2, exposure down to a
    twelfth, sensor noise; whole levels of 0..255 again, as a file has them.
    """
    if rng.random() < 0.5:
        image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    elif rng.random() < 0.5:
        image = image[..., rng.permutation(3)]
    if rng.random() < 0.25:
        image = 255 - image
    gamma = float(np.exp(rng.uniform(np.log(0.5), np.log(2))))
    exposure = float(np.exp(rng.uniform(np.log(1 / 12), np.log(1.3))))
    noise = rng.standard_normal(image.shape[:2], np.float32)[..., None] * float(rng.uniform(0, 4) * min(exposure, 1))
    seen = 255 * exposure * (image / np.float32(255)) ** gamma + noise
    return np.clip(np.rint(seen), 0, 255).astype(np.float32)
