"""The simulated annotator: a person with ground truth who works on the store's tasks by real leases (PAPER §4.2, 4.3).

In stage 1 every object is clicked. In stage 2 prefilled masks are looked at first: a good one is accepted, any other
rejected, and what is still missing is clicked. Looking is not counted as time per mask, as in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anymask.core.errors import ImageError
from anymask.core.rle import decode_one, encode_one
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
    """Works under a name. accept_iou: a prefilled mask that agrees so well with an object is accepted."""

    store: Store
    segmenter: TorchSegmenter
    truth: Truth
    name: str = "simulated"
    hand: Hand = field(default_factory=Hand)
    accept_iou: float = 0.8
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
        missing = self._look_at_prefilled(lease, objects)
        drawn = self._in_time(self._draw(photo, objects[missing]))
        for number, mask in zip(missing, drawn):
            save_masks(self.store, lease, [self._record(mask, f"simulated:{lease.task_id}:{number}")])
        finish_task(self.store, lease, seconds=sum(mask.seconds for mask in drawn))
        return len(drawn)

    def _draw(self, photo: np.ndarray, objects: np.ndarray) -> list[DrawnMask]:
        if not len(objects):
            return []
        (embedding,) = self.segmenter.encode([photo])
        return draw_masks(self.segmenter, embedding, objects, self.hand)

    def _in_time(self, drawn: list[DrawnMask]) -> list[DrawnMask]:
        """Up to the first mask that took too long; with it, the annotator moves on to the next photo."""
        slow = [i for i, mask in enumerate(drawn) if mask.seconds > self.hand.move_on_s]
        return drawn[: slow[0] + 1] if slow else drawn

    def _look_at_prefilled(self, lease: Lease, objects: np.ndarray) -> list[int]:
        """Accept and reject what a model prefilled in this round; returns the objects that are still to be drawn."""
        found = [mask for mask in self.store.masks([lease.image_id]) if _is_prefilled(mask, lease)]
        missing = list(range(len(objects)))
        for mask in found:
            ious = _ious(decode_one(mask.rle), objects)
            best = int(ious.argmax()) if len(ious) else -1
            is_good = best in missing and ious[best] >= self.accept_iou
            if mask.state == "proposed":
                review(self.store, mask.id, "accept" if is_good else "reject", self.name)
            elif mask.state == "rejected":
                continue
            if is_good:
                missing.remove(best)
        return missing

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


def _is_prefilled(mask: StoredMask, lease: Lease) -> bool:
    return mask.author_kind == "model" and mask.round_id == lease.round_id


def _ious(mask: np.ndarray, objects: np.ndarray) -> np.ndarray:
    shared = np.count_nonzero(mask & objects, axis=(1, 2))
    union = np.count_nonzero(mask | objects, axis=(1, 2))
    return np.asarray(shared / np.maximum(union, 1))
