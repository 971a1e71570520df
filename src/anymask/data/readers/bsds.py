"""BSDS500: the segmentations of several people for each photo, in MATLAB files."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from anymask.core.errors import InputError, MissingExtraError
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


def read_bsds(path: Path, annotator: int | None = None, *, problems: Problems | None = None) -> Iterator[Photo]:
    """Photos of a BSDS500 folder (`images`, `groundTruth`, with or without split folders), all segments as masks.

    annotator: take this person's segments only, from 0; otherwise everybody's, which overlap and disagree.
    A person who did not see a photo is not a problem: it comes with no masks.
    """
    try:
        import scipy.io
    except ImportError as error:
        raise MissingExtraError(
            "BSDS500's ground truth is in MATLAB files. To read them: pip install 'anymask[data]'"
        ) from error
    root = bsds_root(Path(path))
    if root is None:
        raise InputError(f"{path} is not BSDS500; expected images/ and groundTruth/ with *.mat.")
    files = sorted((root / "groundTruth").rglob("*.mat"))
    jobs = (partial(_photo, root, file, annotator, scipy.io.loadmat) for file in files)
    return keep_readable(jobs, problems)


def bsds_root(path: Path) -> Path | None:
    """The folder that holds `images` and `groundTruth`: the path, or where the archive unpacks it."""
    for root in (path, path / "data", path / "BSDS500" / "data"):
        if (root / "images").is_dir() and any((root / "groundTruth").rglob("*.mat")):
            return root
    return None


def label_maps(file: Path, load: Any) -> list[np.ndarray]:
    """Label maps (H, W) of all people in a ground-truth file. load: `scipy.io.loadmat`."""
    try:
        people = load(file)["groundTruth"].ravel()
        return [np.asarray(person["Segmentation"][0, 0], np.int32) for person in people]
    except Exception as error:  # scipy raises anything on foreign data
        raise DataError(
            "broken record",
            file,
            f"not BSDS500 ground truth ({error!r}); expected groundTruth{{k}}.Segmentation.",
        ) from error


def _photo(root: Path, file: Path, annotator: int | None, load: Any) -> Photo:
    photo = root / "images" / file.relative_to(root / "groundTruth").with_suffix(".jpg")
    encoded = read_bytes(photo)
    hw = checked_hw(photo, encoded)
    maps = label_maps(file, load)
    rles: list[dict[str, Any]] = []
    for labels in maps if annotator is None else maps[annotator : annotator + 1]:
        check_size(file, hw, (labels.shape[0], labels.shape[1]))
        rles += masks_of_labels(labels)[0]
    return Photo(file.stem, "bsds", encoded, hw, rles, [None] * len(rles))
