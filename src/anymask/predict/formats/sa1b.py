"""SA-1B: one JSON for each photo. Keeps everything that a record holds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from anymask.predict.formats.files import files_in, load_json, naming, write_json
from anymask.predict.records import PhotoMasks


def write(photos: Iterable[PhotoMasks], folder: Path) -> list[Path]:
    """`<photo>.json` for each photo."""
    return [write_json(to_json(photo), folder / f"{photo.stem}.json") for photo in photos]


def read(path: Path) -> list[PhotoMasks]:
    """A JSON file, or all of a folder."""
    photos = []
    for file in files_in(path, "*.json"):
        content = load_json(file)
        with naming(file):
            photos.append(of_json(content))
    return photos


def to_json(photo: PhotoMasks) -> dict[str, Any]:
    """The content of one file."""
    height, width = photo.hw
    return {
        "image": {"image_id": photo.image_id, "width": width, "height": height, "file_name": photo.file_name},
        "annotations": [{"id": i, **mask.to_official()} for i, mask in enumerate(photo.masks)],
    }


def of_json(content: dict[str, Any]) -> PhotoMasks:
    """A photo from the content of one file; the opposite of `to_json`."""
    image = content["image"]
    hw = (int(image["height"]), int(image["width"]))
    return PhotoMasks.of(str(image["file_name"]), hw, content["annotations"], int(image.get("image_id", 0)))
