"""`Photo`, what every reader yields, and the checks each photo passes on its way in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco

from anymask.core.errors import ImageError, InputError
from anymask.core.images import image_hw
from anymask.core.rle import RLE, area, encode_one

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
OUTSIDE_PX = 1.0  # a polygon may leave its photo by this much, as rounding does


@dataclass(frozen=True)
class Photo:
    """One encoded photo and its masks.

    name: unique within its set. source: name of the set. encoded: JPEG or PNG bytes.
    hw: size of the masks (H, W). rles: COCO RLE of each mask. labels: a word for each mask, or None.
    """

    name: str
    source: str
    encoded: bytes
    hw: tuple[int, int]
    rles: list[dict[str, Any]]
    labels: list[str | None] = field(default_factory=list)


@dataclass(frozen=True)
class Problem:
    """Something wrong with one file or one of its masks. kind: see KINDS."""

    kind: str
    file: str
    message: str


KINDS = (
    "unreadable photo",  # broken, cut off, or no picture at all
    "missing file",  # a photo or its masks are named but not there
    "broken record",  # JSON, MAT or mask PNG that cannot be read
    "size mismatch",  # masks and photo are of different sizes
    "broken mask",  # damaged RLE, polygon of two points, not a number
    "out of range",  # a mask that leaves its photo
    "empty mask",
    "duplicate mask",
    "duplicate photo",
)


class DataError(InputError):
    """A photo or its masks cannot be used; knows the kind of problem and the file."""

    def __init__(self, kind: str, file: str | Path, message: str) -> None:
        super().__init__(f"{file}: {message}")
        self.problem = Problem(kind, str(file), message)

    def __reduce__(self) -> tuple[Any, ...]:
        return DataError, (self.problem.kind, self.problem.file, self.problem.message)


class Problems:
    """Collects what a reader skips. A reader that is given none raises at the first problem instead."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, kind: str, file: str | Path, message: str) -> None:
        self.found.append(Problem(kind, str(file), message))

    def counts(self) -> dict[str, int]:
        """Number of problems of each kind that occurred, in the order of KINDS."""
        counted = {kind: sum(p.kind == kind for p in self.found) for kind in KINDS}
        return {kind: n for kind, n in counted.items() if n}

    def __len__(self) -> int:
        return len(self.found)


def complain(problems: Problems | None, kind: str, file: str | Path, message: str) -> None:
    """Count a problem, or raise DataError where nobody collects."""
    if problems is None:
        raise DataError(kind, file, message)
    problems.add(kind, file, message)


def keep_readable(jobs: Iterable[Callable[[], Photo]], problems: Problems | None) -> Iterator[Photo]:
    """The photos that the jobs make; one that cannot be made is skipped and counted, or raises."""
    for job in jobs:
        try:
            photo = job()
        except DataError as error:
            if problems is None:
                raise
            problems.found.append(error.problem)
            continue
        yield photo


def read_bytes(path: Path) -> bytes:
    """Content of a photo that a record names."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError("missing file", path, "the photo is not there. Fetch it, or fix its name.") from None
    except OSError as error:
        raise DataError("unreadable photo", path, f"cannot be read: {error.strerror}.") from error


def checked_hw(file: str | Path, encoded: bytes) -> tuple[int, int]:
    """Size (H, W) of an encoded photo, from its header; raises for what is no photo, or a JPEG cut off.

    Damage in the middle shows only when decoding: `anymask data check` does.
    """
    try:
        hw = image_hw(encoded)
    except ImageError as error:
        reason = str(error).removeprefix("the bytes ").removeprefix("cannot be read as an image: ")
        raise DataError("unreadable photo", file, f"no readable photo: {reason}") from error
    if encoded.startswith(b"\xff\xd8") and b"\xff\xd9" not in encoded[-65536:]:
        raise DataError("unreadable photo", file, "the JPEG is cut off. Fetch it again.")
    return hw


def check_size(file: str | Path, photo_hw: tuple[int, int], masks_hw: tuple[int, int]) -> None:
    """Masks must have the size of their photo."""
    if photo_hw == masks_hw:
        return
    turned = photo_hw == masks_hw[::-1]
    hint = " The photo may be turned by its EXIF note, and the masks not." if turned else ""
    raise DataError(
        "size mismatch",
        file,
        f"the photo is {photo_hw[0]}×{photo_hw[1]} (H×W), its masks are {masks_hw[0]}×{masks_hw[1]}.{hint} "
        "Resize one of them.",
    )


def check_rles(rles: Sequence[Any], hw: tuple[int, int]) -> dict[int, tuple[str, str]]:
    """Kind of problem and reason of each RLE that is damaged or not of the photo's size (H, W), by its place."""
    texts = [r["counts"] if isinstance(r, dict) and isinstance(r.get("counts"), str) else "" for r in rles]
    sums = _sums_of_runs(texts)
    wrong = {}
    for i, rle in enumerate(rles):
        if sums[i] == hw[0] * hw[1] and rle.get("size") == list(hw):
            continue
        try:
            area(rle)
        except InputError as error:
            wrong[i] = ("broken mask", f"cannot be read: {error}")
            continue
        if tuple(rle["size"]) != hw:
            wrong[i] = ("size mismatch", f"is {rle['size']} (H, W), its photo {list(hw)}.")
    return wrong


def _sums_of_runs(texts: Sequence[str]) -> np.ndarray:
    """Pixels that each compressed text describes, -1 for one that is none: all texts in one pass.

    `core.rle` reads one text at a time, which takes longer than everything else in reading a shard. Each run but
    the first three is stored as the difference to the run before the last, so it counts once for itself and
    once for every second run after it.
    """
    sums = np.full(len(texts), -1, np.int64)
    whole = [i for i, text in enumerate(texts) if text and text.isascii() and (ord(text[-1]) - 48) & 32 == 0]
    if not whole:
        return sums
    codes = np.frombuffer("".join(texts[i] for i in whole).encode(), np.uint8).astype(np.int64) - 48
    ends = np.cumsum([len(texts[i]) for i in whole])
    starts = np.concatenate([[0], ends[:-1]])
    last = np.flatnonzero((codes & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(codes.size) - np.repeat(first, last - first + 1)
    stored = np.add.reduceat((codes & 31) << (5 * np.minimum(place, 11)), first)
    stored -= np.where(codes[last] & 16, 1 << (5 * np.minimum(last - first + 1, 11)), 0)
    first_run = np.searchsorted(first, starts)
    num_runs = np.diff(np.append(first_run, len(first)))
    index = np.arange(len(first)) - np.repeat(first_run, num_runs)
    times = np.where(index == 0, 1, (np.repeat(num_runs, num_runs) - 1 - index) // 2 + 1)
    sums[whole] = np.add.reduceat(stored * times, first_run)
    return sums


def masks_of_labels(labels: np.ndarray, background: Sequence[int] = (0,)) -> tuple[list[RLE], list[int]]:
    """RLE of every value of a label map (H, W), and the values; those of `background` are left out."""
    values = [int(v) for v in np.unique(labels) if int(v) not in background]
    return [encode_one(labels == v) for v in values], values


def rle_of_polygons(polygons: Any, hw: tuple[int, int]) -> RLE:
    """RLE of the union of COCO polygons `[[x, y, x, y, …], …]`; ValueError with the reason if there is none.

    Raises OverflowError where a point lies outside the photo by more than OUTSIDE_PX.
    """
    if not isinstance(polygons, list) or not polygons:
        raise ValueError("it has no polygon")
    clipped = []
    for polygon in polygons:
        try:
            xy = np.asarray(polygon, np.float64).reshape(-1, 2)
        except (ValueError, TypeError):
            raise ValueError("a polygon is not a flat list x, y, x, y, … of numbers") from None
        if len(xy) < 3 or not np.isfinite(xy).all():
            raise ValueError("a polygon needs three points or more, all finite")
        limit = np.array([hw[1], hw[0]], np.float64)
        if (xy < -OUTSIDE_PX).any() or (xy > limit + OUTSIDE_PX).any():
            low, high = xy.min(axis=0), xy.max(axis=0)
            raise OverflowError(
                f"x {low[0]:.0f} to {high[0]:.0f}, y {low[1]:.0f} to {high[1]:.0f} leaves the photo of "
                f"{hw[1]:.0f}×{hw[0]:.0f} (W×H)"
            )
        clipped.append(xy.clip(0, limit).ravel().tolist())
    merged = coco.merge(coco.frPyObjects(clipped, *hw))
    return {"size": list(hw), "counts": merged["counts"].decode("ascii")}
