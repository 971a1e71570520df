"""One mask of a photo with what is known about it, and all masks of one photo; what every format reads and writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from anymask.core.errors import InputError, unknown_name
from anymask.core.rle import RLE, area, decode_one, to_bbox_xywh, to_uncompressed
from anymask.predict.hierarchy import as_rle

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class MaskRecord:
    """A mask as compressed COCO RLE; area and box follow from it. None where a format does not tell.

    point_xy: the click it came from. crop_xywh: the crop it was found in. label: a word.
    """

    rle: RLE
    predicted_iou: float | None = None
    stability_score: float | None = None
    point_xy: tuple[float, float] | None = None
    crop_xywh: Box | None = None
    label: str | None = None

    @cached_property
    def num_px(self) -> int:
        """Foreground pixels."""
        return area(self.rle)

    @cached_property
    def coco_box_xywh(self) -> list[int]:
        """Box x, y, w, h in COCO's way: w and h count columns and rows."""
        return to_bbox_xywh(self.rle)

    @property
    def box_xywh(self) -> list[int]:
        """Box x, y, w, h in segment_anything's way: w and h reach from the first to the last pixel."""
        x, y, w, h = self.coco_box_xywh
        return [x, y, max(0, w - 1), max(0, h - 1)]

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> MaskRecord:
        """From a record of `SamAutomaticMaskGenerator`, of either package, or of SA-1B.

        Raises InputError for a record without a valid mask, or with values of another shape.
        """
        if not isinstance(record, Mapping) or "segmentation" not in record:
            raise InputError("expected a record with 'segmentation', as SamAutomaticMaskGenerator returns it.")
        try:
            points = record.get("point_coords") or [None]
            point = None if points[0] is None else (float(points[0][0]), float(points[0][1]))
            crop = record.get("crop_box")
            return cls(
                as_rle(record["segmentation"]),
                _number(record.get("predicted_iou")),
                _number(record.get("stability_score")),
                point,
                None if crop is None else _box(crop),
                None if record.get("label") is None else str(record["label"]),
            )
        except (TypeError, IndexError, KeyError) as error:
            raise InputError(f"a mask record is not in the form of segment_anything: {error}.") from error

    def to_official(self, output_mode: str = "coco_rle") -> dict[str, Any]:
        """The record of `SamAutomaticMaskGenerator` with its keys in order; what is not known is left out."""
        forms: dict[str, Callable[[RLE], Any]] = {
            "coco_rle": dict,
            "uncompressed_rle": to_uncompressed,
            "binary_mask": decode_one,
        }
        if output_mode not in forms:
            raise unknown_name("output_mode", output_mode, list(forms))
        record = {
            "segmentation": forms[output_mode](self.rle),
            "area": self.num_px,
            "bbox": self.box_xywh,
            "predicted_iou": self.predicted_iou,
            "point_coords": None if self.point_xy is None else [list(self.point_xy)],
            "stability_score": self.stability_score,
            "crop_box": None if self.crop_xywh is None else list(self.crop_xywh),
            "label": self.label,
        }
        return {key: value for key, value in record.items() if value is not None}


@dataclass(frozen=True)
class PhotoMasks:
    """All masks of one photo; none is valid. file_name: the photo's name, without folders. hw: its size (H, W)."""

    file_name: str
    hw: tuple[int, int]
    masks: tuple[MaskRecord, ...] = ()
    image_id: int = field(default=0)

    def __post_init__(self) -> None:
        for mask in self.masks:
            if tuple(mask.rle["size"]) != tuple(self.hw):
                raise InputError(
                    f"{self.file_name}: a mask of size {mask.rle['size']} (H, W) does not fit the photo, {self.hw}."
                )

    @property
    def stem(self) -> str:
        """The photo's name without its suffix, for files about it."""
        return PurePosixPath(self.file_name).stem or "photo"

    @classmethod
    def of(
        cls, file_name: str, hw: tuple[int, int], records: Sequence[Mapping[str, Any]], image_id: int = 0
    ) -> PhotoMasks:
        """From the records that a generator returns for one photo."""
        return cls(file_name, hw, tuple(MaskRecord.of(r) for r in records), image_id)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _box(value: Any) -> Box:
    x, y, w, h = (float(v) for v in value)
    return x, y, w, h
