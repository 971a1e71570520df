"""Stage 3: the generator alone on the remaining photos, here or on Ray; the round keeps all thresholds (PAPER §4.4).

Workers share nothing but the store: each takes a photo's task, and one that dies leaves it to the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import select

from anymask.core.errors import StateError
from anymask.engine.confidence import LITE, confidence_for
from anymask.engine.leases import save_masks
from anymask.engine.models import load_version, version
from anymask.engine.records import Lease, NewMask, Round
from anymask.engine.stages import GENERATE, Progress, WorkedOff, begin_stage, num_open, work_off
from anymask.engine.store import Store, open_store
from anymask.engine.tables import rounds
from anymask.predict.automatic import SamAutomaticMaskGenerator
from anymask.predict.options import AutomaticOptions
from anymask.predict.records import MaskRecord
from anymask.predict.segmenter import TorchSegmenter


def generator_options(segmenter: TorchSegmenter, **changes: Any) -> AutomaticOptions:
    """The paper's settings; for lite with thresholds on its own scale, without crops, 16² points."""
    sure = confidence_for(segmenter)
    own: dict[str, Any] = {
        "pred_iou_thresh": sure.min_iou,
        "stability_score_thresh": sure.min_stability,
        "stability_score_offset": sure.offset,
    }
    if sure is LITE:
        own |= {"crop_n_layers": 0, "points_per_side": 16}
    return AutomaticOptions.of("paper", **{**own, **changes})


def begin_automatic(
    store: Store, project_id: int, image_ids: list[int], options: AutomaticOptions, model_version_id: int, **facts: Any
) -> Round:
    """Start stage 3 on some photos, or go on with a round of it that has photos left."""
    now = store.current_round(project_id)
    if now.stage == 3 and num_open(store, now.id, GENERATE):
        return now
    facts = {"generator": asdict(options), **facts}
    return begin_stage(store, project_id, 3, image_ids, GENERATE, model_version_id=model_version_id, facts=facts)


@dataclass(frozen=True)
class AutomaticWorker:
    """Works off the generation tasks of a round under a name."""

    store: Store
    generator: SamAutomaticMaskGenerator
    model_version_id: int | None
    name: str = "generator"

    def work(self, project_id: int, say: Progress = lambda text: None) -> WorkedOff:
        """Generate until no task is free."""
        return work_off(self.store, project_id, self.name, GENERATE, self.generate, say)

    def generate(self, lease: Lease, photo: np.ndarray) -> int:
        """All masks of one photo, saved with their points and scores in one step."""
        records = [MaskRecord.of(record) for record in self.generator.generate(photo)]
        found = [self._mask(record) for record in records if record.num_px]
        save_masks(self.store, lease, found, finish=True)
        return len(found)

    def _mask(self, record: MaskRecord) -> NewMask:
        prompts = {"point_xy": record.point_xy, "crop_xywh": record.crop_xywh}
        return NewMask(
            record.rle,
            self.name,
            "model",
            prompts={key: list(value) for key, value in prompts.items() if value is not None},
            predicted_iou=record.predicted_iou,
            stability_score=record.stability_score,
            model_version_id=self.model_version_id,
        )


def automatic_here(store: Store, project_id: int, name: str, say: Progress = lambda text: None) -> WorkedOff:
    """Work off the current round with the model and the options that it was begun with.

    StateError where it is not a round of stage 3.
    """
    now, facts = store.current_round(project_id), round_facts(store, project_id)
    if now.stage != 3 or now.model_version_id is None or "generator" not in facts:
        raise StateError("the project is not in stage 3; begin it: anymask engine automatic.")
    segmenter = load_version(version(store, now.model_version_id))
    known = {field.name for field in fields(AutomaticOptions)}
    options = AutomaticOptions(**{k: v for k, v in facts["generator"].items() if k in known})
    generator = SamAutomaticMaskGenerator.of(segmenter, options)
    return AutomaticWorker(store, generator, now.model_version_id, name).work(project_id, say)


def automatic_on_ray(
    place: str, project_id: int, num_workers: int, address: str | None = None, num_threads: int = 1
) -> WorkedOff:
    """The same in so many Ray workers, each of which opens the store; place: its file or URL, seen by all machines."""
    from anymask.predict.ray_engine import RaySettings, ray_cluster

    place = place if "://" in place else str(Path(place).resolve())
    with ray_cluster(RaySettings(num_workers, address, num_threads)):
        import ray

        remote = ray.remote(num_cpus=num_threads, max_retries=2)(_work_remotely)
        waiting = [remote.remote(place, project_id, f"generator-{i}") for i in range(num_workers)]
        done: list[WorkedOff] = ray.get(waiting)
    skipped = tuple(problem for part in done for problem in part.skipped)
    return WorkedOff(sum(part.num_photos for part in done), sum(part.num_masks for part in done), skipped)


def round_facts(store: Store, project_id: int) -> Mapping[str, Any]:
    """What was recorded when the current round began."""
    with store.transaction() as connection:
        query = select(rounds.c.facts).where(rounds.c.id == store.current_round(project_id).id)
        return dict(connection.execute(query).scalar_one())


def _work_remotely(place: str, project_id: int, name: str) -> WorkedOff:
    store = open_store(place)
    try:
        return automatic_here(store, project_id, name)
    finally:
        store.close()
