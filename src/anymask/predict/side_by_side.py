"""Questions to a segmenter side by side, where it has a way to answer them so."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from anymask.core.types import Segmenter

T = TypeVar("T")


def side_by_side(segmenter: Segmenter, work: Callable[[Any], T], items: Iterable[Any]) -> Iterable[T]:
    """Results of `work`, which asks the segmenter, for each of the items; in threads where the segmenter has a way."""
    found: Iterable[T] = getattr(segmenter, "side_by_side", map)(work, items)
    return found
