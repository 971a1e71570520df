"""More of what a report tells: times, shapes, corrections, people, days, models.

Counted where an index has it; the shapes of masks are measured on photos chosen at random.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select

from anymask.data.statistics import Statistics
from anymask.engine.corrections import Compared, compare_corrected
from anymask.engine.database import whole_part
from anymask.engine.store import Store
from anymask.engine.tables import images, masks, model_versions, reviews, rounds, tasks

TIME_BIN_SECONDS = 2.0
_DAY_SECONDS = 86400.0
_HELD_OUT = {
    "selected": "one click",
    "oracle": "one click, best of three",
    "curve": "1, 2, 4, … clicks",
    "reached": "reaches the target IoU",
}


@dataclass(frozen=True)
class PersonReport:
    """One person's work. seconds: on tasks and reviews, where their time was kept."""

    name: str
    num_photos: int
    num_reviews: int
    seconds: float


@dataclass(frozen=True)
class ModelReport:
    """A model version. scores: of the held-out photos, each 0 … 1. rounds: numbers of those it served."""

    name: str
    scores: dict[str, float]
    is_promoted: bool
    rounds: tuple[int, ...]


@dataclass(frozen=True)
class Details:
    """What the numbers of `Report` leave out.

    seconds: stage → masks in each bin of TIME_BIN_SECONDS, of first versions that people timed. shapes: stage → as
    `Statistics.summary`. num_measured: stage → masks that were measured for it. compared: stage → automatic against
    corrected. days: (day since 1970 in UTC, tasks finished).
    """

    seconds: dict[int, list[int]]
    shapes: dict[int, dict[str, Any]]
    num_measured: dict[int, int]
    compared: dict[int, Compared]
    people: tuple[PersonReport, ...]
    days: tuple[tuple[int, int], ...]
    models: tuple[ModelReport, ...]


def make_details(store: Store, project_id: int, *, num_sampled: int = 3000, seed: int = 0) -> Details:
    """Look closer. num_sampled: masks of each stage whose shape, and whose correction, is measured."""
    with store.transaction() as connection:
        per_photo = _masks_per_photo(connection, project_id)
        seconds = _seconds(connection, project_id)
        people = _people(connection, project_id)
        days = _days(connection, project_id)
        models = _models(connection, project_id)
        shapes: dict[int, dict[str, Any]] = {}
        num_measured: dict[int, int] = {}
        for stage, counts in per_photo.items():
            statistics = Statistics()
            measured = 0
            for image_id in _chosen(counts, num_sampled, seed):
                rles = _rles(connection, image_id, stage)
                statistics.add_masks(rles)
                measured += len(rles)
            statistics.masks_per_photo = list(counts.values())
            shapes[stage], num_measured[stage] = statistics.summary(), measured
    compared = {
        stage: compare_corrected(store, project_id, stages=[stage], num_sampled=num_sampled, seed=seed)
        for stage in per_photo
        if stage
    }
    return Details(seconds, shapes, num_measured, compared, people, days, models)


def _chosen(counts: Mapping[int, int], num_masks: int, seed: int) -> list[int]:
    """Photos at random, until they have this many masks together."""
    order = list(counts)
    random.Random(seed).shuffle(order)
    found, total = [], 0
    for image_id in order:
        if total >= num_masks:
            break
        found.append(image_id)
        total += counts[image_id]
    return sorted(found)


def _valid(project_id: int) -> Any:
    return (masks.c.project_id == project_id) & masks.c.is_current & (masks.c.state != "rejected")


def _masks_per_photo(connection: Connection, project_id: int) -> dict[int, dict[int, int]]:
    """stage → image → current masks, by the index alone."""
    query = select(masks.c.stage, masks.c.image_id, func.count()).where(_valid(project_id))
    found: dict[int, dict[int, int]] = {}
    for stage, image_id, num in connection.execute(query.group_by(masks.c.stage, masks.c.image_id)):
        found.setdefault(stage, {})[image_id] = num
    return dict(sorted(found.items()))


def _rles(connection: Connection, image_id: int, stage: int) -> list[dict[str, Any]]:
    query = (
        select(masks.c.rle, images.c.height, images.c.width)
        .join(images, images.c.id == masks.c.image_id)
        .where(masks.c.image_id == image_id, masks.c.is_current, masks.c.state != "rejected", masks.c.stage == stage)
    )
    rows = connection.execute(query)
    return [{"size": [row.height, row.width], "counts": bytes(row.rle).decode("ascii")} for row in rows]


def _seconds(connection: Connection, project_id: int) -> dict[int, list[int]]:
    bin_ = whole_part(masks.c.seconds / TIME_BIN_SECONDS).label("bin")
    query = select(masks.c.stage, bin_, func.count()).where(
        masks.c.project_id == project_id,
        masks.c.version == 1,
        masks.c.author_kind == "person",
        masks.c.seconds.is_not(None),
    )
    found: dict[int, list[int]] = {}
    for stage, number, num in connection.execute(query.group_by(masks.c.stage, bin_)):
        counts = found.setdefault(stage, [])
        at = min(int(number), 60)  # two minutes and more are one bin
        counts += [0] * (at + 1 - len(counts))
        counts[at] += num
    return dict(sorted(found.items()))


def _people(connection: Connection, project_id: int) -> tuple[PersonReport, ...]:
    """Time on reviews is kept on the tasks or on each review: the longer of both counts."""
    done = (
        select(tasks.c.done_by, tasks.c.kind, func.count(), func.coalesce(func.sum(tasks.c.seconds), 0.0))
        .where(tasks.c.project_id == project_id, tasks.c.state == "done")
        .group_by(tasks.c.done_by, tasks.c.kind)
    )
    looked = (
        select(reviews.c.reviewer, func.count(), func.coalesce(func.sum(reviews.c.seconds), 0.0))
        .where(reviews.c.project_id == project_id)
        .group_by(reviews.c.reviewer)
    )
    photos: dict[str, int] = {}
    own: dict[str, float] = {}  # time on other tasks than reviews
    reviewing: dict[str, float] = {}
    for name, kind, num, seconds in connection.execute(done):
        photos[name or "?"] = photos.get(name or "?", 0) + num
        kept = own if kind == "annotate" else reviewing
        kept[name or "?"] = kept.get(name or "?", 0.0) + float(seconds)
    num_reviews: dict[str, int] = {}
    for name, num, seconds in connection.execute(looked):
        num_reviews[name] = num
        reviewing[name] = max(reviewing.get(name, 0.0), float(seconds))
    people = [
        PersonReport(name, photos.get(name, 0), num_reviews.get(name, 0), own.get(name, 0.0) + reviewing.get(name, 0.0))
        for name in photos.keys() | num_reviews.keys()
    ]
    return tuple(sorted(people, key=lambda person: (-person.seconds, -person.num_photos, person.name)))


def _days(connection: Connection, project_id: int) -> tuple[tuple[int, int], ...]:
    day = whole_part(tasks.c.done_at / _DAY_SECONDS).label("day")
    query = select(day, func.count()).where(tasks.c.project_id == project_id, tasks.c.state == "done")
    query = query.where(tasks.c.done_at.is_not(None))
    return tuple(sorted((int(when), num) for when, num in connection.execute(query.group_by(day))))


def _models(connection: Connection, project_id: int) -> tuple[ModelReport, ...]:
    served: dict[int, list[int]] = {}
    query = select(rounds.c.model_version_id, rounds.c.number).where(rounds.c.project_id == project_id)
    for model_id, number in connection.execute(query.order_by(rounds.c.number)):
        served.setdefault(model_id, []).append(number)
    found = select(model_versions).where(model_versions.c.project_id == project_id).order_by(model_versions.c.id)
    return tuple(
        ModelReport(row.name, _scores(row.facts), row.promoted_at is not None, tuple(served.get(row.id, ())))
        for row in connection.execute(found)
    )


def _scores(facts: Mapping[str, Any]) -> dict[str, float]:
    """What `retrain` recorded of a version on the held-out photos, as shares of 1."""
    after = facts.get("held_out", {}).get("after", {})
    return {word: after[name] / 100 for name, word in _HELD_OUT.items() if name in after}
