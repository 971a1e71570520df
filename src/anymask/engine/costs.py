"""What computing took: processor seconds of encoding, clicks, training and generating, kept with the round."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, insert, select

from anymask.engine.database import database_time
from anymask.engine.store import Store
from anymask.engine.tables import costs, rounds

MAKING = ("annotate", "prefill", "generate")  # kinds that masks come of; the others are for all masks
KINDS = {
    "annotate": "encoding and clicks of simulated annotators",
    "prefill": "encoding, boxes and candidates",
    "generate": "automatic masks",
    "detector": "training the detector",
    "train": "retraining the model",
    "held-out": "judging models",
}


@dataclass(frozen=True)
class Cost:
    """Of one kind in one round. num_photos: that it was spent on, each time one was. seconds: by the clock."""

    round: int
    stage: int
    kind: str
    num_photos: int
    cpu_seconds: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return dict(self.__dict__)


@contextmanager
def spending(store: Store, project_id: int, kind: str, num_photos: int, round_id: int | None = None) -> Iterator[None]:
    """Record what the body takes in this process, its threads and finished children; also where it fails.

    round_id: by default the current round. What was done when a process is killed is not recorded.
    """
    cpu, clock = _cpu_seconds(), time.perf_counter()
    try:
        yield
    finally:
        spent = {"cpu_seconds": _cpu_seconds() - cpu, "seconds": time.perf_counter() - clock}
        round_id = store.current_round(project_id).id if round_id is None else round_id
        about = {"project_id": project_id, "round_id": round_id, "kind": kind, "num_photos": num_photos}
        with store.transaction(writes=True) as connection:
            connection.execute(insert(costs).values(created_at=database_time(), **about, **spent))


def count_costs(connection: Connection, project_id: int) -> tuple[Cost, ...]:
    """Sums by round and kind."""
    sums = [func.sum(column) for column in (costs.c.num_photos, costs.c.cpu_seconds, costs.c.seconds)]
    query = select(rounds.c.number, rounds.c.stage, costs.c.kind, *sums).join(rounds, rounds.c.id == costs.c.round_id)
    query = query.where(costs.c.project_id == project_id).group_by(rounds.c.number, rounds.c.stage, costs.c.kind)
    rows = connection.execute(query.order_by(rounds.c.number, costs.c.kind))
    return tuple(Cost(row[0], row[1], row[2], int(row[3]), float(row[4]), float(row[5])) for row in rows)


def _cpu_seconds() -> float:
    return sum(os.times()[:4])
