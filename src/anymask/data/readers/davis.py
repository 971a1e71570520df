"""DAVIS: videos as folders of frames, and of palette PNGs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from anymask.core.errors import InputError, OptionError, unknown_name
from anymask.data.readers.photo import (
    DataError,
    Photo,
    Problems,
    check_size,
    checked_hw,
    keep_readable,
    masks_of_labels,
    read_bytes,
)
from anymask.data.readers.pictures import is_black_and_white, read_label_map

VOID = 255  # in pictures with several objects; alone (DAVIS 2016) it is the object


def read_davis(
    path: Path, resolution: str = "480p", *, every: int = 1, problems: Problems | None = None
) -> Iterator[Photo]:
    """Frames of a DAVIS folder, named `<video>/<frame>`; the source is the folder's name.

    resolution: the folder under `Annotations` and `JPEGImages`. every: take each n-th frame of a video.
    """
    path = Path(path)
    if every < 1:
        raise OptionError(f"every counts frames and must be 1 or more, got {every}.")
    known = sorted(p.name for p in (path / "Annotations").glob("*") if p.is_dir())
    if resolution not in known:
        raise unknown_name("resolution", resolution, known)
    videos = sorted(p for p in (path / "Annotations" / resolution).iterdir() if p.is_dir())
    masks = [file for video in videos for file in sorted(video.glob("*.png"))[::every]]
    if not masks:
        raise InputError(f"{path / 'Annotations' / resolution} has no <video>/<frame>.png.")
    return keep_readable((partial(_photo, path, resolution, file) for file in masks), problems)


def _photo(path: Path, resolution: str, mask: Path) -> Photo:
    video, frame = mask.parent.name, mask.stem
    folder = path / "JPEGImages" / resolution / video
    file = folder / f"{frame}.jpg"
    if not file.is_file():
        file = folder / f"{frame}.png"
    if not file.is_file():
        raise DataError("missing file", folder / f"{frame}.jpg", "the frame of this mask is not there.")
    encoded = read_bytes(file)
    hw = checked_hw(file, encoded)
    labels = read_label_map(mask)
    check_size(mask, hw, (labels.shape[0], labels.shape[1]))
    rles, _ = masks_of_labels(labels, background=(0,) if is_black_and_white(labels) else (0, VOID))
    return Photo(f"{video}/{frame}", path.name, encoded, hw, rles, [None] * len(rles))
