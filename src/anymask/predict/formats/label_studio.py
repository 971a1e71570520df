"""Label Studio: tasks with brush labels in label_studio.json, and the labelling set-up beside it. Keeps everything."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import quoteattr

import numpy as np

from anymask.core.errors import InputError
from anymask.core.rle import RLE
from anymask.predict.formats.coco import OBJECT
from anymask.predict.formats.files import naming, write_json, write_text
from anymask.predict.formats.label_studio_rle import pack, unpack
from anymask.predict.formats.outlines import of_outlines
from anymask.predict.records import MaskRecord, PhotoMasks

FILE, SETUP = "label_studio.json", "label_studio.xml"
FROM, TO = "tag", "image"  # names of the controls in the set-up
_UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts before the name of an uploaded file


def write(photos: Iterable[PhotoMasks], folder: Path) -> list[Path]:
    """label_studio.json with a task for each photo, and label_studio.xml, the set-up with all labels."""
    tasks, labels = [], {OBJECT: None}
    for photo in photos:
        labels |= {mask.label or OBJECT: None for mask in photo.masks}
        height, width = photo.hw
        results = [to_result(mask, f"{photo.image_id}-{i}") for i, mask in enumerate(photo.masks)]
        data = {"image": photo.file_name, "width": width, "height": height}
        tasks.append({"id": photo.image_id, "data": data, "annotations": [{"result": results}]})
    return [write_json(tasks, folder / FILE), write_text(setup_of(labels), folder / SETUP)]


def read(path: Path) -> list[PhotoMasks]:
    """A file of tasks as Label Studio exports them as JSON; brushes and polygons.

    Of a task the first annotation that was not cancelled counts, or its first prediction. Photos without any result
    are left out where their size is not known.
    """
    file = path / FILE if path.is_dir() else path
    try:
        tasks = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(tasks, list):
        raise InputError(f"{file}: expected a JSON list of tasks, got {type(tasks).__name__}. Export as JSON.")
    with naming(file):
        found = [_photo(task) for task in tasks]
        return [photo for photo in found if photo is not None]


def setup_of(labels: Iterable[str]) -> str:
    """The labelling set-up: a brush, and clicks and boxes that ask the model."""
    words = [quoteattr(label) for label in labels]
    plain = "".join(f"\n    <Label value={word}/>" for word in words)
    asks = f'toName="{TO}" smart="true" smartOnly="true"'
    return (
        f'<View>\n  <Image name="{TO}" value="$image" zoom="true"/>\n'
        f'  <BrushLabels name="{FROM}" toName="{TO}">{plain}\n  </BrushLabels>\n'
        f'  <KeyPointLabels name="point" {asks}>{plain}\n  </KeyPointLabels>\n'
        f'  <RectangleLabels name="box" {asks}>{plain}\n  </RectangleLabels>\n</View>\n'
    )


def to_result(mask: MaskRecord, result_id: str, from_name: str = FROM, to_name: str = TO) -> dict[str, Any]:
    """One mask as a result; scores and prompts lie in `score` and `meta`."""
    height, width = mask.rle["size"]
    known = mask.to_official()
    meta = {key: known[key] for key in ("stability_score", "point_coords", "crop_box") if key in known}
    return {
        "id": result_id,
        "type": "brushlabels",
        "from_name": from_name,
        "to_name": to_name,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": pack(mask.rle), "brushlabels": [mask.label or OBJECT]},
        **({} if mask.predicted_iou is None else {"score": mask.predicted_iou}),
        **({"meta": meta} if meta else {}),
    }


def name_of(address: str) -> str:
    """The photo's own name in an address of Label Studio: an upload, a local file, a bucket, a page."""
    if "://" not in address and not address.startswith("/"):
        return PurePosixPath(address).name
    parts = urlsplit(address)
    inner = parse_qs(parts.query).get("d")
    name = PurePosixPath(inner[0] if inner else unquote(parts.path)).name
    return _UPLOADED.sub("", name) if parts.path.startswith("/data/upload/") else name


def _photo(task: Mapping[str, Any]) -> PhotoMasks | None:
    data = task["data"]
    addresses = [value for key, value in data.items() if isinstance(value, str) and key in ("image", "img", "photo")]
    addresses = addresses or [value for value in data.values() if isinstance(value, str)]
    if not addresses:
        raise InputError(f"task {task.get('id')} names no photo.")
    done = [a for a in task.get("annotations") or [] if not a.get("was_cancelled")] or task.get("predictions") or []
    results = [r for r in (done[0]["result"] if done else []) if r["type"] in ("brushlabels", "brush", "polygonlabels")]
    sizes = {(int(r["original_height"]), int(r["original_width"])) for r in results}
    if not sizes and "height" in data and "width" in data:
        sizes = {(int(data["height"]), int(data["width"]))}
    if not sizes:
        return None
    if len(sizes) > 1:
        raise InputError(f"task {task.get('id')} has results for photos of several sizes: {sorted(sizes)} (H, W).")
    (hw,) = sizes
    masks = tuple(_mask(result, hw) for result in results)
    task_id = task.get("id")
    return PhotoMasks(name_of(addresses[0]), hw, masks, task_id if isinstance(task_id, int) else 0)


def _mask(result: Mapping[str, Any], hw: tuple[int, int]) -> MaskRecord:
    if result.get("image_rotation"):
        raise InputError(f"result {result.get('id')} is on a turned photo; turn it back in Label Studio first.")
    value, kind = result["value"], result["type"]
    rle: RLE
    if kind == "polygonlabels":
        rle = of_outlines([np.array(value["points"], np.float64) * np.array(hw[::-1]) / 100], hw)
    else:
        rle = unpack(value["rle"], hw)
    labels = value.get(kind) or value.get("labels") or [OBJECT]
    record = {
        **(result.get("meta") or {}),
        "segmentation": rle,
        "predicted_iou": result.get("score"),
        "label": None if labels[0] == OBJECT else labels[0],
    }
    return MaskRecord.of(record)
