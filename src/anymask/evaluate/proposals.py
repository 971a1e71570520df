"""Object proposals: how many of the annotated objects are among the masks of everything (PAPER §7.3 to 7.4)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from anymask.core.errors import InputError
from anymask.evaluate.coco_data import load_photo, load_results, load_truth, part_of, photo_cases, plain
from anymask.evaluate.coco_scores import check_results, recall_scores
from anymask.evaluate.contract import Case, Table, Task
from anymask.evaluate.models import ModelChoice

PUBLISHED = (  # LVIS v1 val, AR@1000: all, small, medium, large, frequent, common, rare
    ("ViTDet-H", 63.0, 51.7, 80.8, 87.0, 63.1, 63.3, 58.3),
    ("SAM, single output", 54.9, 42.8, 76.7, 74.4, 54.7, 59.8, 62.0),
    ("SAM ViT-H", 59.3, 45.5, 81.6, 86.9, 59.1, 63.9, 65.8),
)


@dataclass(frozen=True)
class ProposalProtocol:
    """Choices. points_per_side 64, box_nms_thresh 0.9, no filter by predicted IoU or stability, no crops; above
    max_proposals ranked by the mean of predicted IoU and stability (all D.3). num_proposals: the k of AR@k.
    """

    points_per_side: int = 64
    box_nms_thresh: float = 0.9
    max_proposals: int = 1000
    num_proposals: tuple[int, ...] = (10, 100, 1000)


@dataclass
class Proposals(Task):
    """`truth`: a COCO or LVIS JSON. method: "model", or `results:FILE`, a JSON list of masks with scores."""

    truth: Path
    images: Path | None = None
    method: str = "model"
    protocol: ProposalProtocol = field(default_factory=ProposalProtocol)
    model: ModelChoice = field(default_factory=ModelChoice)
    max_photos: int | None = None
    name: str = "proposals"

    def cases(self) -> list[Case]:
        """A case for each photo; results of a file are checked here."""
        self.problems.clear()
        if self.method == "model":
            return photo_cases(self._truth, self.truth, self.images, self.problems)[: self.max_photos]
        if not self.method.startswith("results:"):
            raise InputError(f"--method is model or results:FILE, got {self.method!r}.")
        self.problems.extend(check_results(self._truth, self._results, "segmentation"))
        return [Case(str(r["id"]), self.truth.stem, (r["id"],)) for r in self._truth["images"]][: self.max_photos]

    def score(self, case: Case) -> dict[str, Any]:
        """The proposals of a photo."""
        if self.method != "model":
            keys = ("image_id", "segmentation", "score")
            own = [r for r in self._results if r.get("image_id") == case.payload[0]]
            usable = [r for r in own if not check_results(self._truth, [r], "segmentation")]
            return {"image_id": case.payload[0], "results": [{k: r[k] for k in keys} for r in usable]}
        from anymask.predict.automatic import SamAutomaticMaskGenerator

        generator = SamAutomaticMaskGenerator(
            self.model.segmenter,
            points_per_side=self.protocol.points_per_side,
            pred_iou_thresh=0,
            stability_score_thresh=0,
            box_nms_thresh=self.protocol.box_nms_thresh,
            output_mode="coco_rle",
        )
        records = generator.generate(load_photo(case, self._truth))
        results = []
        for record in records:
            stability = record["stability_score"]
            score = (record["predicted_iou"] + (stability if np.isfinite(stability) else 0)) / 2
            if not np.isfinite(score):
                raise InputError("the model answered with NaN; the weights or the precision are not usable.")
            mask = {"segmentation": plain(record["segmentation"]), "score": float(score)}
            results.append({"image_id": case.payload[0], **mask})
        results.sort(key=lambda r: -r["score"])
        return {"image_id": case.payload[0], "results": results[: self.protocol.max_proposals]}

    def summarise(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """AR@k by size and frequency, in percent; masks for each photo."""
        part = part_of(self._truth, {row["image_id"] for row in rows})
        scores = recall_scores(part, [r for row in rows for r in row["results"]], self.protocol.num_proposals)
        percent = {k: 100 * v if v >= 0 else None for k, v in scores.items()}
        return {**percent, "proposals": float(np.mean([len(row["results"]) for row in rows])), "photos": len(rows)}

    def tables(self, summary: dict[str, Any]) -> list[Table]:
        """Ours below the published rows."""
        k = max(self.protocol.num_proposals)
        ours = tuple(summary.get(f"AR{group}@{k}") for group in ("", "s", "m", "l", "f", "c", "r"))
        columns = ("method", "all", "small", "medium", "large", "freq.", "common", "rare")
        others = ", ".join(f"AR@{n} {summary[f'AR@{n}']:.1f}" for n in self.protocol.num_proposals[:-1])
        note = f"This run: AR@{k}, {summary['photos']} photos, {summary['proposals']:.0f} masks each; {others}. "
        note += "Published: LVIS v1 val, AR@1000."
        return [Table("Object proposals", columns, [*PUBLISHED, (f"{self.method} (this run)", *ours)], note)]

    def describe(self) -> dict[str, Any]:
        """Paths and weights."""
        known: dict[str, Any] = {"truth": str(self.truth), "max_photos": self.max_photos}
        return {**known, **self.model.describe()} if self.method == "model" else known

    @cached_property
    def _truth(self) -> dict[str, Any]:
        return load_truth(self.truth)

    @cached_property
    def _results(self) -> list[dict[str, Any]]:
        return load_results(Path(self.method.removeprefix("results:")))
