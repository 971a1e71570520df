"""What masks of a data set look like: how many, how large, how ragged, where (PAPER §5, figures 5 and 6)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from anymask.core.rle import to_uncompressed
from anymask.data.readers.photo import Photo

COUNT_BINS = ("≤ 10", "11–50", "51–100", "101–200", "> 200")  # figure 6, left
_COUNT_EDGES = (10, 50, 100, 200)
SIZE_EDGES = np.linspace(0, 1, 21)  # of sqrt(mask area / photo area)
CONCAVITY_EDGES = np.linspace(0, 1, 21)
CELLS = 32  # of the heat map, along each side


@dataclass(frozen=True)
class MaskShape:
    """relative_size: sqrt(mask area / photo area). concavity: 1 - area / hull area. center_xy: centre of mass, 0..1."""

    relative_size: float
    concavity: float
    center_xy: tuple[float, float]


def mask_shape(rle: Mapping[str, Any]) -> MaskShape | None:
    """Size, concavity and centre of a mask from its runs, without decoding; None for an empty mask.

    Hull area: pixels whose centres lie in the convex hull of the mask's pixel centres, so that a disc or a tilted
    square of pixels has concavity 0 and not the area of its steps.
    """
    plain = to_uncompressed(rle)
    height, width = plain["size"]
    ends = np.cumsum(plain["counts"])
    start, stop = ends[0:-1:2], ends[1::2]  # of the foreground runs, column by column
    start, stop = start[stop > start], stop[stop > start]
    if not start.size:
        return None
    first_column, last_column = start // height, (stop - 1) // height
    pieces = last_column - first_column + 1  # a run may go on in the next columns
    column = np.repeat(first_column, pieces)
    column += np.arange(len(column)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    low = np.maximum(np.repeat(start, pieces), column * height) - column * height
    high = np.minimum(np.repeat(stop, pieces), (column + 1) * height) - column * height
    length = high - low
    area = int(length.sum())
    x = float(((column + 0.5) * length).sum() / area)
    y = float(((low + high) * length).sum() / (2 * area))
    points = np.stack([np.tile(column, 2), np.concatenate([low, high - 1])], axis=1).astype(np.int32)
    hull_px = _lattice_points(cv2.convexHull(points)[:, 0].astype(np.int64))
    return MaskShape((area / (height * width)) ** 0.5, 1 - area / hull_px, (x / width, y / height))


def _lattice_points(hull: np.ndarray) -> int:
    """Whole-number points in and on a convex polygon (K, 2) of such points, by Pick's theorem."""
    step = np.roll(hull, -1, axis=0) - hull
    twice_area = abs(int((hull[:, 0] * step[:, 1] - hull[:, 1] * step[:, 0]).sum()))
    on_border = int(np.gcd(np.abs(step[:, 0]), np.abs(step[:, 1])).sum())
    return (twice_area + on_border) // 2 + 1


class Statistics:
    """Collects photos one by one; `summary` is ready for JSON."""

    def __init__(self) -> None:
        self.masks_per_photo: list[int] = []
        self._shapes: list[MaskShape] = []

    def add(self, photo: Photo) -> None:
        """Count a photo and measure its masks; empty masks are left out."""
        self.add_masks(photo.rles)

    def add_masks(self, rles: Iterable[Mapping[str, Any]]) -> None:
        """The same for the masks of a photo alone."""
        shapes = [shape for rle in rles if (shape := mask_shape(rle)) is not None]
        self.masks_per_photo.append(len(shapes))
        self._shapes += shapes

    def summary(self) -> dict[str, Any]:
        """Counts and histograms as shares of 1; `centers` is the density relative to an even one, rows from the top."""
        sizes = np.array([s.relative_size for s in self._shapes])
        concavities = np.array([s.concavity for s in self._shapes])
        centers = np.array([s.center_xy for s in self._shapes]).reshape(-1, 2)
        counts = np.array(self.masks_per_photo)
        grid, _, _ = np.histogram2d(centers[:, 1], centers[:, 0], bins=CELLS, range=((0, 1), (0, 1)))
        per_bin = np.bincount(np.searchsorted(_COUNT_EDGES, counts), minlength=len(COUNT_BINS))
        return {
            "photos": len(counts),
            "masks": len(sizes),
            "masks_per_photo": {
                "mean": _mean(counts),
                "bins": list(COUNT_BINS),
                "shares": _shares(per_bin),
            },
            "relative_size": {
                "mean": _mean(sizes),
                "edges": SIZE_EDGES.round(4).tolist(),
                "shares": _shares(np.histogram(sizes, SIZE_EDGES)[0]),
            },
            "concavity": {
                "mean": _mean(concavities),
                "edges": CONCAVITY_EDGES.round(4).tolist(),
                "shares": _shares(np.histogram(concavities, CONCAVITY_EDGES, weights=_even_sizes(sizes))[0]),
            },
            "centers": (grid / max(1, len(sizes)) * CELLS**2).round(3).tolist(),
        }


def _even_sizes(sizes: np.ndarray) -> np.ndarray:
    """Weights (N,) under which every bin of sizes counts the same: the paper's stratified sampling, without chance.

    Bins with under one mask in 500 are left out; a few odd masks would speak for a tenth of the figure.
    """
    bins = np.clip(np.digitize(sizes, SIZE_EDGES) - 1, 0, len(SIZE_EDGES) - 2)
    counts = np.bincount(bins, minlength=len(SIZE_EDGES) - 1)
    weights = np.where(counts * 500 >= len(sizes), 1 / np.maximum(counts, 1), 0)
    return np.asarray(weights[bins])


def _shares(counts: np.ndarray) -> list[float]:
    total = counts.sum()
    return [round(float(c / total), 5) if total else 0.0 for c in counts]


def _mean(values: np.ndarray) -> float:
    return round(float(values.mean()), 4) if len(values) else 0.0
