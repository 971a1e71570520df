"""`SamAutomaticMaskGenerator`: every mask in the picture, without prompts (PAPER §4.4)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np

from anymask.core.errors import OptionError
from anymask.core.images import read_image
from anymask.core.rle import RLE, decode_one, to_uncompressed
from anymask.core.types import Embedding, Segmenter
from anymask.predict.candidates import Candidate, CropMasks
from anymask.predict.cleanup import clean
from anymask.predict.crops import Crop, crop_windows
from anymask.predict.filters import nms
from anymask.predict.focus import Focus
from anymask.predict.grid import build_layer_grids, check_point_grids, spread_order
from anymask.predict.hierarchy import parents as parents_of
from anymask.predict.options import AutomaticOptions, option_defaults
from anymask.predict.refine import refine

Progress = Callable[[int, int], None]
HURRIED = 128  # points after which masks must be there where time is limited
CROPS_PER_BATCH = 4  # on a GPU; on a CPU encoding several at once gains nothing and costs memory


class SamAutomaticMaskGenerator:
    """Masks of everything in a photo, from a grid of points on the photo and on zoomed-in crops of it.

    The positional arguments are those of `segment_anything`, with the same defaults and meaning:

    model: a `Sam`, a `SamPredictor`, or any `Segmenter`.
    points_per_side: the photo's grid has this many points squared; or None and point_grids: for the photo and
        for each crop layer an array (N, 2) in 0 … 1.
    points_per_batch: points decoded together, at most; above 16 nothing is gained, so never more are.
    pred_iou_thresh: masks with a predicted IoU above it stay.
    stability_score_thresh, stability_score_offset: masks stay whose IoU between the logit levels ± offset is
        at least this.
    box_nms_thresh, crop_nms_thresh: box IoU above which the worse mask of a crop, or the mask of the larger
        crop, goes.
    crop_n_layers, crop_overlap_ratio, crop_n_points_downscale_factor: layer L adds 2ᴸ×2ᴸ crops that overlap,
        with grids that many times coarser from layer to layer.
    min_mask_region_area: holes and islands under this many pixels are filled and removed.
    output_mode: `segmentation` as "binary_mask" (H, W) bool, "coco_rle", or "uncompressed_rle".

    By keyword, beyond it:

    preset: "paper" (the data engine's settings, app. B) or "lite" (thresholds that suit the lite model) for every
        option left at its default.
    max_mask_region_area: masks of more pixels go. max_coverage: masks that cover this share of the photo or
        more go. drop_small_masks: a mask whose largest island is under min_mask_region_area goes as a whole.
    nms_after_cleanup: after cleaning remove masks that have become alike, preferring untouched ones.
    granularity: "all" candidates of a point, or its "whole" (largest), "part", or "subpart" (smallest) only.
    parents: adds `parent` to each record: index of the smallest mask that contains 90 % of it, or None.
    return_low_res: adds `low_res_logits` (4h, 4w) float32 of the crop to each record.
    zoom: small masks are drawn again from crops around them, one encoding each (`predict.refine`); the logits of
        return_low_res stay those of the first look.
    crops_per_batch: crops of a layer encoded together; None: 1 on a CPU, 4 elsewhere.
    coarse_first: look at every point with a quarter of the cells first and go on with the promising ones: three times
        as fast, about the same masks (docs/log.md). Only for models that were trained on several numbers of cells:
        preset "lite" does it unless this is False.

    Memory, whatever points_per_side and the photo's size: low-resolution logits of 16 points (13 MB at
    256×256), for each of torch's threads one mask at the photo's size with its intermediate planes (about 25 bytes a
    pixel: 0.6 GB at 24 megapixels), about 64 MB of run lengths that NMS has yet to thin out, and 1 kB for each
    candidate that passed the filters. Only "binary_mask" needs a plane for every record.

    Raises OptionError for options out of range.
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
        crops_per_batch: int | None = None,
        zoom: bool = False,
        coarse_first: bool | None = None,
    ) -> None:
        given = locals()
        changed = {name: given[name] for name, default in option_defaults().items() if given[name] != default}
        self.options = AutomaticOptions.of(preset, **changed)
        if (points_per_side is None) == (point_grids is None):
            raise OptionError("give points_per_side or point_grids, and None for the other.")
        layers = self.options.crop_n_layers
        if point_grids is not None:
            self.point_grids = check_point_grids(point_grids, layers)
        else:
            downscale = self.options.crop_n_points_downscale_factor
            self.point_grids = build_layer_grids(int(points_per_side or 0), layers, downscale)
        self.segmenter: Segmenter = _segmenter_of(model)

    @classmethod
    def of(cls, model: Any, options: AutomaticOptions) -> SamAutomaticMaskGenerator:
        """A generator with options that were checked before."""
        made = cls(model, points_per_side=options.points_per_side)
        made.options = options
        made.point_grids = build_layer_grids(
            int(options.points_per_side or 0), options.crop_n_layers, options.crop_n_points_downscale_factor
        )
        return made

    def generate(
        self,
        image: Any,
        *,
        region: Any = None,
        near_points: Any = None,
        near_px: float | None = None,
        time_budget_s: float | None = None,
        progress: Progress | None = None,
    ) -> list[dict[str, Any]]:
        """All masks of a photo: (H, W, 3) uint8 RGB, a PIL image, or a path.

        region: only masks with at least half of their area in this box x0, y0, x1, y1 or mask (H, W) bool.
        near_points: only masks whose box comes within near_px (default an eighth of the longer side) of one
        of these points (N, 2) xy; the points themselves are tried as well. time_budget_s: stop trying points
        after this many seconds; they are then tried in scattered order, so that the whole photo is covered
        early.
        progress: called with points tried and points in all.

        Returns records as `segment_anything` does, best predicted IoU first (of one crop; smaller crops
        first): `segmentation, area, bbox` (XYWH, without + 1), `predicted_iou, point_coords` [[x, y]],
        `stability_score, crop_box` (XYWH). No mask at all is a valid answer: an empty list.
        """
        photo = read_image(image)
        focus = Focus.of(_hw(photo), region, near_points, near_px)
        stop_at = None if time_budget_s is None else time.monotonic() + time_budget_s
        kept = self._find(photo, focus, time_budget_s, progress)
        if self.options.zoom:
            kept = self._closer(photo, kept, stop_at)
        if self.options.min_mask_region_area > 0:
            kept = self._clean(kept)
        return self._records(kept)

    def _find(
        self, photo: np.ndarray, focus: Focus, time_budget_s: float | None, progress: Progress | None
    ) -> list[Candidate]:
        """Crops → points → masks → filters → NMS in each crop → NMS over crops, for one photo."""
        stop_at = None if time_budget_s is None else time.monotonic() + time_budget_s
        crops = crop_windows(_hw(photo), self.options.crop_n_layers, self.options.crop_overlap_ratio)
        jobs = [(crop, self._points(crop, focus, time_budget_s is not None)) for crop in crops]
        jobs = [(crop, points) for crop, points in jobs if len(points)]
        total, done = sum(len(points) for _, points in jobs), 0

        def is_over(num_points: int) -> bool:
            nonlocal done
            done += num_points
            if progress is not None:
                progress(done, total)
            return stop_at is not None and time.monotonic() >= stop_at

        found: list[Candidate] = []
        for crop, points, embedding in self._encoded(photo, jobs):
            masks = CropMasks(self.segmenter, embedding, crop, _hw(photo), self.options, focus)
            found += masks.find(points, is_over, HURRIED if time_budget_s is not None else None)
            if is_over(0):
                break
        if len(crops) == 1:
            return found
        scores = [1 / np.float32(c.crop.hw[0] * c.crop.hw[1]) for c in found]  # the most zoomed-in crop wins
        return [found[i] for i in nms(_boxes(found), np.array(scores), self.options.crop_nms_thresh)]

    def _points(self, crop: Crop, focus: Focus, scattered: bool) -> np.ndarray:
        """Points (N, 2) xy to try on a crop, in its own pixels."""
        points = focus.points(crop, self.point_grids[crop.layer] * np.array(crop.hw[::-1]))
        return points[spread_order(len(points))] if scattered else points

    def _encoded(
        self, photo: np.ndarray, jobs: list[tuple[Crop, np.ndarray]]
    ) -> Iterator[tuple[Crop, np.ndarray, Embedding]]:
        """Crops with their points and embeddings; crops of one layer are encoded in groups."""
        size = self.options.crops_per_batch or (1 if _is_on_cpu(self.segmenter) else CROPS_PER_BATCH)
        for _, group in groupby(jobs, key=lambda job: job[0].layer):
            of_layer = list(group)
            for start in range(0, len(of_layer), size):
                some = of_layer[start : start + size]
                boxes = [crop.box_xyxy for crop, _ in some]
                pictures = [np.ascontiguousarray(photo[y0:y1, x0:x1]) for x0, y0, x1, y1 in boxes]
                for (crop, points), embedding in zip(some, self.segmenter.encode(pictures)):
                    yield crop, points, embedding

    def _closer(self, photo: np.ndarray, found: list[Candidate], stop_at: float | None) -> list[Candidate]:
        """Small masks drawn again on crops; then NMS again, for two may have become one."""
        sharper = refine(
            self.segmenter, photo, found, self.options, lambda: stop_at is not None and time.monotonic() >= stop_at
        )
        scores = np.array([c.predicted_iou for c in sharper])
        return [sharper[i] for i in nms(_boxes(sharper), scores, self.options.box_nms_thresh)]

    def _clean(self, found: list[Candidate]) -> list[Candidate]:
        """Masks without small holes and islands; then NMS again, which prefers masks that were not
        touched."""
        options, changed, kept = self.options, [], []
        for candidate in found:
            assert candidate.rle is not None
            result = clean(candidate.rle, options.min_mask_region_area, options.drop_small_masks)
            if options.drop_small_masks and not result.num_px:
                continue
            changed.append(result.changed)
            kept.append(
                replace(candidate, rle=result.rle, box_xyxy=result.box_xyxy, num_px=result.num_px)
            )
        if not options.nms_after_cleanup:
            return kept
        threshold = max(options.box_nms_thresh, options.crop_nms_thresh)
        return [kept[i] for i in nms(_boxes(kept), ~np.array(changed, dtype=bool), threshold)]

    def _records(self, kept: list[Candidate]) -> list[dict[str, Any]]:
        forms: dict[str, Callable[[RLE], Any]] = {
            "binary_mask": decode_one,
            "uncompressed_rle": to_uncompressed,
            "coco_rle": dict,
        }
        form = forms[self.options.output_mode]
        parents = parents_of([c.rle for c in kept if c.rle]) if self.options.parents else []
        records = []
        for i, c in enumerate(kept):
            x0, y0, x1, y1 = c.box_xyxy
            assert c.rle is not None
            record: dict[str, Any] = {
                "segmentation": form(c.rle),
                "area": c.num_px,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "predicted_iou": c.predicted_iou,
                "point_coords": [list(c.point_xy)],
                "stability_score": c.stability,
                "crop_box": c.crop.box_xywh,
            }
            if self.options.parents:
                record["parent"] = parents[i]
            if self.options.return_low_res:
                record["low_res_logits"] = c.low_res
            records.append(record)
        return records


def _boxes(candidates: list[Candidate]) -> np.ndarray:
    return np.array([c.box_xyxy for c in candidates], dtype=np.float32).reshape(-1, 4)


def _hw(photo: np.ndarray) -> tuple[int, int]:
    return photo.shape[0], photo.shape[1]


def _segmenter_of(model: Any) -> Segmenter:
    """What encodes and decodes: `model` itself, what a predictor holds, or a `Sam` wrapped."""
    if hasattr(model, "encode") and hasattr(model, "side"):
        return model
    if hasattr(model, "segmenter"):
        return model.segmenter
    if hasattr(model, "image_encoder"):
        from anymask.predict.segmenter import TorchSegmenter

        return TorchSegmenter(model)
    raise OptionError(f"expected a Sam, a SamPredictor or a Segmenter, got {type(model).__name__}.")


def _is_on_cpu(segmenter: Segmenter) -> bool:
    device = getattr(getattr(segmenter, "sam", None), "device", None)
    return getattr(device, "type", "cpu") == "cpu"
