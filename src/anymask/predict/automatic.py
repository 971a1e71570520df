"""`SamAutomaticMaskGenerator`: every mask in the picture, without prompts (PAPER §4.4)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from anymask.core.errors import OptionError, unknown_name
from anymask.core.images import read_image
from anymask.core.rle import RLE, decode_one, to_uncompressed
from anymask.core.types import Embedding, Segmenter
from anymask.predict.candidates import BLOCK, Candidate, CropMasks, Thresholds
from anymask.predict.cleanup import clean
from anymask.predict.crops import Crop, crop_windows
from anymask.predict.filters import nms
from anymask.predict.focus import Focus
from anymask.predict.grid import build_layer_grids, check_point_grids, spread_order
from anymask.predict.hierarchy import label_map, parents

OUTPUT_MODES = ("binary_mask", "uncompressed_rle", "coco_rle")
PAPER: dict[str, Any] = {
    "crop_n_layers": 2,
    "crop_n_points_downscale_factor": 2,
    "min_mask_region_area": 100,
    "output_mode": "coco_rle",
    "max_coverage": 0.95,
    "drop_small_masks": True,
    "nms_after_cleanup": False,
}  # app. B; the other defaults are the paper's already
PRESETS: dict[str, dict[str, Any]] = {"official": {}, "paper": PAPER}

Progress = Callable[[int, int], None]


class SamAutomaticMaskGenerator:
    """Masks of everything in a photo, from a grid of points on the photo and on zoomed-in crops of it.

    The positional arguments are those of `segment_anything`, with the same defaults and meaning:

    model: a `Sam`, a `SamPredictor`, or any `Segmenter`.
    points_per_side: the photo's grid has this many points squared; or give point_grids: for the photo and for each
        crop layer an array (N, 2) in 0 … 1.
    points_per_batch: points decoded together, at most; above 16 nothing is gained, so never more are.
    pred_iou_thresh: masks whose predicted IoU is above it stay.
    stability_score_thresh, stability_score_offset: masks stay whose IoU between the logit levels ± offset is at
        least this.
    box_nms_thresh, crop_nms_thresh: box IoU above which the worse mask of a crop, or the mask of the larger crop,
        goes.
    crop_n_layers, crop_overlap_ratio, crop_n_points_downscale_factor: layer L adds 2ᴸ×2ᴸ crops that overlap, with
        grids that get coarser.
    min_mask_region_area: holes and islands under this many pixels are filled and removed.
    output_mode: "binary_mask" (H, W) bool, "coco_rle", or "uncompressed_rle".

    By keyword, beyond it:

    preset: "paper" takes the data engine's settings (app. B) for every option left at its default.
    max_mask_region_area: masks of more pixels go. max_coverage: masks that cover this share of the photo or more
        go. drop_small_masks: a mask whose largest island is under min_mask_region_area goes as a whole.
    nms_after_cleanup: remove boxes that cleaning made alike, preferring untouched masks, as the official code does.
    granularity: "all" three candidates of a point, or its "whole" (largest), "part", or "subpart" (smallest).
    parents: adds `parent` to each record: index of the smallest mask that contains 90 % of it, or None.
    return_low_res: adds `low_res_logits` (4h, 4w) float32 to each record.
    crops_per_batch: crops of a layer encoded together.

    Memory, whatever points_per_side and the photo's size: low-resolution logits of 16 points, a few planes of one
    mask at the photo's size (about 25 bytes for a pixel: 0.6 GB at 24 megapixels), 64 MB of run lengths that NMS
    has yet to thin out, and about 200 bytes for a candidate. Only "binary_mask" needs a plane for every record.
    """

    def __init__(
        self,
        model: Any,
        points_per_side: int | None = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: Sequence[np.ndarray] | None = None,
        min_mask_region_area: float = 0,
        output_mode: str = "binary_mask",
        *,
        preset: str = "official",
        max_mask_region_area: float | None = None,
        max_coverage: float | None = None,
        drop_small_masks: bool = False,
        nms_after_cleanup: bool = True,
        granularity: str = "all",
        parents: bool = False,
        return_low_res: bool = False,
        crops_per_batch: int = 4,
    ) -> None:
        if preset not in PRESETS:
            raise unknown_name("preset", preset, list(PRESETS))
        chosen = PRESETS[preset]
        if chosen:
            crop_n_layers = crop_n_layers or chosen["crop_n_layers"]
            if crop_n_points_downscale_factor == 1:
                crop_n_points_downscale_factor = chosen["crop_n_points_downscale_factor"]
            min_mask_region_area = min_mask_region_area or chosen["min_mask_region_area"]
            output_mode = chosen["output_mode"] if output_mode == "binary_mask" else output_mode
            max_coverage = chosen["max_coverage"] if max_coverage is None else max_coverage
            drop_small_masks = chosen["drop_small_masks"]
            nms_after_cleanup = chosen["nms_after_cleanup"]
        _check_whole("points_per_batch", points_per_batch, 1)
        _check_whole("crop_n_layers", crop_n_layers, 0)
        _check_whole("crop_n_points_downscale_factor", crop_n_points_downscale_factor, 1)
        _check_whole("crops_per_batch", crops_per_batch, 1)
        for name, share in (("box_nms_thresh", box_nms_thresh), ("crop_nms_thresh", crop_nms_thresh)):
            _check_range(name, share, 0, 1)
        _check_range("crop_overlap_ratio", crop_overlap_ratio, 0, 1)
        _check_range("stability_score_thresh", stability_score_thresh, 0, 1)
        _check_range("min_mask_region_area", min_mask_region_area, 0, float("inf"))
        if output_mode not in OUTPUT_MODES:
            raise unknown_name("output_mode", output_mode, list(OUTPUT_MODES))
        if (points_per_side is None) == (point_grids is None):
            raise OptionError("give points_per_side or point_grids, the other None.")
        if points_per_side is not None:
            _check_whole("points_per_side", points_per_side, 1)
            grids = build_layer_grids(points_per_side, crop_n_layers, crop_n_points_downscale_factor)
        else:
            assert point_grids is not None
            grids = check_point_grids(point_grids, crop_n_layers)
        self.point_grids = grids
        self.segmenter = _segmenter_of(model)
        self.points_per_batch = points_per_batch
        self.limits = Thresholds(
            pred_iou_thresh,
            stability_score_thresh,
            stability_score_offset,
            box_nms_thresh,
            max_px=float("inf") if max_mask_region_area is None else max_mask_region_area,
            granularity=granularity,
        )
        self.max_coverage = max_coverage
        self.crop_n_layers, self.crop_nms_thresh = crop_n_layers, crop_nms_thresh
        self.crop_overlap_ratio, self.crops_per_batch = crop_overlap_ratio, crops_per_batch
        self.min_mask_region_area, self.drop_small_masks = min_mask_region_area, drop_small_masks
        self.nms_after_cleanup, self.output_mode = nms_after_cleanup, output_mode
        self.parents, self.return_low_res = parents, return_low_res
