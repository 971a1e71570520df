"""SA-1B tar shards of any size: each photo is read when it is asked for, so a set need not fit into memory.

A training sample is a function of its number (`data.loader`), which asks for photos in any order. A stream of
tars could only be resumed by reading it again from its start; an index of where each photo lies can be asked directly,
costs about a hundred bytes a photo, and needs the shards on a file system that can seek.
"""

from __future__ import annotations

import hashlib
import tarfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, overload

import numpy as np

from anymask.core.errors import InputError
from anymask.core.files import write_aside
from anymask.data.readers.photo import DataError, Photo
from anymask.data.readers.sa1b import find_shards, photo_of_pair

_LAYOUT = 1  # of the index files; another number makes them anew
_IMAGES = ("jpg", "jpeg", "png")


@dataclass(frozen=True)
class ShardIndex:
    """Where the N photos of one shard lie. names: (N) bytes. places: (N, 4) int64, offset and size of the photo's
    bytes, offset and size of its JSON's.
    """

    path: Path
    names: np.ndarray
    places: np.ndarray

    @property
    def source(self) -> str:
        """Name of the set: the shard's without its number."""
        return self.path.stem.rsplit("-", 1)[0]


class IndexedPhotos(Sequence[Photo]):
    """The photos of several shards, each read and checked when it is asked for; DataError where one is broken."""

    def __init__(self, shards: Sequence[ShardIndex]) -> None:
        self.shards = [shard for shard in shards if len(shard.names)]
        self._starts = np.cumsum([0, *(len(shard.names) for shard in self.shards)]).tolist()
        if not self.shards:
            raise InputError("the shards hold no photo with a JSON file beside it; look with: anymask data check.")

    def __len__(self) -> int:
        return int(self._starts[-1])

    @overload
    def __getitem__(self, index: int) -> Photo: ...
    @overload
    def __getitem__(self, index: slice) -> list[Photo]: ...
    def __getitem__(self, index: int | slice) -> Photo | list[Photo]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        at = bisect_right(self._starts, index) - 1
        shard, row = self.shards[at], index - self._starts[at]
        stem = bytes(shard.names[row]).decode()
        try:
            with shard.path.open("rb") as file:
                encoded, record = (_read(file, *shard.places[row, i : i + 2]) for i in (0, 2))
        except OSError as error:
            raise DataError("missing file", shard.path, f"cannot be read: {error.strerror or error}.") from error
        return photo_of_pair(stem, shard.source, shard.path, encoded, record, None)


def index_shards(
    paths: Sequence[Path], cache: Path | None = None, say: Callable[[str], None] = lambda _: None
) -> IndexedPhotos:
    """Photos of SA-1B tar shards, or folders of them, without reading any.

    cache: folder where the index of a shard is kept until its size or time changes. say: told of every hundredth
    shard that had to be looked through, about a second for 10,000 photos.
    """
    shards = find_shards(list(paths))
    indexes = []
    for i, shard in enumerate(shards, 1):
        indexes.append(_index(shard, cache))
        if i % 100 == 0:
            say(f"indexed {i} of {len(shards)} shards")
    return IndexedPhotos(indexes)


def set_sizes(photos: Sequence[Photo]) -> Counter[str]:
    """Number of photos in each set, without reading indexed ones."""
    if isinstance(photos, IndexedPhotos):
        counts: Counter[str] = Counter()
        for shard in photos.shards:
            counts[shard.source] += len(shard.names)
        return counts
    return Counter(photo.source for photo in photos)


def _index(path: Path, cache: Path | None) -> ShardIndex:
    if cache is None:
        return _look_through(path)
    status = path.stat()
    key = f"{_LAYOUT} {path.resolve()} {status.st_size} {status.st_mtime_ns}"
    kept = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"
    if kept.is_file():
        with np.load(kept, allow_pickle=False) as stored:
            return ShardIndex(path, stored["names"], stored["places"])
    index = _look_through(path)
    cache.mkdir(parents=True, exist_ok=True)
    with write_aside(kept) as part, part.open("wb") as file:
        np.savez(file, names=index.names, places=index.places)
    return index


def _look_through(path: Path) -> ShardIndex:
    """Headers only; the content of the members is skipped."""
    waiting: dict[str, dict[str, tuple[int, int]]] = {}
    whole: list[tuple[str, tuple[int, ...]]] = []  # in the order of `read_sa1b_tar`
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                stem, _, suffix = member.name.rpartition(".")
                if member.isfile() and (suffix == "json" or suffix in _IMAGES):
                    pair = waiting.setdefault(stem, {})
                    pair["json" if suffix == "json" else "image"] = (member.offset_data, member.size)
                    if len(pair) == 2:
                        del waiting[stem]
                        whole.append((stem, pair["image"] + pair["json"]))
                tar.members = []  # type: ignore[attr-defined]  # every header would be kept otherwise
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError("broken record", path, f"not a readable tar shard: {error}. Download it again.") from error
    names = np.array([stem.encode() for stem, _ in whole], dtype=bytes)
    return ShardIndex(path, names, np.array([place for _, place in whole], np.int64).reshape(-1, 4))


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(int(offset))
    return file.read(int(size))
