"""Files of masks: one format per module, each with `write(photos, folder)` and `read(path)`.

`write` returns the paths it wrote; `read` takes what `write` left (a folder, or one file of it).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path, PurePosixPath
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
    """A format. one_file: photos share a file, so all is written when the last photo is done.

    with_photos: it holds the photos too, so only `anymask everything` can write it. per_photo: each photo has a file
    that is named after it.
    """

    help: str
    one_file: bool = False
    with_photos: bool = False
    per_photo: bool = False


FORMATS = {
    "sa1b": About("one JSON for each photo, as SA-1B ships them; keeps everything", per_photo=True),
    "coco": About("annotations.json with RLE; keeps everything", one_file=True),
    "coco_polygons": About("annotations.json with polygons; fills holes", one_file=True),
    "yolo": About("labels/<photo>.txt with one polygon for each mask; fills holes", one_file=True, per_photo=True),
    "labelme": About("one labelme JSON for each photo; fills holes", per_photo=True),
    "cvat": About("annotations.xml as CVAT for images 1.1; keeps everything", one_file=True),
    "label_studio": About("label_studio.json with brushes, and the set-up; keeps everything", one_file=True),
    "png": About(
        "a folder for each photo with 0.png, 1.png … and metadata.csv, as amg.py of segment_anything", per_photo=True
    ),
    "parquet": About("masks.parquet with a row for each mask; keeps everything", one_file=True),
    "sa1b_shards": About("tar shards with photos and JSON, as SA-1B ships them", one_file=True, with_photos=True),
    "labelmap": About("one 16-bit PNG for each photo, 0 where there is none; no overlaps", per_photo=True),
}


WRITABLE = [name for name, about in FORMATS.items() if not about.with_photos]


def known_format(name: str) -> str:
    """The name of a format as FORMATS has it; hyphens may stand for underscores. OptionError lists the known ones."""
    known = name.replace("-", "_")
    if known not in FORMATS:
        raise unknown_name("format", name, list(FORMATS))
    return known


def find_format(name: str) -> Format:
    """The module of a format by name; OptionError lists the known ones."""
    name = known_format(name)
    module: Format = import_module(f"anymask.predict.formats.{name}")
    return module


def require_parts(name: str) -> None:
    """Raises MissingExtraError now rather than after hours of work, where a format needs what is not installed."""
    if known_format(name) == "parquet":
        from anymask.predict.formats.parquet import require_pyarrow

        require_pyarrow()


def write_masks(photos: Iterable[PhotoMasks], folder: str | Path, format_name: str) -> list[Path]:
    """Write the masks of photos in a format; the folder is made if needed.

    Where a file is named after its photo, a second photo of one name gets a number: `a`, `a-2`.
    """
    module = find_format(format_name)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if FORMATS[known_format(format_name)].per_photo:
        photos = _with_unique_stems(photos)
    return module.write(photos, folder)


def read_masks(path: str | Path, format_name: str | None = None) -> list[PhotoMasks]:
    """Read masks; the format is recognised where no name is given."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; expected a file or folder of masks.")
    return find_format(format_name or recognise(path)).read(path)


def _with_unique_stems(photos: Iterable[PhotoMasks]) -> Iterator[PhotoMasks]:
    taken: set[str] = set()
    for photo in photos:
        stem, number = photo.stem, 1
        while stem.lower() in taken:  # some file systems do not tell A from a
            number += 1
            stem = f"{photo.stem}-{number}"
        taken.add(stem.lower())
        yield photo if stem == photo.stem else replace(photo, file_name=stem + PurePosixPath(photo.file_name).suffix)


def recognise(path: Path) -> str:
    """Name of the format of a file or folder, from what lies there."""
    from anymask.predict.formats.files import load_json

    if path.is_dir():
        if (path / "annotations.json").is_file():
            return "coco"
        if (path / "annotations.xml").is_file():
            return "cvat"
        if (path / "label_studio.json").is_file():
            return "label_studio"
        if (path / "masks.parquet").is_file():
            return "parquet"
        if any(path.glob("*.tar")):
            return "sa1b_shards"
        if any(path.glob("labels/*.txt")) or any(path.glob("*.txt")):
            return "yolo"
        if any(path.glob("*/metadata.csv")) or (path / "metadata.csv").is_file():
            return "png"
        if any(path.glob("*.json")):
            path = min(path.glob("*.json"))
        elif any(path.glob("*.png")):
            return "labelmap"
    if path.is_file() and path.suffix == ".json":
        if _is_list(path):
            return "label_studio"
        content = load_json(path)
        for name, key in (("coco", "images"), ("labelme", "shapes"), ("sa1b", "image")):
            if key in content:
                return name
    by_suffix = {".txt": "yolo", ".png": "labelmap", ".tar": "sa1b_shards", ".parquet": "parquet", ".xml": "cvat"}
    if path.is_file() and path.suffix in by_suffix:
        return by_suffix[path.suffix]
    if path.is_file() and path.name == "metadata.csv":
        return "png"
    raise InputError(f"{path} holds no masks in a known format; name it: {', '.join(FORMATS)}.")


def _is_list(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
