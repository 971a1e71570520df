"""COCO with polygons, for tools that want no run lengths. Holes are filled; the rest comes back as it was."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from anymask.predict.formats.coco import FILE, read, to_json
from anymask.predict.formats.files import write_json
from anymask.predict.formats.outlines import to_outlines
from anymask.predict.records import PhotoMasks

__all__ = ["read", "write"]


def write(photos: Iterable[PhotoMasks], folder: Path) -> list[Path]:
    """annotations.json for all photos."""
    content = to_json(photos, lambda mask: [o.reshape(-1).tolist() for o in to_outlines(mask.rle)])
    return [write_json(content, folder / FILE)]
