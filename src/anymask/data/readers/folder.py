"""A folder of one's own: `images/x.jpg` with `masks/x.png`, or with a folder of masks `masks/x/*.png`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from anymask.core.errors import InputError
from anymask.core.rle import encode_one
from anymask.data.readers.photo import (
    PHOTO_SUFFIXES,
    DataError,
    Photo,
    Problems,
    check_size,
    checked_hw,
    complain,
    keep_readable,
    masks_of_labels,
    read_bytes,
)
from anymask.data.readers.pictures import read_label_map


def read_folder(path: Path, problems: Problems | None = None) -> Iterator[Photo]:
    """Photos of `images/` with the masks of the same name in `masks/`.

    `masks/x.png`: every value but 0 (or every colour but black) is a mask. `masks/x/*.png`: each file is one mask,
    where it is not 0; the file's name is its label, unless it is a number.
    """
    path = Path(path)
    photos = sorted(p for p in (path / "images").glob("*") if p.suffix.lower() in PHOTO_SUFFIXES)
    if not photos:
        raise InputError(f"{path / 'images'} has no photos; expected {', '.join(PHOTO_SUFFIXES)}.")
    stems = {photo.stem for photo in photos}
    for mask in sorted((path / "masks").iterdir()):
        if mask.stem not in stems and (mask.is_dir() or mask.suffix.lower() in PHOTO_SUFFIXES):
            complain(problems, "missing file", mask, f"no photo {mask.stem}.jpg in images/ for this mask.")
    return keep_readable((partial(_photo, path, photo) for photo in photos), problems)


def _photo(path: Path, photo: Path) -> Photo:
    encoded = read_bytes(photo)
    hw = checked_hw(photo, encoded)
    single = next((f for s in PHOTO_SUFFIXES if (f := path / "masks" / f"{photo.stem}{s}").is_file()), None)
    folder = path / "masks" / photo.stem
    rles: list[dict[str, Any]] = []
    labels: list[str | None] = []
    if single is not None:
        if single.suffix.lower() in (".jpg", ".jpeg"):
            raise DataError("broken record", single, "JPEG changes the values of masks; save them as PNG.")
        label_map = read_label_map(single)
        check_size(single, hw, (label_map.shape[0], label_map.shape[1]))
        rles, values = masks_of_labels(label_map)
        labels = [None] * len(values)
    elif folder.is_dir():
        for file in sorted(folder.glob("*.png")):
            label_map = read_label_map(file)
            check_size(file, hw, (label_map.shape[0], label_map.shape[1]))
            rles.append(encode_one(label_map != 0))
            labels.append(None if file.stem.strip("_-0123456789") == "" else file.stem)
    else:
        raise DataError(
            "missing file", photo, f"no masks: expected masks/{photo.stem}.png or masks/{photo.stem}/*.png."
        )
    return Photo(photo.stem, path.name, encoded, hw, rles, labels)
