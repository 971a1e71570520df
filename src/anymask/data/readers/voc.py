"""Pascal VOC: one palette PNG of all objects for each photo."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from anymask.core.errors import InputError, unknown_name
from anymask.data.readers.photo import (
    Photo,
    Problems,
    check_size,
    checked_hw,
    keep_readable,
    masks_of_labels,
    read_bytes,
)
from anymask.data.readers.pictures import read_label_map

VOID = 255  # VOC's border and difficult objects
CLASSES = (  # of the values in SegmentationClass; 0 is the background
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus"),
    *("car", "cat", "chair", "cow", "diningtable", "dog", "horse"),
    *("motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def read_voc(path: Path, split: str | None = None, *, problems: Problems | None = None) -> Iterator[Photo]:
    """Photos of a VOC folder (`JPEGImages`, `SegmentationObject`) with one mask per object.

    split: a list in `ImageSets/Segmentation`, such as "train" or "val"; otherwise all that have masks.
    """
    path = Path(path)
    names = sorted(p.stem for p in (path / "SegmentationObject").glob("*.png"))
    if split is not None:
        lists = path / "ImageSets" / "Segmentation"
        known = sorted(p.stem for p in lists.glob("*.txt"))
        if split not in known:
            raise unknown_name("VOC split", split, known)
        names = (lists / f"{split}.txt").read_text().split()
    if not names:
        raise InputError(f"{path / 'SegmentationObject'} has no .png; expected one for each photo.")
    return keep_readable((partial(_photo, path, name) for name in names), problems)


def _photo(path: Path, name: str) -> Photo:
    file = path / "JPEGImages" / f"{name}.jpg"
    encoded = read_bytes(file)
    hw = checked_hw(file, encoded)
    objects_file = path / "SegmentationObject" / f"{name}.png"
    objects = read_label_map(objects_file)
    check_size(objects_file, hw, (objects.shape[0], objects.shape[1]))
    rles, values = masks_of_labels(objects, background=(0, VOID))
    labels: list[str | None] = [None] * len(rles)
    classes_file = path / "SegmentationClass" / f"{name}.png"
    if classes_file.is_file():
        classes = read_label_map(classes_file)
        check_size(classes_file, hw, (classes.shape[0], classes.shape[1]))
        labels = [_word(classes[objects == value]) for value in values]
    return Photo(name, path.name, encoded, hw, rles, labels)


def _word(classes: np.ndarray) -> str | None:
    """The most frequent class of an object's pixels."""
    most = int(np.bincount(classes).argmax())
    return CLASSES[most] if 0 < most < len(CLASSES) else None
