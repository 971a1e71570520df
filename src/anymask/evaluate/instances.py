"""Instances: a detector's boxes become masks; mask, box and boundary AP (PAPER §7.5)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from anymask.core.arrays import as_numpy
from anymask.core.errors import InputError
from anymask.core.types import Embedding, PromptBatch, Segmenter
from anymask.evaluate.coco_data import load_photo, load_results, load_truth, part_of, photo_cases
from anymask.evaluate.coco_scores import check_results, coco_scores, lvis_scores
from anymask.evaluate.contract import Case, Table, Task
from anymask.evaluate.models import ModelChoice
from anymask.predict.patches import PatchUpscaler, encode_patch
from anymask.predict.prompts import check_prompts

PUBLISHED = (  # mask AP, small, medium, large
    ("ViTDet-H, COCO", 51.0, 32.0, 54.3, 68.9),
    ("SAM ViT-H on its boxes, COCO", 46.5, 30.8, 51.0, 61.7),
    ("ViTDet-H, LVIS v1", 46.6, 35.0, 58.0, 66.3),
    ("SAM ViT-H on its boxes, LVIS v1", 44.7, 32.5, 57.6, 65.5),
)


@dataclass(frozen=True)
class InstanceProtocol:
    """Choices. refine: a second pass with the most confident mask and the box, one mask out (D.4). rules: "coco", or
    "lvis" for its federated AP. max_dets: detections of a photo that count (COCO 100, LVIS 300).
    """

    refine: bool = True
    rules: str = "coco"
    max_dets: int = 100
    boundary: bool = True


@dataclass
class Instances(Task):
    """truth: a COCO or LVIS JSON. boxes: a detector's results, `[{image_id, category_id, bbox XYWH, score}]`."""

    truth: Path
    boxes: Path
    images: Path | None = None
    method: str = "model"
    protocol: InstanceProtocol = field(default_factory=InstanceProtocol)
    model: ModelChoice = field(default_factory=ModelChoice)
    max_photos: int | None = None
    name: str = "instances"

    def cases(self) -> list[Case]:
        """A case for each photo; boxes that cannot be used are named."""
        if self.protocol.rules not in ("coco", "lvis"):
            raise InputError(f"rules is coco or lvis, got {self.protocol.rules!r}.")
        self.problems.clear()
        self.problems.extend(check_results(self._truth, self._boxes, "bbox"))
        return photo_cases(self._truth, self.truth, self.images, self.problems)[: self.max_photos]

    def score(self, case: Case) -> dict[str, Any]:
        """A mask for each box of a photo, with the box's score. Boxes without an area in the photo are counted."""
        image = load_photo(case, self._truth)
        height, width = image.shape[:2]
        usable, outside = [], 0
        for box in (b for b in self._boxes if b.get("image_id") == case.payload[0]):
            if check_results(self._truth, [box], "bbox"):
                continue
            x, y, w, h = box["bbox"]
            if w <= 0 or h <= 0 or x >= width or y >= height or x + w <= 0 or y + h <= 0:
                outside += 1
            else:
                usable.append(box)
        usable = sorted(usable, key=lambda b: -b["score"])[: self.protocol.max_dets]
        if not usable:
            return {"image_id": case.payload[0], "results": [], "boxes_outside": outside}
        segmenter = self.model.segmenter
        xyxy = np.array([(x, y, x + w, y + h) for x, y, w, h in (b["bbox"] for b in usable)])
        masks = masks_of_boxes(segmenter, segmenter.encode([image])[0], xyxy, self.protocol.refine)
        results = [
            {**{k: box[k] for k in ("image_id", "category_id", "score", "bbox")}, "segmentation": mask}
            for box, mask in zip(usable, masks)
        ]
        return {"image_id": case.payload[0], "results": results, "boxes_outside": outside}

    def summarise(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """`box`, `mask` and `boundary` AP with sizes, in percent."""
        part = part_of(self._truth, {row["image_id"] for row in rows})
        results = [r for row in rows for r in row["results"]]
        summary: dict[str, Any] = {"photos": len(rows), "boxes": len(results)}
        summary["boxes_outside"] = sum(row["boxes_outside"] for row in rows)
        for name, kind in (("box", "bbox"), ("mask", "segm"), ("boundary", "boundary")):
            if kind == "boundary" and not self.protocol.boundary:
                continue
            leave_out = "segmentation" if kind == "bbox" else "bbox"
            own = [{k: v for k, v in r.items() if k != leave_out} for r in results]
            if self.protocol.rules == "lvis" and kind != "boundary":
                scores = lvis_scores(part, own, kind)
            else:
                scores = coco_scores(part, own, kind, self.protocol.max_dets)
            summary[name] = {k: 100 * v if v >= 0 else None for k, v in scores.items()}
        return summary

    def tables(self, summary: dict[str, Any]) -> list[Table]:
        """Ours below the published rows."""
        rows: list[tuple[Any, ...]] = list(PUBLISHED)
        for kind in ("mask", "box", "boundary"):
            if kind in summary:
                rows.append((f"this run, {kind}", *(summary[kind][k] for k in ("AP", "APs", "APm", "APl"))))
        note = f"{summary['photos']} photos, {summary['boxes']} boxes, {summary['boxes_outside']} outside their photo. "
        note += "The published rows use ViTDet-H's boxes; other boxes give other numbers."
        return [Table("Instances", ("method", "AP", "small", "medium", "large"), rows, note)]

    def describe(self) -> dict[str, Any]:
        """Paths and weights."""
        paths = {"truth": str(self.truth), "boxes": str(self.boxes), "max_photos": self.max_photos}
        return {**paths, **self.model.describe()}

    @cached_property
    def _truth(self) -> dict[str, Any]:
        return load_truth(self.truth)

    @cached_property
    def _boxes(self) -> list[dict[str, Any]]:
        return load_results(self.boxes)


def masks_of_boxes(
    segmenter: Segmenter, embedding: Embedding, boxes_xyxy: np.ndarray, refine: bool = True
) -> list[dict[str, Any]]:
    """RLE of the mask of each box (P, 4): the most confident candidate; with refine, one pass more with it and the box.

    Raises InputError where the model's answer is not finite.
    """
    batch: PromptBatch = check_prompts(embedding.frame, (1, 1), box=boxes_xyxy).batch
    answer = segmenter.decode(embedding, batch, True)
    low_res, predicted = as_numpy(answer.low_res), as_numpy(answer.predicted_iou)
    if not np.isfinite(predicted).all() or not np.isfinite(low_res).all():
        raise InputError("the model answered with NaN or infinity; the weights or the precision are not usable.")
    best = low_res[np.arange(len(low_res)), predicted.argmax(axis=1)]
    if refine:
        again = PromptBatch(None, None, batch.boxes_xyxy, best[:, None])
        best = as_numpy(segmenter.decode(embedding, again, False).low_res)[:, 0]
    upscaler = PatchUpscaler(embedding.frame, (best.shape[1], best.shape[2]))
    masks = []
    for logits in best:
        patch = upscaler.above(np.ascontiguousarray(logits), segmenter.mask_threshold)
        inside = patch.values > segmenter.mask_threshold
        masks.append(encode_patch(inside, patch.top, patch.left, embedding.frame.original_hw))
    return masks
