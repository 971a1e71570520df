"""A piece: one object to paste, its pixels, and the parts it consists of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np

SAME_AREA = 0.92  # a part that fills this much of what it lies in is that thing again


@dataclass(frozen=True)
class Piece:
    """One object, cropped to its pixels.

    rgba: (h, w, 4) uint8, colours not multiplied by alpha. leaves: (h, w) uint8, which leaf is seen at a pixel, 0
    where there is none. parts: sets of leaves, the whole first; any two are nested or disjoint.
    """

    name: str
    rgba: np.ndarray
    leaves: np.ndarray
    parts: tuple[frozenset[int], ...]


def nested_sets(candidates: Iterable[frozenset[int]], areas: Mapping[int, int]) -> tuple[frozenset[int], ...]:
    """Those candidates, largest first, that are nested in or disjoint from all kept before them.

    areas: pixels of each leaf. A set that nearly fills the smallest one around it is dropped as the same thing.
    """

    def area(leaves: frozenset[int]) -> int:
        return sum(areas.get(leaf, 0) for leaf in leaves)

    kept: list[frozenset[int]] = []
    for candidate in sorted(set(candidates), key=lambda c: (-area(c), sorted(c))):
        if not area(candidate):
            continue
        around = [k for k in kept if candidate <= k]
        if len(around) + sum(candidate.isdisjoint(k) for k in kept) < len(kept):
            continue
        if not around or area(candidate) < SAME_AREA * min(map(area, around)):
            kept.append(candidate)
    return tuple(kept)


def parents_of(parts: tuple[frozenset[int], ...]) -> list[int | None]:
    """Index of the smallest part around each part; None for a whole. `parts` as `nested_sets` gives them."""
    return [
        max((i for i in range(k) if parts[k] <= parts[i]), default=None) for k in range(len(parts))
    ]  # largest first: the last one around is the smallest


def crop(name: str, rgba: np.ndarray, leaves: np.ndarray, parts: tuple[frozenset[int], ...]) -> Piece | None:
    """A piece cut to the box of its leaves; None where nothing is seen."""
    x, y, w, h = cv2.boundingRect((leaves > 0).astype(np.uint8))
    if w < 2 or h < 2 or not parts:
        return None
    box = np.s_[y : y + h, x : x + w]
    return Piece(name, np.ascontiguousarray(rgba[box]), np.ascontiguousarray(leaves[box]), parts)
