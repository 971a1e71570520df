"""The simulated annotator: a person with ground truth who works on the store's tasks by real leases (PAPER §4.2, 4.3).

In stage 1 every object is clicked. In stage 2 prefilled masks are looked at first: a good one is accepted, one that is
nearly right corrected, any other removed; what is still missing is clicked. Time on prefilled masks is kept with the
reviews and not counted as time per mask, as in the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from anymask.core.errors import ImageError
from anymask.core.rle import decode_one, encode_one, to_bbox_xywh
from anymask.core.types import Embedding
from anymask.engine.leases import finish_task, save_masks
from anymask.engine.records import Lease, NewMask, StoredMask
from anymask.engine.reviews import review
from anymask.engine.simulated_clicks import DrawnMask, Hand, draw_masks
from anymask.engine.stages import Progress, WorkedOff, work_off
from anymask.engine.store import Store
from anymask.engine.truth import Truth
from anymask.predict.segmenter import TorchSegmenter


@dataclass(frozen=True)
class SimulatedAnnotator:
    """Works under a name."""

    store: Store
    segmenter: TorchSegmenter
    truth: Truth
    name: str = "simulated"
    hand: Hand = field(default_factory=Hand)
    model_version_id: int | None = None

    def work(self, project_id: int, say: Progress = lambda text: None) -> WorkedOff:
        """Annotate until no task is free."""
        return work_off(self.store, project_id, self.name, "annotate", self.annotate, say)

    def annotate(self, lease: Lease, photo: np.ndarray) -> int:
        """One photo (H, W, 3): saves its masks one by one, finishes the task; returns how many the annotator drew.

        Doing it again after a stop saves nothing twice. ImageError for a photo without ground truth.
        """
        image = self.store.image(lease.image_id)
        objects = self.truth.objects(image.sha256)
        if objects is None or (len(objects) and objects.shape[1:] != photo.shape[:2]):
            raise ImageError(f"{image.place}: no ground truth of this size, so the simulated annotator cannot mark it.")
        embed = cache(lambda: self.segmenter.encode([photo])[0])
        missing = self._look_at_prefilled(lease, objects, embed)
        drawn: list[DrawnMask] = []
        if missing:
            drawn = self._in_time(draw_masks(self.segmenter, embed(), objects[missing], self.hand))
        for number, mask in zip(missing, drawn):
            save_masks(self.store, lease, [self._record(mask, f"simulated:{lease.task_id}:{number}")])
        finish_task(self.store, lease, seconds=sum(mask.seconds for mask in drawn))
        return len(drawn)

    def _in_time(self, drawn: list[DrawnMask]) -> list[DrawnMask]:
        """Up to the first mask that took too long; with it, the annotator moves on to the next photo."""
        slow = [i for i, mask in enumerate(drawn) if mask.seconds > self.hand.move_on_s]
        return drawn[: slow[0] + 1] if slow else drawn

    def _look_at_prefilled(self, lease: Lease, objects: np.ndarray, embed: Callable[[], Embedding]) -> list[int]:
        """Review what a model prefilled in this round; returns the objects that are still to be drawn.

        Each object goes to the first mask, the most confident, that is worth correcting for it.
        """
        missing = list(range(len(objects)))
        for mask in self.store.masks([lease.image_id]):
            if mask.round_id != lease.round_id or not _is_prefilled(mask) or mask.state == "rejected":
                continue
            ious = _ious(decode_one(mask.rle), objects)
            best = int(ious.argmax()) if len(ious) else -1
            has_object = best in missing and ious[best] >= min(self.hand.worth_iou, self.hand.satisfied_iou)
            if has_object:
                missing.remove(best)
            if mask.state == "proposed":
                is_good = has_object and ious[best] >= self.hand.satisfied_iou
                self._review(mask, objects[best] if has_object and not is_good else None, is_good, embed)
        return missing

    def _review(
        self, mask: StoredMask, target: np.ndarray | None, is_good: bool, embed: Callable[[], Embedding]
    ) -> None:
        """Correct a mask towards a target (H, W); without one accept or reject it."""
        if target is None:
            action = "accept" if is_good else "reject"
            review(self.store, mask.id, action, self.name, seconds=self.hand.look_s)
            return
        box = np.array([(mask.prompts or {}).get("box_xyxy") or _corners(mask)], np.float64)
        (drawn,) = draw_masks(self.segmenter, embed(), target[None], self.hand, box)
        edited = self._record(drawn, f"simulated:{mask.id}")
        review(self.store, mask.id, "edit", self.name, edited=edited, seconds=drawn.seconds)

    def _record(self, mask: DrawnMask, save_key: str) -> NewMask:
        facts: dict[str, Any] = {"seconds": mask.seconds, "save_key": save_key, "state": "accepted"}
        return NewMask(
            encode_one(mask.mask),
            self.name,
            "person",
            prompts=mask.prompts(),
            predicted_iou=mask.predicted_iou,
            stability_score=mask.stability_score,
            model_version_id=self.model_version_id,
            **facts,
        )


def _is_prefilled(mask: StoredMask) -> bool:
    """By a model; or by the annotator who corrected one, before a stop."""
    return mask.author_kind == "model" or mask.version > 1


def _corners(mask: StoredMask) -> list[int]:
    x, y, width, height = to_bbox_xywh(mask.rle)
    return [x, y, x + width, y + height]


def _ious(mask: np.ndarray, objects: np.ndarray) -> np.ndarray:
    shared = np.count_nonzero(mask & objects, axis=(1, 2))
    union = np.count_nonzero(mask | objects, axis=(1, 2))
    return np.asarray(shared / np.maximum(union, 1))
