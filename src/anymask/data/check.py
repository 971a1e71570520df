"""Looks through a data set before anyone trains on it: what is broken, and what the masks look like."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco

from anymask.core.errors import ImageError
from anymask.core.files import write_aside
from anymask.core.images import read_image
from anymask.core.rle import to_compressed
from anymask.data.readers import Photo, Problems, layout_of, open_dataset
from anymask.data.statistics import Statistics

SAME_IOU = 0.99  # masks of one photo that overlap this much are the same object twice


@dataclass(frozen=True)
class SetReport:
    """What was found in one path. summary: see `Statistics.summary`."""

    path: str
    layout: str
    problems: Problems
    summary: dict[str, Any]

    @property
    def name(self) -> str:
        """Short name for tables and figures."""
        return Path(self.path).stem


def check_dataset(path: str | Path, on_photo: Callable[[], None] = lambda: None) -> SetReport:
    """Reads and decodes every photo and mask of a data set. on_photo: called after each, for a progress bar."""
    problems, statistics = Problems(), Statistics()
    seen: dict[bytes, str] = {}
    for photo in open_dataset(path, problems=problems):
        file = f"{path}: {photo.source}/{photo.name}"
        _check_pixels(photo, file, problems)
        _check_masks(photo, file, problems)
        twin = seen.setdefault(hashlib.sha1(photo.encoded).digest(), photo.name)
        if twin != photo.name:
            problems.add("duplicate photo", file, f"the same picture as {twin}.")
        statistics.add(photo)
        on_photo()
    return SetReport(str(path), layout_of(path), problems, statistics.summary())


def write_report(reports: list[SetReport], path: Path) -> None:
    """All problems and statistics as JSON."""
    content = [
        {
            "path": report.path,
            "layout": report.layout,
            "problems": {
                "counts": report.problems.counts(),
                "list": [asdict(p) for p in report.problems.found],
            },
            "statistics": report.summary,
        }
        for report in reports
    ]
    with write_aside(path) as part:
        part.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")


def _check_pixels(photo: Photo, file: str, problems: Problems) -> None:
    """Decodes the whole photo: a header says nothing about damage in the middle."""
    try:
        read_image(photo.encoded)
    except ImageError as error:
        problems.add("unreadable photo", file, str(error))


def _check_masks(photo: Photo, file: str, problems: Problems) -> None:
    rles = []
    for i, rle in enumerate(photo.rles):
        packed = to_compressed(rle)
        packed["counts"] = packed["counts"].encode("ascii")
        if coco.area(packed) == 0:
            problems.add("empty mask", file, f"mask {i} has no pixel.")
        else:
            rles.append((i, packed))
    if len(rles) < 2:
        return
    packed_rles = [rle for _, rle in rles]
    overlap = np.triu(coco.iou(packed_rles, packed_rles, [0] * len(rles)), k=1)
    for j in np.flatnonzero((overlap >= SAME_IOU).any(axis=0)):  # each copy once, beside the first
        i = int(overlap[:, j].argmax())
        problems.add("duplicate mask", file, f"masks {rles[i][0]} and {rles[j][0]} have IoU {overlap[i, j]:.3f}.")
