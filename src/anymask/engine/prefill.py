"""Prefilling photos for stage 2: the detector's boxes prompt the model, confident masks are candidates (PAPER §4.3)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from anymask.core.errors import OptionError
from anymask.core.geometry import to_model_xyxy
from anymask.core.types import PromptBatch
from anymask.engine.confidence import LITE, confidence_for
from anymask.engine.detector import ObjectDetector
from anymask.engine.leases import add_tasks, save_masks
from anymask.engine.records import Lease, NewMask
from anymask.engine.stages import PREFILL, Progress, WorkedOff, work_off
from anymask.engine.store import Store
from anymask.predict.filters import nms, stability
from anymask.predict.patches import PatchUpscaler, box_of, encode_patch
from anymask.predict.segmenter import TorchSegmenter


@dataclass(frozen=True)
class PrefillRules:
    """Which boxes become candidates; the paper names no cut-offs (PAPER §10.2).

    min_score: of the detector. max_boxes: of a photo, best first. min_predicted_iou: of the most confident of the
    three masks of a box. min_stability: between logits ± stability_offset. nms_iou: of the masks' boxes, the more
    confident one stays.
    """

    min_score: float = 0.3
    max_boxes: int = 60
    min_predicted_iou: float = 0.88
    min_stability: float = 0.9
    stability_offset: float = 1.0
    nms_iou: float = 0.7

    def __post_init__(self) -> None:
        for name in ("min_score", "min_predicted_iou", "min_stability", "nms_iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(f"{name} is a share from 0 to 1, got {getattr(self, name)}.")
        if self.max_boxes < 1:
            raise OptionError(f"max_boxes must be 1 or more, got {self.max_boxes}.")

    @classmethod
    def for_model(cls, segmenter: TorchSegmenter, **changes: Any) -> PrefillRules:
        """Rules that suit a model, with changes."""
        sure, own = confidence_for(segmenter), {}
        if sure is LITE:
            own = {"min_predicted_iou": sure.min_iou, "min_stability": sure.min_stability}
            own["stability_offset"] = sure.offset
        return cls(**{**own, **changes})


@dataclass(frozen=True)
class Prefiller:
    """Works off the prefill tasks of a round, and opens an annotation task for each photo it has done."""

    store: Store
    segmenter: TorchSegmenter
    detector: ObjectDetector
    rules: PrefillRules
    model_version_id: int | None = None
    name: str = "prefill"

    def work(self, project_id: int, say: Progress = lambda text: None) -> WorkedOff:
        """Prefill until no task is free."""
        return work_off(self.store, project_id, self.name, PREFILL, self.prefill, say)

    def prefill(self, lease: Lease, photo: np.ndarray) -> int:
        """Candidates of one photo: proposed masks of a model, for people to accept, edit or reject."""
        found = self.find(photo)
        save_masks(self.store, lease, found, finish=True)
        add_tasks(self.store, lease.project_id, [lease.image_id])
        return len(found)

    def find(self, photo: np.ndarray) -> list[NewMask]:
        """Confident masks of a photo (H, W, 3) uint8 RGB, most confident first."""
        rules = self.rules
        (embedding,) = self.segmenter.encode([photo])
        boxes = self.detector.find(embedding, rules.min_score)
        corners, scores = boxes.boxes_xyxy[: rules.max_boxes], boxes.scores[: rules.max_boxes]
        if not len(corners):
            return []
        prompts = PromptBatch(boxes_xyxy=to_model_xyxy(corners, embedding.frame).astype(np.float32))
        answer = self.segmenter.decode(embedding, prompts, True)
        low_res, predicted = answer.low_res.float().cpu().numpy(), answer.predicted_iou.float().cpu().numpy()
        best, level = predicted.argmax(axis=1), self.segmenter.mask_threshold
        upscaler = PatchUpscaler(embedding.frame, (low_res.shape[-2], low_res.shape[-1]))
        masks, tight = [], []
        for row, slot in enumerate(best):
            iou = float(predicted[row, slot])
            if iou < rules.min_predicted_iou:
                continue
            patch = upscaler.above(np.ascontiguousarray(low_res[row, slot]), level - rules.stability_offset)
            steady, inside = stability(patch.values, level, rules.stability_offset), patch.values > level
            if not steady >= rules.min_stability or not inside.any():
                continue
            rle = encode_patch(inside, patch.top, patch.left, photo.shape[:2])
            facts = {"box_xyxy": [round(float(v), 1) for v in corners[row]], "box_score": round(float(scores[row]), 4)}
            masks.append(
                NewMask(
                    rle,
                    self.name,
                    "model",
                    prompts=facts,
                    predicted_iou=iou,
                    stability_score=steady,
                    model_version_id=self.model_version_id,
                )
            )
            x0, y0, x1, y1 = box_of(inside)
            tight.append((x0 + patch.left, y0 + patch.top, x1 + patch.left, y1 + patch.top))
        kept = nms(np.array(tight), np.array([m.predicted_iou for m in masks]), rules.nms_iou)
        return [masks[i] for i in kept]

    def facts(self) -> dict[str, Any]:
        """For the round: every threshold."""
        return {"prefill": asdict(self.rules)}
