"""The paper's stages as rounds of the store: who works on which photos next, and working tasks off (PAPER §4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select, update

from anymask.core.errors import ImageError, LeaseError, unknown_name
from anymask.core.images import read_image
from anymask.engine.costs import spending
from anymask.engine.database import database_time
from anymask.engine.leases import finish_task, insert_tasks, is_leased, next_task
from anymask.engine.photos import check_photo
from anymask.engine.records import Lease, Round
from anymask.engine.store import Store, current_round, next_round
from anymask.engine.tables import STAGES, images, masks, projects, rounds, tasks

PREFILL, GENERATE = "prefill", "generate"  # kinds of tasks that models do
Progress = Callable[[str], None]


@dataclass(frozen=True)
class WorkedOff:
    """What one worker did. skipped: (path, why) of photos whose task could not be done."""

    num_photos: int
    num_masks: int
    skipped: tuple[tuple[str, str], ...] = field(default=())


def begin_stage(
    store: Store,
    project_id: int,
    stage: int,
    image_ids: Iterable[int],
    kind: str = "annotate",
    *,
    model_version_id: int | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Round:
    """Start a round of a stage with a task of `kind` for each photo, in this order; as a whole or not at all.

    Open annotation tasks of earlier rounds that nobody holds are closed as skipped: work goes on in the new stage. The
    round that a project begins with is taken over as long as no mask is in it.
    """
    if stage not in STAGES:
        raise unknown_name("stage", str(stage), [str(number) for number in STAGES])
    with store.transaction(writes=True) as connection:
        connection.execute(select(projects.c.id).where(projects.c.id == project_id).with_for_update(key_share=True))
        now = current_round(connection, project_id)
        num_masks = connection.scalar(select(func.count()).where(masks.c.round_id == now.id))
        if now.number == 1 and now.stage == stage and now.model_version_id is None and not num_masks:
            values = {"model_version_id": model_version_id, "facts": dict(facts or {})}
            connection.execute(update(rounds).where(rounds.c.id == now.id).values(**values))
            now = current_round(connection, project_id)
        else:
            now = next_round(connection, project_id, stage, model_version_id, facts)
        wanted = list(image_ids)
        unwanted = (
            tasks.c.project_id == project_id,
            tasks.c.kind == "annotate",
            tasks.c.state == "open",
            ~is_leased(),
            (tasks.c.round_id != now.id) | tasks.c.image_id.not_in(wanted),
        )
        closed = {"state": "skipped", "done_at": database_time(), "done_by": f"round {now.number}"}
        connection.execute(update(tasks).where(*unwanted).values(**closed))
        insert_tasks(connection, project_id, wanted, kind)
        return now


def find_round(store: Store, project_id: int, **facts: Any) -> Round | None:
    """The latest round whose facts hold all these values."""
    query = select(rounds).where(rounds.c.project_id == project_id).order_by(rounds.c.number.desc())
    with store.transaction() as connection:
        for row in connection.execute(query):
            if all(row.facts.get(name) == value for name, value in facts.items()):
                return Round(row.id, project_id, row.number, row.stage, row.model_version_id)
    return None


def remaining_images(store: Store, project_id: int) -> list[int]:
    """Readable photos without a mask that is not rejected, in an order that follows from their content alone."""
    has_mask = select(masks.c.image_id).where(
        masks.c.project_id == project_id, masks.c.is_current, masks.c.state != "rejected"
    )
    query = select(images.c.id).where(
        images.c.project_id == project_id, images.c.problem.is_(None), images.c.id.not_in(has_mask)
    )
    with store.transaction() as connection:
        return list(connection.scalars(query.order_by(images.c.sha256)))


def num_open(store: Store, round_id: int, kind: str) -> int:
    """Tasks of a kind that are still to be done in a round, leased ones included."""
    where = (tasks.c.round_id == round_id, tasks.c.kind == kind, tasks.c.state == "open")
    with store.transaction() as connection:
        return connection.scalar(select(func.count()).where(*where)) or 0


def work_off(
    store: Store,
    project_id: int,
    worker: str,
    kind: str,
    do: Callable[[Lease, Any], int],
    say: Progress = lambda text: None,
) -> WorkedOff:
    """Take tasks one after the other until none is free; `do` gets the lease and the photo (H, W, 3) uint8 RGB.

    do: saves masks under the lease, finishes the task, returns how many masks. A photo that is gone from the disk, has
    changed or cannot be used closes its task as skipped; nothing else stops. Killed at any moment, a worker of the same
    name goes on with the task it held, another one once the lease has run out. Processor time is kept (`costs`).
    """
    num_photos = num_masks = 0
    skipped: list[tuple[str, str]] = []
    while lease := next_task(store, project_id, worker, kind):
        try:
            with spending(store, project_id, kind, 1, lease.round_id):
                photo = read_image(check_photo(store, lease.image_id))
                num_masks += do(lease, photo)
            num_photos += 1
        except LeaseError as error:
            say(f"{worker}: {error}")
            continue
        except ImageError as error:
            skipped.append((store.image(lease.image_id).place, str(error)))
            finish_task(store, lease, skip=True)
        say(f"{kind}: {num_photos} photos, {num_masks} masks")
    return WorkedOff(num_photos, num_masks, tuple(skipped))
