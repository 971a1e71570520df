"""labelme: one JSON for each photo; the islands of a mask are polygons of one group. Holes are filled."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from anymask.core.errors import InputError
from anymask.predict.formats.coco import OBJECT
from anymask.predict.formats.files import files_in, load_json, naming, write_json
from anymask.predict.formats.outlines import of_outlines, to_outlines
from anymask.predict.records import MaskRecord, PhotoMasks

_VERSION = "5.5.0"  # of labelme, whose reader compares it


def write(photos: Iterable[PhotoMasks], folder: Path) -> list[Path]:
    """`<photo>.json` for each photo, beside which labelme looks for the photo itself."""
    return [write_json(_to_json(photo), folder / f"{photo.stem}.json") for photo in photos]


def read(path: Path) -> list[PhotoMasks]:
    """A JSON file, or all of a folder; only polygons."""
    photos = []
    for file in files_in(path, "*.json"):
        content = load_json(file)
        with naming(file):
            photos.append(_of_json(content))
    return photos


def _to_json(photo: PhotoMasks) -> dict[str, Any]:
    shapes = [
        {
            "label": mask.label or OBJECT,
            "points": outline.tolist(),
            "group_id": i,
            "description": "",
            "shape_type": "polygon",
            "flags": {},
        }
        for i, mask in enumerate(photo.masks)
        for outline in to_outlines(mask.rle)
    ]
    return {
        "version": _VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": photo.file_name,
        "imageData": None,
        "imageHeight": photo.hw[0],
        "imageWidth": photo.hw[1],
    }


def _of_json(content: dict[str, Any]) -> PhotoMasks:
    hw = (int(content["imageHeight"]), int(content["imageWidth"]))
    groups: dict[Any, list[np.ndarray]] = {}
    labels: dict[Any, str] = {}
    for i, shape in enumerate(content["shapes"]):
        if shape.get("shape_type", "polygon") != "polygon":
            raise InputError(f"shape {i} is a {shape['shape_type']}; only polygons can be read.")
        group = (i,) if shape.get("group_id") is None else shape["group_id"]
        groups.setdefault(group, []).append(np.array(shape["points"], dtype=np.float64))
        labels[group] = str(shape["label"])
    masks = [
        MaskRecord(of_outlines(outlines, hw), label=None if labels[group] == OBJECT else labels[group])
        for group, outlines in groups.items()
    ]
    return PhotoMasks(str(content["imagePath"]), hw, tuple(masks))
