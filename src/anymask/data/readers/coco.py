"""COCO and LVIS: one JSON with polygons or RLE, and the photos in a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from anymask.core.errors import InputError
from anymask.core.rle import RLE, to_compressed
from anymask.data.readers.photo import (
    DataError,
    Photo,
    Problems,
    check_size,
    checked_hw,
    complain,
    keep_readable,
    read_bytes,
    rle_of_polygons,
)


def read_coco(
    path: Path, images: Path | None = None, *, crowd: bool = False, problems: Problems | None = None
) -> Iterator[Photo]:
    """Photos of a COCO or LVIS JSON; images without annotations come with no masks.

    images: the folder that `file_name` starts from; else it is looked for beside the JSON, in `images/`, and in
    the folder that the JSON is named after (`instances_val2017.json`: `val2017/`).
    crowd: keep annotations with `iscrowd` 1, which cover several objects with one mask.
    """
    return photos_of_coco(_load(Path(path)), Path(path), images, crowd=crowd, problems=problems)


def photos_of_coco(
    content: dict[str, Any],
    path: Path,
    images: Path | None = None,
    *,
    crowd: bool = False,
    problems: Problems | None = None,
) -> Iterator[Photo]:
    """As `read_coco`, from the content of the JSON at `path`."""
    records, annotations = content["images"], content["annotations"]
    words = {c.get("id"): c.get("name") for c in content.get("categories", []) if isinstance(c, dict)}
    try:
        by_image: dict[Any, list[dict[str, Any]]] = {record["id"]: [] for record in records}
    except (TypeError, KeyError):
        raise DataError("broken record", path, "an entry of 'images' has no 'id'.") from None
    for i, annotation in enumerate(annotations):
        if not isinstance(annotation, dict) or annotation.get("image_id") not in by_image:
            complain(problems, "broken record", path, f"annotation {i} belongs to no entry of 'images'.")
            continue
        if crowd or not annotation.get("iscrowd"):
            by_image[annotation["image_id"]].append(annotation)
    if not records:
        return iter(())
    folder = Path(images) if images is not None else find_images(path, _file_name(records[0], path))
    jobs = (partial(_photo, path, folder, r, by_image[r["id"]], words, problems) for r in records)
    return keep_readable(jobs, problems)


def is_coco(path: Path) -> bool:
    """Whether a JSON file begins like a COCO file: told from its first 64 kB where those hold a key we know."""
    with path.open("rb") as file:
        head = file.read(65536)
    return b'"images"' in head or (b'"annotations"' in head and b'"image"' not in head)


def find_images(path: Path, file_name: str) -> Path:
    """The folder where the photos of a COCO JSON are, or InputError naming the folders that were tried."""
    split = path.stem.split("_")[-1]
    above = path.parent.parent
    tried = [path.parent, path.parent / "images", path.parent / split, above / split, above / "images"]
    tried += [above / "images" / split, path.with_suffix(""), above]
    for folder in tried:
        if (folder / file_name).is_file():
            return folder
    for folder in tried:  # the first photo may be the one that is missing
        if folder not in (path.parent, above) and folder.is_dir():
            return folder
    listed = ", ".join(str(f) for f in tried)
    raise InputError(f"{path}: {file_name} is in none of {listed}. Put the photos in {tried[1]}.")


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path} is not there; expected a COCO JSON file.") from None
    except (ValueError, RecursionError) as error:
        raise DataError("broken record", path, f"not valid JSON: {error}. Export it again.") from error
    keys = sorted(content) if isinstance(content, dict) else type(content).__name__
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in ("images", "annotations")):
        raise DataError(
            "broken record", path, f"not a COCO file: expected lists 'images' and 'annotations', got {keys}."
        )
    return content


def _file_name(record: dict[str, Any], path: Path) -> str:
    if isinstance(record.get("file_name"), str):
        return str(record["file_name"])
    if isinstance(record.get("coco_url"), str):  # LVIS: …/val2017/000000397133.jpg
        return str(record["coco_url"]).rsplit("/", 1)[-1]
    raise DataError("broken record", path, f"image {record.get('id')} has no 'file_name'.")


def _photo(
    path: Path,
    folder: Path,
    record: dict[str, Any],
    annotations: list[dict[str, Any]],
    words: dict[Any, str | None],
    problems: Problems | None,
) -> Photo:
    name = _file_name(record, path)
    file = folder / name
    url = record.get("coco_url")
    if not file.is_file() and isinstance(url, str):  # LVIS mixes the folders of two COCO splits
        file = folder.joinpath(*url.split("/")[-2:])
    encoded = read_bytes(file if file.is_file() else folder / name)
    hw = checked_hw(file, encoded)
    if "height" in record and "width" in record:
        check_size(file, hw, (record["height"], record["width"]))
    rles, labels = [], []
    for annotation in annotations:
        try:
            rles.append(_rle(annotation.get("segmentation"), hw))
            labels.append(words.get(annotation.get("category_id")))
            continue
        except OverflowError as error:
            kind, reason = "out of range", str(error)
        except (ValueError, TypeError) as error:
            kind, reason = "broken mask", str(error)
        complain(problems, kind, path, f"annotation {annotation.get('id')} of {name}: {reason}.")
    return Photo(name, path.stem, encoded, hw, rles, labels)


def _rle(segmentation: Any, hw: tuple[int, int]) -> RLE:
    if not isinstance(segmentation, dict):
        return rle_of_polygons(segmentation, hw)
    rle = to_compressed(segmentation)
    if tuple(rle["size"]) != hw:
        raise OverflowError(f"the mask is {rle['size']} (H, W), its photo {list(hw)}")
    return rle
