"""Fewer photos of a large data set, the same ones for everybody: the paper's rule (D.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T")


@dataclass(frozen=True)
class Subsample:
    """A set with more than `above` masks gives random photos until about `target` masks are reached; 0: never."""

    above: int = 15_000
    target: int = 10_000


def take(photos: Sequence[T], num_masks: Sequence[int], rule: Subsample, seed: int) -> list[T]:
    """Photos of a set in their order; whole photos are drawn, without replacement, until the target is reached."""
    if not rule.above or sum(num_masks) <= rule.above:
        return list(photos)
    order = np.random.default_rng(seed).permutation(len(photos))
    reached = np.cumsum(np.asarray(num_masks)[order])
    drawn = order[: int(np.searchsorted(reached, rule.target)) + 1]
    return [photos[i] for i in sorted(drawn)]
