"""CVAT for images 1.1: one annotations.xml with a mask's own run lengths. Keeps everything but empty masks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from anymask.core.errors import InputError
from anymask.core.geometry import MAX_PIXELS
from anymask.predict.formats.coco import OBJECT
from anymask.predict.formats.files import naming, write_text
from anymask.predict.formats.outlines import of_outlines
from anymask.predict.patches import encode_patch
from anymask.predict.records import MaskRecord, PhotoMasks
from anymask.predict.windows import decode_box

FILE = "annotations.xml"
_NO_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # characters that XML 1.0 cannot hold
_NUMBERS = {"predicted_iou": 1, "stability_score": 1, "point_coords": 2, "crop_box": 4}  # attributes of a mask: length
_OTHERS = ("box", "polyline", "points", "cuboid", "skeleton", "ellipse")


def write(photos: Iterable[PhotoMasks], folder: Path) -> list[Path]:
    """annotations.xml for all photos; scores become attributes."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    found = list(photos)
    ids = [photo.image_id for photo in found]
    if len(set(ids)) < len(ids):
        ids = list(range(len(ids)))
    for photo, image_id in zip(found, ids):
        height, width = photo.hw
        about = {"id": str(image_id), "name": _text(photo.file_name), "width": str(width), "height": str(height)}
        image = ElementTree.SubElement(root, "image", about)
        for mask in photo.masks:
            if mask.num_px:
                _add_mask(image, mask)
    text = ElementTree.tostring(root, encoding="unicode")
    return [write_text(f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n', folder / FILE)]


def read(path: Path) -> list[PhotoMasks]:
    """A CVAT file, or the annotations.xml of a folder; masks and polygons, those of one group together."""
    file = path / FILE if path.is_dir() else path
    try:
        content = file.read_bytes()
        if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
            raise InputError(f"{file}: CVAT's files declare no types or entities, this one does. It is not read.")
        root = ElementTree.fromstring(content)
    except (OSError, ElementTree.ParseError) as error:
        raise InputError(f"{file} cannot be read as XML: {error}") from error
    with naming(file):
        if root.tag != "annotations" or root.find("track") is not None:
            raise InputError("expected CVAT's <annotations> of images; export as 'CVAT for images 1.1'.")
        return [_photo(image) for image in root.iter("image")]


def _add_mask(image: ElementTree.Element, mask: MaskRecord) -> None:
    inside, x, y = decode_box(mask.rle)
    height, width = inside.shape
    flat = inside.reshape(-1)
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(changes, prepend=0, append=flat.size).tolist()
    runs = [0, *runs] if flat[0] else runs
    about = {
        "label": _text(mask.label or OBJECT),
        "source": "auto",
        "occluded": "0",
        "rle": ", ".join(map(str, runs)),  # row by row within the box, background first
        "left": str(x),
        "top": str(y),
        "width": str(width),
        "height": str(height),
        "z_order": "0",
    }
    element = ElementTree.SubElement(image, "mask", about)
    known = {
        "predicted_iou": mask.predicted_iou,
        "stability_score": mask.stability_score,
        "point_coords": mask.point_xy,
        "crop_box": mask.crop_xywh,
    }
    for name, value in known.items():
        if value is not None:
            numbers = value if isinstance(value, tuple) else (value,)
            attribute = ElementTree.SubElement(element, "attribute", {"name": name})
            attribute.text = ",".join(repr(float(number)) for number in numbers)


def _photo(image: ElementTree.Element) -> PhotoMasks:
    hw = (int(image.attrib["height"]), int(image.attrib["width"]))
    if min(hw) < 1 or hw[0] * hw[1] > MAX_PIXELS:
        raise InputError(f"{image.attrib['name']}: a photo of {hw} pixels (H, W) is not one that can be read.")
    masks: list[MaskRecord] = []
    groups: dict[str, int] = {}  # group id → place of its polygons
    outlines: dict[int, list[np.ndarray]] = {}
    for element in image:
        if element.tag in _OTHERS:
            raise InputError(f"{image.attrib['name']} has a {element.tag}; only masks and polygons can be read.")
        if element.tag not in ("mask", "polygon"):
            continue
        label = element.attrib["label"]
        known = _known(element, None if label == OBJECT else label)
        if element.tag == "mask":
            masks.append(MaskRecord(_rle(element.attrib, hw), **known))
            continue
        outline = np.array([[float(v) for v in pair.split(",")] for pair in element.attrib["points"].split(";")])
        place = groups.get(element.attrib.get("group_id", ""), len(masks))
        if place == len(masks):
            masks.append(MaskRecord({}, **known))
            if element.attrib.get("group_id"):
                groups[element.attrib["group_id"]] = place
        outlines.setdefault(place, []).append(outline)
    for place, found in outlines.items():
        masks[place] = replace(masks[place], rle=of_outlines(found, hw))
    return PhotoMasks(image.attrib["name"], hw, tuple(masks), int(image.attrib.get("id", 0)))


def _rle(about: dict[str, str], hw: tuple[int, int]) -> dict[str, Any]:
    x, y, width, height = (int(about[name]) for name in ("left", "top", "width", "height"))
    if x < 0 or y < 0 or width < 1 or height < 1 or x + width > hw[1] or y + height > hw[0]:
        raise InputError(f"a mask at {x}, {y} of {width}×{height} leaves the photo of {hw[1]}×{hw[0]} (W×H).")
    runs = np.array([int(run) for run in about["rle"].split(",")])
    if (runs < 0).any() or runs.sum() != width * height:
        raise InputError(f"a mask's runs must be 0 or more and sum to {width * height}, these sum to {runs.sum()}.")
    inside = np.repeat(np.arange(runs.size) % 2 == 1, runs).reshape(height, width)
    return encode_patch(inside, y, x, hw)


def _known(element: ElementTree.Element, label: str | None) -> dict[str, Any]:
    texts = {a.attrib["name"]: a.text or "" for a in element.iter("attribute") if a.attrib["name"] in _NUMBERS}
    values = {}
    for name, text in texts.items():
        numbers = tuple(float(part) for part in text.split(","))
        if len(numbers) != _NUMBERS[name]:
            raise InputError(f"attribute {name} must hold {_NUMBERS[name]} numbers, got {text!r:.60}.")
        values[name] = numbers
    return {
        "predicted_iou": values.get("predicted_iou", (None,))[0],
        "stability_score": values.get("stability_score", (None,))[0],
        "point_xy": values.get("point_coords"),
        "crop_xywh": values.get("crop_box"),
        "label": label,
    }


def _text(text: str) -> str:
    return _NO_XML.sub("_", text)
