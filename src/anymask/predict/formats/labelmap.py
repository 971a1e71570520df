"""A label map for each photo: 16-bit PNG, 0 where there is no mask, k for mask k. Masks cannot overlap in it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from anymask.core.errors import InputError
from anymask.core.files import write_aside
from anymask.core.geometry import MAX_PIXELS
from anymask.core.rle import encode_one
from anymask.predict.formats.files import files_in
from anymask.predict.hierarchy import label_map
from anymask.predict.records import MaskRecord, PhotoMasks

MOST = 2**16 - 1


def write(photos: Iterable[PhotoMasks], folder: Path) -> list[Path]:
    """`<photo>.png` for each photo; smaller masks lie over larger ones."""
    written = []
    for photo in photos:
        if len(photo.masks) > MOST:
            raise InputError(f"{photo.file_name} has {len(photo.masks)} masks; a 16-bit label map holds {MOST}.")
        labels = label_map([m.to_official() for m in photo.masks], photo.hw).astype(np.uint16)
        path = folder / f"{photo.stem}.png"
        with write_aside(path) as part:
            Image.fromarray(labels).save(part, format="PNG")
        written.append(path)
    return written


def read(path: Path) -> list[PhotoMasks]:
    """A PNG, or all of a folder; values that do not occur are no masks."""
    photos = []
    for file in files_in(path, "*.png"):
        labels = _read_labels(file)
        masks = [MaskRecord(encode_one(labels == value)) for value in np.unique(labels) if value]
        photos.append(PhotoMasks(file.name, (labels.shape[0], labels.shape[1]), tuple(masks)))
    return photos


def _read_labels(file: Path) -> np.ndarray:
    try:
        with Image.open(file) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise InputError(f"{file}: {picture.width}×{picture.height} pixels are more than {MAX_PIXELS:,}.")
            labels = np.asarray(picture)
    except (OSError, Image.DecompressionBombError) as error:
        raise InputError(f"{file} is no readable PNG.") from error
    if labels.ndim != 2 or labels.dtype.kind not in "ui":
        raise InputError(f"{file}: expected whole numbers (H, W), one a pixel, got {labels.shape} {labels.dtype}.")
    return labels
