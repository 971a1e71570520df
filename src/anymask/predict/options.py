"""Options of the automatic mask generator: one table, checked once, for Python and the command line."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from anymask.core.errors import OptionError, unknown_name

OUTPUT_MODES = ("binary_mask", "uncompressed_rle", "coco_rle")
GRANULARITIES = ("all", "whole", "part", "subpart")
PRESETS: dict[str, dict[str, Any]] = {
    "official": {},
    # app. B of the paper, where it differs from the official defaults
    "paper": {
        "crop_n_layers": 2,
        "crop_n_points_downscale_factor": 2,
        "min_mask_region_area": 100,
        "output_mode": "coco_rle",
        "max_coverage": 0.95,
        "drop_small_masks": True,
        "nms_after_cleanup": False,
    },
    # lite predicts lower IoUs and flatter logits than the official models; theirs would leave nothing
    "lite": {
        "pred_iou_thresh": 0.54,
        "stability_score_thresh": 0.7,
        "stability_score_offset": 0.25,
        "coarse_first": True,
    },
}


@dataclass(frozen=True)
class AutomaticOptions:
    """Names and defaults of `segment_anything`, then our own; `SamAutomaticMaskGenerator` explains them.

    Raises OptionError for a value out of its range.
    """

    points_per_side: int | None = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    min_mask_region_area: float = 0
    output_mode: str = "binary_mask"
    max_mask_region_area: float | None = None
    max_coverage: float | None = None
    drop_small_masks: bool = False
    nms_after_cleanup: bool = True
    granularity: str = "all"
    parents: bool = False
    return_low_res: bool = False
    crops_per_batch: int | None = None
    zoom: bool = False
    coarse_first: bool | None = None

    def __post_init__(self) -> None:
        for name in ("points_per_side", "points_per_batch", "crop_n_points_downscale_factor", "crops_per_batch"):
            _check_whole(name, getattr(self, name), 1)
        _check_whole("crop_n_layers", self.crop_n_layers, 0)
        for name in (
            "pred_iou_thresh",
            "stability_score_thresh",
            "stability_score_offset",
            "min_mask_region_area",
            "max_mask_region_area",
        ):
            _check_range(name, getattr(self, name))
        for name in ("box_nms_thresh", "crop_nms_thresh", "max_coverage"):
            _check_range(name, getattr(self, name), most=1)
        if not 0 <= self.crop_overlap_ratio < 1:
            raise OptionError(
                f"crop_overlap_ratio must be a share from 0 to below 1, got {self.crop_overlap_ratio!r}."
            )
        if self.output_mode not in OUTPUT_MODES:
            raise unknown_name("output_mode", self.output_mode, list(OUTPUT_MODES))
        if self.granularity not in GRANULARITIES:
            raise unknown_name("granularity", self.granularity, list(GRANULARITIES))

    @classmethod
    def of(cls, preset: str = "official", **values: Any) -> AutomaticOptions:
        """Options from a preset; the values given win over the preset's, those of the preset over the defaults."""
        if preset not in PRESETS:
            raise unknown_name("preset", preset, list(PRESETS))
        known = option_defaults()
        for name in values:
            if name not in known:
                raise unknown_name("option", name, list(known))
        return cls(**{**PRESETS[preset], **values})


def preset_for(segmenter: Any) -> str:
    """Preset whose thresholds suit a model: what the segmenter says, else "official"."""
    return str(getattr(segmenter, "preset", "official"))


def option_defaults() -> dict[str, Any]:
    """Names of all options with the official default of each."""
    return {field.name: field.default for field in fields(AutomaticOptions)}


def _check_whole(name: str, value: Any, least: int) -> None:
    if value is None and name in ("points_per_side", "crops_per_batch"):
        return
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
        raise OptionError(f"{name} must be a whole number from {least} up, got {value!r}.")


def _check_range(name: str, value: float | None, most: float | None = None) -> None:
    """Thresholds of scores may lie above 1: nothing passes them, which is a valid wish."""
    if value is None and name.startswith("max_"):
        return
    if value is None or not value >= 0 or (most is not None and value > most):
        upper = "up" if most is None else f"to {most}"
        raise OptionError(f"{name} must be a number from 0 {upper}, got {value!r}.")
