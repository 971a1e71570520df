"""A COCO or LVIS file and its photos, as cases of one photo each; what is missing is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from anymask.core.errors import InputError
from anymask.core.images import read_image
from anymask.core.rle import to_compressed
from anymask.data.readers.coco import find_images
from anymask.evaluate.contract import Case


def load_truth(path: Path) -> dict[str, Any]:
    """A COCO or LVIS data set from JSON."""
    try:
        truth = json.loads(Path(path).read_text())
        if not truth["images"]:
            raise InputError(f"{path} has no entry in 'images'.")
        if not truth["annotations"] or not truth["categories"]:
            raise InputError(f"{path} has no annotations or no categories; there is nothing to score against.")
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a COCO or LVIS file: {error!r}.") from error
    return dict(truth)


def photo_cases(truth: dict[str, Any], path: Path, images: Path | None, problems: list[str]) -> list[Case]:
    """A case for each photo of the truth that is there; payload: (id, path)."""
    records = [{**r, "file_name": _file_name(r)} for r in truth["images"]]
    folder = images or find_images(Path(path), records[0]["file_name"])
    cases = []
    for record in records:
        file = _file(folder, record)
        if file is None:
            problems.append(f"{record['file_name']}: the photo is not in {folder}")
        else:
            cases.append(Case(str(record["id"]), Path(path).stem, (record["id"], file, record["file_name"])))
    return cases


def load_photo(case: Case, truth: dict[str, Any]) -> Any:
    """The photo (H, W, 3) uint8 of a case; InputError where its size is not the record's."""
    image = read_image(case.payload[1])
    record = next(r for r in truth["images"] if r["id"] == case.payload[0])
    if image.shape[:2] != (record["height"], record["width"]):
        raise InputError(
            f"{case.payload[2]} is {image.shape[0]}×{image.shape[1]} (H×W), its record says "
            f"{record['height']}×{record['width']}."
        )
    return image


def part_of(truth: dict[str, Any], image_ids: set[Any]) -> dict[str, Any]:
    """The truth of some photos."""
    return {
        **truth,
        "images": [r for r in truth["images"] if r["id"] in image_ids],
        "annotations": [dict(a) for a in truth["annotations"] if a["image_id"] in image_ids],
    }


def load_results(path: Path) -> list[dict[str, Any]]:
    """A list of results in COCO's JSON form."""
    try:
        results = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(results, list) or not all(isinstance(r, dict) for r in results):
        raise InputError(f"{path} is not a list of results: [{{image_id, category_id, bbox, score}}, …].")
    return results


def plain(rle: dict[str, Any]) -> dict[str, Any]:
    """RLE that JSON can hold."""
    return to_compressed(rle)


def _file_name(record: dict[str, Any]) -> str:
    name = record.get("file_name") or str(record.get("coco_url", "")).rsplit("/", 1)[-1]
    if not name:
        raise InputError(f"image {record.get('id')} has no 'file_name'.")
    return str(name)


def _file(folder: Path, record: dict[str, Any]) -> Path | None:
    tries = [folder / record["file_name"]]
    if isinstance(record.get("coco_url"), str):  # LVIS mixes the folders of two COCO splits
        tries.append(folder.joinpath(*record["coco_url"].split("/")[-2:]))
    return next((file for file in tries if file.is_file()), None)
