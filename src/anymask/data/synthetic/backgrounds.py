"""What scenes stand on: procedural textures, or real photos."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from anymask.core.errors import ImageError
from anymask.core.images import read_image
from anymask.data.readers.photo import Photo


def procedural(hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A texture (H, W, 3) uint8: two or three colours mixed by a gradient, clouds, stripes, or cells; then grain."""
    kind = _KINDS[int(rng.integers(len(_KINDS)))]
    gray, tint = rng.uniform(20, 235, (3, 1)), rng.normal(0, float(rng.uniform(5, 45)), (3, 3))
    colours = np.clip(gray + tint, 0, 255).astype(np.float32)
    amount = kind(hw, rng)[..., None]
    image = colours[0] + amount * (colours[1] - colours[0])
    if rng.random() < 0.6:
        other = clouds(hw, rng)[..., None] * np.float32(0.5)
        image += other * (colours[2] - image)
    image += rng.standard_normal((*hw, 1), np.float32) * np.float32(rng.uniform(0, 10))
    return np.asarray(cv2.convertScaleAbs(np.maximum(image, 0, out=image)))


def clouds(hw: tuple[int, int], rng: np.random.Generator, finest_px: float = 4) -> np.ndarray:
    """Smooth noise (H, W) float32 in 0..1: coarse to fine, each octave half as strong."""
    total = np.zeros(hw, np.float32)
    cell = max(hw) / float(rng.uniform(1.5, 6))
    strength = 1.0
    while cell >= finest_px and strength > 0.05:
        grid = rng.random((max(2, round(hw[0] / cell)), max(2, round(hw[1] / cell))), np.float32)
        total += strength * cv2.resize(grid, hw[::-1], interpolation=cv2.INTER_CUBIC)
        cell, strength = cell / 2, strength * float(rng.uniform(0.35, 0.75))
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def _gradient(hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    along = _along(hw, float(rng.uniform(0, 2 * np.pi)))
    return np.asarray((along - along.min()) / max(float(np.ptp(along)), 1e-6), np.float32)


def _stripes(hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    angle, period = float(rng.uniform(0, np.pi)), float(rng.uniform(8, 80))
    wave = np.sin(_along(hw, angle) * (2 * np.pi / period) + 3 * clouds(hw, rng, 16) * rng.random())
    if rng.random() < 0.5:  # a chequered cloth
        wave = wave * np.sin(_along(hw, angle + np.pi / 2) * (2 * np.pi / period))
    sharp = float(rng.uniform(1, 12))
    return np.asarray(1 / (1 + np.exp(-sharp * wave)), np.float32)


def _cells(hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Flat patches around random points, like stones or fields."""
    seeds = np.ones(hw, np.uint8)
    num = int(rng.integers(12, 160))
    seeds[rng.integers(0, hw[0], num), rng.integers(0, hw[1], num)] = 0
    _, labels = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL)
    return rng.random(int(labels.max()) + 1, np.float32)[labels]


def _along(hw: tuple[int, int], angle: float) -> np.ndarray:
    y = np.arange(hw[0], dtype=np.float32)[:, None]
    x = np.arange(hw[1], dtype=np.float32)[None]
    return np.asarray(x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle)))


_KINDS = (_gradient, clouds, clouds, _stripes, _cells)


def from_photo(photos: Sequence[Photo], hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray | None:
    """A random view (H, W, 3) uint8 of one of the photos, perhaps out of focus; None where it cannot be read."""
    try:
        image = read_image(photos[int(rng.integers(len(photos)))].encoded)
    except ImageError:
        return None
    scale = max(hw[0] / image.shape[0], hw[1] / image.shape[1]) * float(rng.uniform(1, 1.6))
    new_hw = max(hw[0], round(image.shape[0] * scale)), max(hw[1], round(image.shape[1] * scale))
    image = cv2.resize(image, new_hw[::-1], interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    y, x = int(rng.integers(new_hw[0] - hw[0] + 1)), int(rng.integers(new_hw[1] - hw[1] + 1))
    view = image[y : y + hw[0], x : x + hw[1]]
    view = view[:, ::-1] if rng.random() < 0.5 else view
    blur = float(rng.uniform(-2, 3))
    return np.ascontiguousarray(cv2.GaussianBlur(view, (0, 0), blur) if blur > 0.3 else view)
