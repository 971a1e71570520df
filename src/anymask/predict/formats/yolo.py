"""YOLO segmentation: labels/<photo>.txt, a class and one polygon in 0 … 1 on each line. Holes are filled.

A mask of several islands becomes one polygon, joined by paths of no width. The lines do not tell the photo's size,
so sizes.csv does; without it, photos in images/ are asked.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from anymask.core.errors import InputError
from anymask.core.images import image_hw
from anymask.predict.formats.coco import OBJECT
from anymask.predict.formats.files import files_in, naming, write_text
from anymask.predict.formats.outlines import joined, of_outlines, to_outlines
from anymask.predict.records import MaskRecord, PhotoMasks

_SIZES = "sizes.csv"
_NAMES = "data.yaml"


def write(photos: Iterable[PhotoMasks], folder: Path) -> list[Path]:
    """A text file for each photo, data.yaml with the classes, sizes.csv; both grow with every call."""
    (folder / "labels").mkdir(exist_ok=True)
    sizes, names, written = _read_sizes(folder), _read_names(folder), []
    for photo in photos:
        lines = []
        for mask in photo.masks:
            label = mask.label or OBJECT
            if label not in names:
                names.append(label)
            outlines = to_outlines(mask.rle)
            if outlines:
                xy = joined(outlines) / np.array(photo.hw[::-1])
                lines.append(" ".join([str(names.index(label)), *(f"{v:.9g}" for v in xy.reshape(-1))]))
        path = folder / "labels" / f"{photo.stem}.txt"
        written.append(write_text("".join(line + "\n" for line in lines), path))
        sizes[photo.stem] = (photo.file_name, photo.hw)
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["stem", "file_name", "height", "width"])
    rows.writerows([stem, name, *hw] for stem, (name, hw) in sizes.items())
    write_text(table.getvalue(), folder / _SIZES)
    classes = "".join(f"  {i}: {json.dumps(name)}\n" for i, name in enumerate(names or [OBJECT]))
    write_text(f"path: .\ntrain: images\nval: images\nnames:\n{classes}", folder / _NAMES)
    return [*written, folder / _SIZES, folder / _NAMES]


def read(path: Path) -> list[PhotoMasks]:
    """A folder as `write` leaves it, its labels folder, or one text file."""
    folder = path.parent if path.is_file() else path
    root = folder.parent if folder.name == "labels" else folder
    sizes, names = _read_sizes(root), _read_names(root)
    labels = path if path.is_file() or not (root / "labels").is_dir() else root / "labels"
    photos = []
    for file in files_in(labels, "*.txt"):
        with naming(file):
            file_name, hw = sizes.get(file.stem) or _size_of_photo(root, file.stem)
            masks = [_mask(line, names, hw) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
            photos.append(PhotoMasks(file_name, hw, tuple(masks)))
    return photos


def _mask(line: str, names: list[str], hw: tuple[int, int]) -> MaskRecord:
    kind, *numbers = line.split()
    outline = np.array([float(n) for n in numbers]).reshape(-1, 2) * np.array(hw[::-1])
    label = names[int(kind)] if int(kind) < len(names) else f"class {int(kind)}"
    near = outline.round()
    outline = np.where(np.abs(outline - near) < 1e-3, near, outline)  # undo the rounding of the text
    return MaskRecord(of_outlines([outline], hw), label=None if label == OBJECT else label)


def _read_sizes(root: Path) -> dict[str, tuple[str, tuple[int, int]]]:
    file = root / _SIZES
    if not file.is_file():
        return {}
    with naming(file), file.open(encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines)
        return {r["stem"]: (r["file_name"], (int(r["height"]), int(r["width"]))) for r in rows}


def _read_names(root: Path) -> list[str]:
    """Class names of data.yaml as `write` leaves it: a line `0: "name"` each."""
    file = root / _NAMES
    if not file.is_file():
        return []
    with naming(file):
        lines = file.read_text(encoding="utf-8").partition("names:\n")[2].splitlines()
        texts = [line.partition(":")[2].strip() for line in lines if line.startswith("  ")]
        return [json.loads(text) if text.startswith('"') else text for text in texts]


def _size_of_photo(root: Path, stem: str) -> tuple[str, tuple[int, int]]:
    for folder in (root / "images", root):
        for photo in sorted(folder.glob(f"{stem}.*")):
            if photo.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"):
                return photo.name, image_hw(photo)
    raise InputError(f"the size of photo {stem!r} is not known; put it into images/, or a line into {_SIZES}.")
