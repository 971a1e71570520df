"""A folder for each photo with 0.png, 1.png … and metadata.csv, as amg.py of segment_anything writes them.

photo.json beside them tells the photo's name and size, which a photo without masks would lose otherwise.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from anymask.core.errors import InputError
from anymask.core.images import read_image, write_image
from anymask.core.rle import decode_one, encode_one
from anymask.predict.formats.files import load_json, naming, write_json, write_text
from anymask.predict.records import MaskRecord, PhotoMasks

HEADER = (
    "id,area,bbox_x0,bbox_y0,bbox_w,bbox_h,point_input_x,point_input_y,predicted_iou,stability_score,"
    "crop_box_x0,crop_box_y0,crop_box_w,crop_box_h"
)


def write(photos: Iterable[PhotoMasks], folder: Path) -> list[Path]:
    """A folder `<photo>` for each photo; PNGs of an earlier run that are no longer masks are removed."""
    written = []
    for photo in photos:
        place = folder / photo.stem
        place.mkdir(exist_ok=True)
        for old in place.glob("*.png"):
            if old.stem.isdigit() and int(old.stem) >= len(photo.masks):
                old.unlink()
        for i, mask in enumerate(photo.masks):
            write_image(place / f"{i}.png", decode_one(mask.rle))
        height, width = photo.hw
        about = {"file_name": photo.file_name, "height": height, "width": width, "image_id": photo.image_id}
        write_json(about, place / "photo.json")
        written.append(write_text(_table(photo), place / "metadata.csv"))
    return written


def read(path: Path) -> list[PhotoMasks]:
    """One such folder, or a folder of them; also those of amg.py, unless they hold no mask."""
    place = path.parent if path.is_file() else path
    if (place / "metadata.csv").is_file():
        return [_read_one(place)]
    return [_read_one(p.parent) for p in sorted(place.glob("*/metadata.csv"))]


def _table(photo: PhotoMasks) -> str:
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(HEADER.split(","))
    for i, mask in enumerate(photo.masks):
        scores = [mask.predicted_iou, mask.stability_score]
        point, crop = mask.point_xy or (None, None), mask.crop_xywh or (None,) * 4
        rows.writerow([i, mask.num_px, *mask.box_xywh, *point, *scores, *crop])
    return table.getvalue()


def _read_one(place: Path) -> PhotoMasks:
    table = place / "metadata.csv"
    with naming(table), table.open(encoding="utf-8", newline="") as lines:
        masks = [_mask(row, place) for row in csv.DictReader(lines)]
    if (place / "photo.json").is_file():
        about = load_json(place / "photo.json")
        with naming(place / "photo.json"):
            hw = (int(about["height"]), int(about["width"]))
            return PhotoMasks(str(about["file_name"]), hw, tuple(masks), int(about.get("image_id", 0)))
    if not masks:
        raise InputError(f"{place} holds no mask and no photo.json, so the photo's size is not known.")
    height, width = masks[0].rle["size"]
    return PhotoMasks(f"{place.name}.jpg", (height, width), tuple(masks))


def _mask(row: dict[str, str], place: Path) -> MaskRecord:
    def numbers(*names: str) -> tuple[float, ...] | None:
        return tuple(float(row[n]) for n in names) if all(row.get(n) for n in names) else None

    point = numbers("point_input_x", "point_input_y")
    crop = numbers("crop_box_x0", "crop_box_y0", "crop_box_w", "crop_box_h")
    iou, score = numbers("predicted_iou"), numbers("stability_score")
    return MaskRecord(
        encode_one(_read_mask(place / f"{row['id']}.png")),
        iou[0] if iou else None,
        score[0] if score else None,
        (point[0], point[1]) if point else None,
        (crop[0], crop[1], crop[2], crop[3]) if crop else None,
    )


def _read_mask(file: Path) -> np.ndarray:
    if not file.is_file():
        raise InputError(f"{file.name} is in the table but not in the folder.")
    try:
        with Image.open(file) as picture:
            is_black_and_white = picture.mode in ("1", "L")
            values = np.asarray(picture.convert("L")) if is_black_and_white else read_image(file).max(axis=2)
    except OSError as error:
        raise InputError(f"{file.name} is no readable picture.") from error
    return np.asarray(values > 127)
