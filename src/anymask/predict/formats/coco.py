"""COCO: one annotations.json with run lengths. Extra keys keep what COCO has no word for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from anymask.core.rle import RLE
from anymask.predict.formats.files import load_json, naming, write_json
from anymask.predict.formats.outlines import of_outlines
from anymask.predict.records import MaskRecord, PhotoMasks

FILE = "annotations.json"
OBJECT = "object"  # category of masks without a label
_OURS = ("predicted_iou", "point_coords", "stability_score", "crop_box", "label")


def write(photos: Iterable[PhotoMasks], folder: Path) -> list[Path]:
    """annotations.json for all photos."""
    return [write_json(to_json(photos, lambda mask: dict(mask.rle)), folder / FILE)]


def read(path: Path) -> list[PhotoMasks]:
    """A COCO file, or the annotations.json of a folder; run lengths and polygons."""
    file = path / FILE if path.is_dir() else path
    content = load_json(file)
    with naming(file):
        return of_json(content)


def to_json(photos: Iterable[PhotoMasks], segmentation: Callable[[MaskRecord], Any]) -> dict[str, Any]:
    """The file's content. Image ids are the photos' own if all are different, else 1, 2, …"""
    photos = list(photos)
    ids = [photo.image_id for photo in photos]
    if len(set(ids)) < len(ids) or 0 in ids:
        ids = list(range(1, len(photos) + 1))
    words = sorted({mask.label or OBJECT for photo in photos for mask in photo.masks} | {OBJECT})
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for photo, image_id in zip(photos, ids):
        height, width = photo.hw
        images.append({"id": image_id, "width": width, "height": height, "file_name": photo.file_name})
        for mask in photo.masks:
            known = mask.to_official()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": words.index(mask.label or OBJECT) + 1,
                    "segmentation": segmentation(mask),
                    "bbox": mask.coco_box_xywh,
                    "area": mask.num_px,
                    "iscrowd": 0,
                    **{key: known[key] for key in _OURS if key in known},
                }
            )
    categories = [{"id": i + 1, "name": word} for i, word in enumerate(words)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def of_json(content: dict[str, Any]) -> list[PhotoMasks]:
    """Photos from a file's content, also of files from elsewhere; category names become labels."""
    words = {c["id"]: str(c["name"]) for c in content.get("categories", [])}
    masks: dict[Any, list[MaskRecord]] = {image["id"]: [] for image in content["images"]}
    sizes = {image["id"]: (int(image["height"]), int(image["width"])) for image in content["images"]}
    for annotation in content.get("annotations", []):
        image_id = annotation["image_id"]
        rle = _rle(annotation["segmentation"], sizes[image_id])
        word = words.get(annotation.get("category_id"))
        label = annotation.get("label") or (None if word == OBJECT else word)
        masks[image_id].append(MaskRecord.of({**annotation, "segmentation": rle, "label": label}))
    return [
        PhotoMasks(str(image["file_name"]), sizes[image["id"]], tuple(masks[image["id"]]), int(image["id"]))
        for image in content["images"]
    ]


def _rle(segmentation: Any, hw: tuple[int, int]) -> RLE:
    if isinstance(segmentation, list):
        return of_outlines(segmentation, hw)
    return dict(segmentation)
