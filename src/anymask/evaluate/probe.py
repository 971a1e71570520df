"""What does the embedding know? Masks of a photo ranked by the likeness of their mean embedding (PAPER §7.8, D.6)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from anymask.core.errors import InputError
from anymask.core.masks import mask_boxes
from anymask.core.types import Segmenter
from anymask.predict.automatic import SamAutomaticMaskGenerator
from anymask.predict.options import preset_for
from anymask.predict.render import overlay


@dataclass(frozen=True)
class ProbeProtocol:
    """Choices. margin: how much wider than the mask's box the crop is, which the paper leaves open. The likeness is the
    cosine (§10.2). low, high: thresholds of the two pictures (D.6 shows two).
    """

    margin: float = 1.3
    low: float = 0.8
    high: float = 0.9


def mask_embeddings(
    segmenter: Segmenter, image: np.ndarray, masks: np.ndarray, protocol: ProbeProtocol = ProbeProtocol()
) -> np.ndarray:
    """Vectors (M, C) float32 of length 1 for masks (M, H, W) bool of a photo (H, W, 3) uint8.

    The embedding of a crop around the mask, averaged over the mask; the mean of the crop and its mirror image. Raises
    InputError for an empty mask.
    """
    vectors = []
    for mask, (x0, y0, x1, y1) in zip(masks, mask_boxes(masks).tolist()):
        if not mask.any():
            raise InputError("an empty mask has no embedding.")
        grow_x, grow_y = (protocol.margin - 1) * (x1 - x0 + 1) / 2, (protocol.margin - 1) * (y1 - y0 + 1) / 2
        rows = slice(max(0, int(y0 - grow_y)), int(y1 + grow_y) + 1)
        columns = slice(max(0, int(x0 - grow_x)), int(x1 + grow_x) + 1)
        crop, inside = image[rows, columns], mask[rows, columns]
        pair = [np.ascontiguousarray(crop), np.ascontiguousarray(crop[:, ::-1])]
        mean = sum(
            _average(embedding.features, part, embedding.frame.input_hw, segmenter.side)
            for embedding, part in zip(segmenter.encode(pair), (inside, inside[:, ::-1]))
        )
        vectors.append(mean / max(float(np.linalg.norm(mean)), 1e-9))
    return np.array(vectors, np.float32)


def alike(
    segmenter: Segmenter,
    image: np.ndarray,
    point_xy: tuple[float, float],
    points_per_side: int,
    protocol: ProbeProtocol = ProbeProtocol(),
) -> tuple[np.ndarray, int, np.ndarray]:
    """Automatic masks (M, H, W) of a photo, the smallest of them at a point (its index), and the cosine of each with it
    (M,). Raises InputError where no mask covers the point.
    """
    preset = preset_for(segmenter)
    generator = SamAutomaticMaskGenerator(segmenter, points_per_side=points_per_side, preset=preset)
    masks = np.array([r["segmentation"] for r in generator.generate(image)], bool).reshape(-1, *image.shape[:2])
    x, y = int(point_xy[0]), int(point_xy[1])
    if not (0 <= x < image.shape[1] and 0 <= y < image.shape[0]):
        raise InputError(f"the point {x},{y} is outside the photo, {image.shape[1]}×{image.shape[0]} (W×H).")
    covering = [i for i in range(len(masks)) if masks[i, y, x]]
    if not covering:
        raise InputError(f"none of the {len(masks)} automatic masks covers {x},{y}; point at another object.")
    query = min(covering, key=lambda i: int(masks[i].sum()))
    vectors = mask_embeddings(segmenter, image, masks, protocol)
    return masks, query, vectors @ vectors[query]


def probe_picture(
    image: np.ndarray, masks: np.ndarray, likeness: np.ndarray, query: int, threshold: float
) -> np.ndarray:
    """The photo with the query and every mask at least so like it, with their likeness."""
    like = [i for i in np.argsort(-likeness, kind="stable") if i != query and likeness[i] >= threshold]
    shown = [query, *like]
    titles = ["query", *(f"{likeness[i]:.2f}" for i in like)]
    return overlay(image, masks[shown], titles=titles)


def _average(features: object, mask: np.ndarray, input_hw: tuple[int, int], side: int) -> np.ndarray:
    """Mean (C,) of features (1, C, h, w) over the cells of a mask, weighted by how much of a cell it covers."""
    values = (
        features.detach().cpu().float().numpy() if hasattr(features, "detach") else np.asarray(features, np.float32)
    )
    height, width = values.shape[-2:]
    square = np.zeros((side, side), np.float32)
    scaled = cv2.resize(mask.astype(np.float32), input_hw[::-1], interpolation=cv2.INTER_AREA)
    square[: input_hw[0], : input_hw[1]] = scaled
    share = cv2.resize(square, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray((values[0] * share).sum(axis=(1, 2)) / max(float(share.sum()), 1e-9))
