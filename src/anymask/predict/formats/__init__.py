"""Files of masks: one format per module, each with `write(photos, folder)` and `read(path)`.

`write` returns the paths it wrote; `read` takes what `write` left (a folder, or one file of it).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

from anymask.core.errors import InputError, unknown_name
from anymask.predict.records import PhotoMasks


class Format(Protocol):
    """What a module of this folder offers. Both raise InputError, naming the file."""

    def write(self, photos: Iterable[PhotoMasks], folder: Path) -> list[Path]:
        """Write the masks of photos into a folder that exists."""
        ...

    def read(self, path: Path) -> list[PhotoMasks]:
        """Read them again."""
        ...


@dataclass(frozen=True)
class About:
    """A format. one_file: photos share a file, so all is written when the last photo is done."""

    help: str
    one_file: bool = False


FORMATS = {
    "sa1b": About("one JSON for each photo, as SA-1B ships them; keeps everything"),
    "coco": About("annotations.json with RLE; keeps everything", one_file=True),
    "coco_polygons": About("annotations.json with polygons; fills holes", one_file=True),
    "yolo": About("labels/<photo>.txt with one polygon for each mask; fills holes", one_file=True),
    "labelme": About("one labelme JSON for each photo; fills holes"),
    "png": About("a folder for each photo with 0.png, 1.png … and metadata.csv, as amg.py of segment_anything"),
    "labelmap": About("one 16-bit PNG for each photo, 0 where there is none; no overlaps"),
}


def find_format(name: str) -> Format:
    """The module of a format by name; OptionError lists the known ones."""
    if name not in FORMATS:
        raise unknown_name("format", name, list(FORMATS))
    module: Format = import_module(f"anymask.predict.formats.{name}")
    return module


def write_masks(photos: Iterable[PhotoMasks], folder: str | Path, format_name: str) -> list[Path]:
    """Write the masks of photos in a format; the folder is made if needed."""
    module = find_format(format_name)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return module.write(photos, folder)


def read_masks(path: str | Path, format_name: str | None = None) -> list[PhotoMasks]:
    """Read masks; the format is recognised where no name is given."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; expected a file or folder of masks.")
    return find_format(format_name or recognise(path)).read(path)


def recognise(path: Path) -> str:
    """Name of the format of a file or folder, from what lies there."""
    from anymask.predict.formats.files import load_json

    if path.is_dir():
        if (path / "annotations.json").is_file():
            return "coco"
        if any(path.glob("labels/*.txt")) or any(path.glob("*.txt")):
            return "yolo"
        if any(path.glob("*/metadata.csv")) or (path / "metadata.csv").is_file():
            return "png"
        if any(path.glob("*.json")):
            path = min(path.glob("*.json"))
        elif any(path.glob("*.png")):
            return "labelmap"
    if path.is_file() and path.suffix == ".json":
        content = load_json(path)
        for name, key in (("coco", "images"), ("labelme", "shapes"), ("sa1b", "image")):
            if key in content:
                return name
    if path.is_file() and path.suffix in (".txt", ".png"):
        return {".txt": "yolo", ".png": "labelmap"}[path.suffix]
    if path.is_file() and path.name == "metadata.csv":
        return "png"
    raise InputError(f"{path} holds no masks in a known format; name it: {', '.join(FORMATS)}.")
