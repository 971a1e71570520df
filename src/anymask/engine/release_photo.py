"""One photo made fit to be given away: smaller, blurred where it must be, without EXIF, its masks scaled along."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from anymask.core.images import read_image
from anymask.core.masks import area_average
from anymask.core.rle import RLE
from anymask.engine.blur import Detector, blur_boxes
from anymask.predict.patches import encode_patch
from anymask.predict.records import MaskRecord
from anymask.predict.windows import decode_box

SHORT_SIDE = 1500  # pixels (PAPER §5)
JPEG_QUALITY = 90


@dataclass(frozen=True)
class ReleasedPhoto:
    """JPEG bytes of size hw, masks of that size. num_vanished: masks too small to leave a pixel."""

    encoded: bytes
    hw: tuple[int, int]
    masks: tuple[MaskRecord, ...]
    num_blurred: dict[str, int]
    num_vanished: int


def release_photo(
    file: Path, masks: Sequence[MaskRecord], detectors: Sequence[Detector], short_side: int = SHORT_SIDE
) -> ReleasedPhoto:
    """Read, shrink, blur, encode again. Raises ImageError where the photo cannot be read."""
    image = read_image(file)
    hw = released_hw((image.shape[0], image.shape[1]), short_side)
    if hw != image.shape[:2]:
        image = np.asarray(Image.fromarray(image).resize(hw[::-1], Image.Resampling.LANCZOS))
    found = {detector.what: detector.boxes(image) for detector in detectors}  # all see the photo before any blur
    for boxes in found.values():
        image = blur_boxes(image, boxes)
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, format="JPEG", quality=JPEG_QUALITY)  # pixels alone: no EXIF, no thumbnail
    scaled = [scale_record(mask, hw) for mask in masks]
    kept = tuple(mask for mask in scaled if mask.num_px)
    num_blurred = {what: len(boxes) for what, boxes in found.items()}
    return ReleasedPhoto(encoded.getvalue(), hw, kept, num_blurred, len(scaled) - len(kept))


def released_hw(hw: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Size (H, W) with the short side at most so long; photos are never enlarged."""
    scale = min(1.0, short_side / min(hw))
    return max(1, round(hw[0] * scale)), max(1, round(hw[1] * scale))


def scale_record(mask: MaskRecord, hw: tuple[int, int]) -> MaskRecord:
    """The mask, its click and its crop in a photo of another size."""
    height, width = mask.rle["size"]
    y, x = hw[0] / height, hw[1] / width
    point = None if mask.point_xy is None else (mask.point_xy[0] * x, mask.point_xy[1] * y)
    crop = mask.crop_xywh
    crop = None if crop is None else (crop[0] * x, crop[1] * y, crop[2] * x, crop[3] * y)
    return replace(mask, rle=scale_rle(mask.rle, hw), point_xy=point, crop_xywh=crop)


def scale_rle(rle: RLE, hw: tuple[int, int]) -> RLE:
    """The mask at another size: pixels of which it covers half or more."""
    if tuple(rle["size"]) == hw:
        return rle
    inside, x, y = decode_box(rle)
    corner = []
    part: np.ndarray = inside
    for axis, start in ((0, y), (1, x)):
        scale = hw[axis] / rle["size"][axis]
        first = int(start * scale)
        last = min(hw[axis], int(np.ceil((start + inside.shape[axis]) * scale)))
        corner.append(first)
        if part.size:
            part = area_average(part, np.arange(first, last + 1) / scale - start, axis)
    return encode_patch(part >= 0.5 - 1e-4, corner[0], corner[1], hw)
