"""A part of a training set: a uniform share of its photos, or its sets in other proportions (PAPER §7.7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from anymask.core.errors import OptionError
from anymask.data.readers import IndexedPhotos, Photo, set_sizes
from anymask.data.readers.indexed import ShardIndex


def subset(photos: Sequence[Photo], share: float, repeats: Mapping[str, int], seed: int) -> Sequence[Photo]:
    """The chosen photos in their order; indexed ones are not read.

    share: of the photos, 0 … 1, drawn without regard to their sets; a smaller share is a part of a larger one of the
    same seed. repeats: how often each photo of a set is there, by the set's name; other sets are left out; empty: all,
    once. Raises OptionError for a set that is not there.
    """
    if share == 1 and not repeats:
        return photos
    absent = sorted(set(repeats) - set(set_sizes(photos)))
    if absent:
        there = ", ".join(sorted(set_sizes(photos)))
        raise OptionError(f"repeats names {', '.join(absent)}; the sets that were read are {there}.")
    kept = np.zeros(len(photos), bool)
    kept[np.random.default_rng(seed).permutation(len(photos))[: max(1, round(share * len(photos)))]] = True
    if not isinstance(photos, IndexedPhotos):
        times = [(repeats.get(photo.source, 0) if repeats else 1) * int(keep) for photo, keep in zip(photos, kept)]
        return [photo for photo, count in zip(photos, times) for _ in range(count)]
    shards, start = [], 0
    for shard in photos.shards:
        rows = np.flatnonzero(kept[start : start + len(shard.names)])
        start += len(shard.names)
        rows = np.repeat(rows, repeats.get(shard.source, 0) if repeats else 1)
        shards.append(ShardIndex(shard.path, shard.names[rows], shard.places[rows]))
    return IndexedPhotos(shards)
