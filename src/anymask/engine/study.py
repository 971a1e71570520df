"""The paper's mask quality study (PAPER §4.5): photos at random, every automatic mask corrected, both compared.

A study is a list of photos that its round remembers; its tasks are reviews, which the app hands out like any other.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from sqlalchemy import select, update

from anymask.core.errors import InputError, StateError
from anymask.core.files import write_aside
from anymask.engine.corrections import Compared, pair_iou
from anymask.engine.leases import insert_tasks
from anymask.engine.records import StoredMask
from anymask.engine.store import Store, current_round
from anymask.engine.tables import masks, rounds, tasks

_AT_ONCE = 100  # photos whose masks are held at a time
_RESAMPLED = 1000  # times, for the intervals


@dataclass(frozen=True)
class Study:
    """Which photos were chosen, in which round, from masks of which stage."""

    round_id: int
    stage: int
    image_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Pair:
    """One automatic mask and what became of it: "same", "corrected", "rejected" or "open" (nobody looked)."""

    photo: str
    image_id: int
    automatic_id: int
    current_id: int
    outcome: str
    iou: float | None


@dataclass(frozen=True)
class StudyResult:
    """What a study found on the photos that are done.

    intervals: IoU → 95 % interval of the share above it, by drawing photos again with replacement. num_open: masks of
    finished photos that nobody looked at; they count nowhere.
    """

    num_photos: int
    num_done: int
    compared: Compared
    intervals: dict[float, tuple[float, float]]
    num_open: int
    pairs: tuple[Pair, ...]

    def to_json(self) -> dict[str, Any]:
        """Numbers, shares and every pair."""
        return {
            "photos": self.num_photos,
            "photos_done": self.num_done,
            **self.compared.to_json(),
            **{f"interval_above_{iou:.2f}": list(pair) for iou, pair in self.intervals.items()},
            "not_looked_at": self.num_open,
            "masks": [asdict(pair) for pair in self.pairs],
        }


def open_study(store: Store, project_id: int, num_photos: int = 500, *, stage: int = 3, seed: int = 0) -> Study:
    """Choose photos at random among those with automatic masks of a stage, and open a review task for each.

    Raises InputError where there is none with such masks.
    """
    if num_photos < 1:
        raise InputError(f"a study needs one photo or more, got {num_photos}.")
    with store.transaction(writes=True) as connection:
        now = current_round(connection, project_id)
        there = (
            select(masks.c.image_id)
            .distinct()
            .where(
                masks.c.project_id == project_id,
                masks.c.stage == stage,
                masks.c.author_kind == "model",
                masks.c.is_current,
            )
        )
        possible = sorted(connection.scalars(there))
        if not possible:
            raise InputError(f"no photo has masks that a model made in stage {stage}, so there is nothing to study.")
        chosen = sorted(random.Random(seed).sample(possible, min(num_photos, len(possible))))
        insert_tasks(connection, project_id, chosen, "review")
        facts = dict(connection.execute(select(rounds.c.facts).where(rounds.c.id == now.id)).scalar_one())
        study = {"stage": stage, "image_ids": chosen, "seed": seed}
        facts["studies"] = [*facts.get("studies", []), study]
        connection.execute(update(rounds).where(rounds.c.id == now.id).values(facts=facts))
    return Study(now.id, stage, tuple(chosen), seed)


def latest_study(store: Store, project_id: int) -> Study | None:
    """The study that was opened last, in any round; None before the first."""
    with store.transaction() as connection:
        query = select(rounds.c.id, rounds.c.facts).where(rounds.c.project_id == project_id)
        for row in connection.execute(query.order_by(rounds.c.number.desc())):
            if row.facts.get("studies"):
                last = row.facts["studies"][-1]
                return Study(row.id, last["stage"], tuple(last["image_ids"]), last["seed"])
    return None


def result_of(store: Store, project_id: int, study: Study | None = None) -> StudyResult:
    """Compare what is done so far. StateError where no study was opened."""
    study = study or latest_study(store, project_id)
    if study is None:
        raise StateError("no study is open; begin one with `anymask engine study`.")
    with store.transaction() as connection:
        query = select(tasks.c.image_id).where(
            tasks.c.round_id == study.round_id, tasks.c.kind == "review", tasks.c.state == "done"
        )
        finished = set(connection.scalars(query)) & set(study.image_ids)
    done = sorted(finished)
    pairs: list[Pair] = []
    for start in range(0, len(done), _AT_ONCE):
        pairs += _pairs(store, done[start : start + _AT_ONCE], study.stage)
    compared = _compared(pairs)
    intervals = {iou: _interval(pairs, iou, study.seed) for iou in (0.90, 0.75)} if compared.num_pairs else {}
    num_open = sum(pair.outcome == "open" for pair in pairs)
    return StudyResult(len(study.image_ids), len(done), compared, intervals, num_open, tuple(pairs))


def write_result(result: StudyResult, path: Path) -> None:
    """As JSON with all numbers, or as CSV with a row for each mask, by suffix."""
    if path.suffix.lower() == ".csv":
        table = io.StringIO()
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(Pair.__dataclass_fields__)
        rows.writerows(asdict(pair).values() for pair in result.pairs)
        text = table.getvalue()
    elif path.suffix.lower() == ".json":
        text = json.dumps(result.to_json(), indent=1)
    else:
        raise InputError(f"{path.name}: the name must end in .json or .csv.")
    with write_aside(path) as part:
        part.write_text(text, encoding="utf-8")


def _pairs(store: Store, image_ids: Sequence[int], stage: int) -> list[Pair]:
    versions = {mask.id: mask for mask in store.masks(image_ids, all_versions=True)}
    names = {image_id: PurePath(store.image(image_id).place).name for image_id in image_ids}
    pairs = []
    for mask in versions.values():
        if not mask.is_current or mask.stage != stage:
            continue
        first = mask
        while first.parent_id is not None:
            first = versions[first.parent_id]
        if first.author_kind != "model":
            continue
        outcome = _outcome(first, mask)
        iou = None if outcome in ("open", "rejected") else 1.0 if first is mask else pair_iou(first.rle, mask.rle)
        pairs.append(Pair(names[mask.image_id], mask.image_id, first.id, mask.id, outcome, iou))
    return pairs


def _outcome(first: StoredMask, last: StoredMask) -> str:
    if last.state == "rejected":
        return "rejected"
    if first.id != last.id:
        return "corrected"
    return "same" if last.state == "accepted" else "open"


def _compared(pairs: Sequence[Pair]) -> Compared:
    num = {word: sum(pair.outcome == word for pair in pairs) for word in ("same", "corrected", "rejected")}
    ious = tuple(pair.iou for pair in pairs if pair.outcome == "corrected" and pair.iou is not None)
    return Compared(num["same"], num["corrected"], num["rejected"], ious)


def _interval(pairs: Sequence[Pair], iou: float, seed: int) -> tuple[float, float]:
    """95 % interval of the share above an IoU: masks of one photo go together."""
    by_photo: dict[int, list[float]] = {}
    for pair in pairs:
        if pair.iou is not None:
            by_photo.setdefault(pair.image_id, []).append(float(pair.iou > iou))
    above = np.array([sum(values) for values in by_photo.values()])
    total = np.array([len(values) for values in by_photo.values()])
    drawn = np.random.default_rng(seed).integers(0, len(total), (_RESAMPLED, len(total)))
    low, high = np.percentile(above[drawn].sum(axis=1) / total[drawn].sum(axis=1), [2.5, 97.5])
    return round(float(low), 4), round(float(high), 4)
