"""What the store holds, in numbers: counted by the database, from an index, in seconds for a million masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, case, func, select

from anymask.engine.costs import MAKING, Cost, count_costs
from anymask.engine.leases import is_leased
from anymask.engine.store import Store
from anymask.engine.tables import STAGES, images, masks, reviews, rounds, tasks


@dataclass(frozen=True)
class StageReport:
    """One stage in one round. Masks are counted in their current version, rejected ones apart.

    seconds_per_mask: mean over first versions that people made and timed, so prefilled masks are left out as in the
    paper (PAPER §4.1); None without any. masks_per_image: over images that have masks of the stage, prefilled ones
    included.
    """

    round: int
    stage: int
    num_images: int
    num_masks: int
    num_by_people: int
    num_by_models: int
    num_imported: int
    num_accepted: int
    num_rejected: int
    num_edited: int
    seconds: float
    num_timed: int

    @property
    def stage_name(self) -> str:
        """In the paper's words."""
        return STAGES[self.stage]

    @property
    def seconds_per_mask(self) -> float | None:
        """Mean time of a person for a mask."""
        return self.seconds / self.num_timed if self.num_timed else None

    @property
    def masks_per_image(self) -> float:
        """Mean number of masks."""
        return self.num_masks / self.num_images if self.num_images else 0.0

    def to_json(self) -> dict[str, Any]:
        """All fields and means."""
        means = {"masks_per_image": self.masks_per_image, "seconds_per_mask": self.seconds_per_mask}
        return {**self.__dict__, "stage_name": self.stage_name, **means}


@dataclass(frozen=True)
class Report:
    """A project in numbers. tasks: kind → state → number. reviews: action → (number, seconds). costs: of computing."""

    num_images: int
    num_unreadable: int
    num_annotated: int
    tasks: dict[str, dict[str, int]]
    reviews: dict[str, tuple[int, float]]
    stages: tuple[StageReport, ...]
    costs: tuple[Cost, ...] = ()

    @property
    def cpu_seconds(self) -> float:
        """Of all computing that was kept."""
        return sum(cost.cpu_seconds for cost in self.costs)

    def cpu_seconds_per_mask(self, stage: int) -> float | None:
        """Of making a stage's masks over all rounds, for each that is not rejected; None where nothing was kept."""
        spent = sum(cost.cpu_seconds for cost in self.costs if cost.stage == stage and cost.kind in MAKING)
        num_masks = sum(row.num_masks for row in self.stages if row.stage == stage)
        return spent / num_masks if spent and num_masks else None

    @property
    def num_masks(self) -> int:
        """Current masks that are not rejected."""
        return sum(stage.num_masks for stage in self.stages)

    def to_json(self) -> dict[str, Any]:
        """For `--json`; seconds are durations."""
        return {
            "images": {"all": self.num_images, "unreadable": self.num_unreadable, "with_masks": self.num_annotated},
            "masks": self.num_masks,
            "tasks": self.tasks,
            "reviews": {action: {"num": num, "seconds": s} for action, (num, s) in self.reviews.items()},
            "stages": [stage.to_json() for stage in self.stages],
            "computing": {
                "cpu_seconds": self.cpu_seconds,
                "cpu_seconds_per_mask": {
                    str(stage): each for stage in STAGES if (each := self.cpu_seconds_per_mask(stage)) is not None
                },
                "by_round": [cost.to_json() for cost in self.costs],
            },
        }


@dataclass(frozen=True)
class Status:
    """What a project waits for. tasks: kind → state → number, with those that are leased right now as "leased"."""

    num_images: int
    num_unreadable: int
    num_masks: int
    tasks: dict[str, dict[str, int]]


def status(store: Store, project_id: int) -> Status:
    """Photos, masks and tasks at this moment."""
    with store.transaction() as connection:
        num_images, num_unreadable = _count_images(connection, project_id)
        num_masks = connection.scalar(select(func.count()).where(*_valid(project_id)))
        return Status(num_images, num_unreadable, num_masks or 0, _count_tasks(connection, project_id))


def make_report(store: Store, project_id: int) -> Report:
    """Count everything, in one view of the database."""
    with store.transaction() as connection:
        num_images, num_unreadable = _count_images(connection, project_id)
        by_action = (
            select(reviews.c.action, func.count(), func.coalesce(func.sum(reviews.c.seconds), 0.0))
            .where(reviews.c.project_id == project_id)
            .group_by(reviews.c.action)
        )
        annotated = select(func.count(func.distinct(masks.c.image_id))).where(*_valid(project_id))
        return Report(
            num_images=num_images,
            num_unreadable=num_unreadable,
            num_annotated=connection.scalar(annotated) or 0,
            tasks=_count_tasks(connection, project_id),
            reviews={action: (num, float(seconds)) for action, num, seconds in connection.execute(by_action)},
            stages=_stages(connection, project_id),
            costs=count_costs(connection, project_id),
        )


def _stages(connection: Connection, project_id: int) -> tuple[StageReport, ...]:
    mask = masks.c
    valid = mask.is_current & (mask.state != "rejected")

    def number(condition: Any) -> Any:
        return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)

    timed = (mask.version == 1) & (mask.author_kind == "person") & mask.seconds.is_not(None)
    query = (
        select(
            rounds.c.number,
            mask.stage,
            func.count(func.distinct(case((valid, mask.image_id)))),
            number(valid),
            number(valid & (mask.author_kind == "person")),
            number(valid & (mask.author_kind == "model")),
            number(valid & (mask.author_kind == "import")),
            number(valid & (mask.state == "accepted")),
            number(mask.is_current & (mask.state == "rejected")),
            number(valid & (mask.version > 1)),
            func.coalesce(func.sum(case((timed, mask.seconds))), 0.0),
            number(timed),
        )
        .join(rounds, rounds.c.id == mask.round_id)
        .where(mask.project_id == project_id)
        .group_by(rounds.c.number, mask.stage)
        .order_by(rounds.c.number, mask.stage)
    )
    return tuple(StageReport(*row) for row in connection.execute(query))


def _valid(project_id: int) -> tuple[Any, ...]:
    return (masks.c.project_id == project_id, masks.c.is_current, masks.c.state != "rejected")


def _count_images(connection: Connection, project_id: int) -> tuple[int, int]:
    query = select(func.count(), func.count(images.c.problem)).where(images.c.project_id == project_id)
    num_images, num_unreadable = connection.execute(query).one()
    return num_images, num_unreadable


def _count_tasks(connection: Connection, project_id: int) -> dict[str, dict[str, int]]:
    """By kind and state; an open task that has a holder counts as leased."""
    state = case((is_leased(), "leased"), else_=tasks.c.state).label("state_now")
    each = select(tasks.c.kind, state).where(tasks.c.project_id == project_id).subquery()
    query = select(each.c.kind, each.c.state_now, func.count()).group_by(each.c.kind, each.c.state_now)
    counts: dict[str, dict[str, int]] = {}
    for kind, name, num in connection.execute(query):
        counts.setdefault(kind, {})[name] = num
    return counts
