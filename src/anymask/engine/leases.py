"""Tasks: each is leased to one worker at a time, by the database's clock, and what is saved carries the lease.

A lease that runs out may be taken over; from then on the old token is refused, so nothing is written twice. One that
ran out and that nobody took still counts: the work of a person who was at lunch is kept. A clock that was set back
does not freeze tasks: a lease from the future counts as run out.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence

from sqlalchemy import ColumnElement, Connection, Row, and_, insert, or_, select, update

from anymask.core.errors import InputError, LeaseError
from anymask.engine.database import database_time
from anymask.engine.records import Lease, NewMask, Round
from anymask.engine.store import Store, current_round
from anymask.engine.tables import images, masks, tasks
from anymask.engine.versions import insert_masks, lock_image

LEASE_SECONDS = 600.0
_CLOCK_SLACK_SECONDS = 60.0
_AT_ONCE = 500  # rows looked up in one statement


def add_tasks(store: Store, project_id: int, image_ids: Iterable[int], kind: str = "annotate") -> int:
    """A task of the current round for each readable photo, in this order; returns how many are new.

    A photo has one task of a kind in a round, so this may be repeated.
    """
    with store.transaction(writes=True) as connection:
        return insert_tasks(connection, project_id, image_ids, kind)


def insert_tasks(connection: Connection, project_id: int, image_ids: Iterable[int], kind: str = "annotate") -> int:
    """What `add_tasks` does, as part of a larger step."""
    now = current_round(connection, project_id)
    wanted = list(dict.fromkeys(image_ids))
    rows = []
    for start in range(0, len(wanted), _AT_ONCE):
        part = wanted[start : start + _AT_ONCE]
        readable = select(images.c.id).where(
            images.c.project_id == project_id, images.c.problem.is_(None), images.c.id.in_(part)
        )
        there = select(tasks.c.image_id).where(
            tasks.c.round_id == now.id, tasks.c.kind == kind, tasks.c.image_id.in_(part)
        )
        possible = set(connection.scalars(readable)) - set(connection.scalars(there))
        rows += [_task_row(now, image_id, kind) for image_id in part if image_id in possible]
    if rows:
        connection.execute(insert(tasks).values(created_at=database_time()), rows)
    return len(rows)


def next_task(
    store: Store,
    project_id: int,
    worker: str,
    kind: str = "annotate",
    *,
    lease_seconds: float = LEASE_SECONDS,
    besides: Sequence[int] = (),
) -> Lease | None:
    """Lease the next free task to a worker; None where there is none. A worker who holds one gets it again.

    besides: ids of tasks that the worker has in hand and does not mean; so one can be fetched ahead. Names of workers
    are unique: who asks under a name takes its task from whoever held it under that name before.
    """
    if not worker.strip():
        raise InputError("a worker needs a name, so that the store knows who holds a task.")
    if not lease_seconds > 0:
        raise InputError(f"lease_seconds must be above 0, got {lease_seconds}.")
    column = tasks.c
    mine = and_(column.holder == worker, column.project_id == project_id, column.kind == kind)
    with store.transaction(writes=True) as connection:
        other = column.id.not_in(besides)
        held = select(tasks).where(column.state == "open", mine, ~_has_run_out(), other).order_by(column.leased_at)
        free = select(tasks).where(column.state == "open", free_for(project_id, worker, kind), other)
        first = free.order_by(column.priority, column.id)
        for query in (held, first):
            task = connection.execute(query.limit(1).with_for_update(skip_locked=True, key_share=True)).first()
            if task is not None:
                return _lease(connection, task, worker, lease_seconds)
    return None


def renew(store: Store, lease: Lease) -> None:
    """Say that work goes on. LeaseError where the task is somebody else's by now, or done."""
    with store.transaction(writes=True) as connection:
        _hold(connection, lease)


def release(store: Store, lease: Lease) -> None:
    """Give a task back undone. LeaseError as for `renew`."""
    with store.transaction(writes=True) as connection:
        _hold(connection, lease)
        gone = {"holder": None, "token": None, "leased_at": None, "leased_until": None}
        connection.execute(update(tasks).where(tasks.c.id == lease.task_id).values(**gone))


def save_masks(
    store: Store,
    lease: Lease,
    new: Sequence[NewMask],
    *,
    finish: bool = False,
    seconds: float | None = None,
    review: bool = False,
) -> list[int]:
    """Save masks of a leased task, all or none, and extend the lease; returns their ids.

    finish: the task is done in the same step (`seconds` in all); review: somebody else gets a review task then. A
    repeated call adds nothing where the masks have a save_key, even after the lease has gone. Raises LeaseError,
    InputError for a mask that does not fit, StateError for a version that has been replaced meanwhile.
    """
    with store.transaction(writes=True) as connection:
        if new and (ids := _saved_before(connection, lease, new)) is not None and not _is_held(connection, lease):
            return ids
        now = _hold(connection, lease)
        image = lock_image(connection, lease.image_id)
        ids = insert_masks(connection, image, new, now, lease.stage, lease.task_id)
        if finish:
            _finish(connection, lease, now, "done", seconds, review)
        return ids


def finish_task(
    store: Store, lease: Lease, *, skip: bool = False, seconds: float | None = None, review: bool = False
) -> None:
    """Close a task as done, or skipped. Repeating it under the same lease does nothing; else LeaseError."""
    with store.transaction(writes=True) as connection:
        task = _locked(connection, lease)
        if task is not None and task.state != "open" and task.token == lease.token:
            return
        now = _hold(connection, lease)
        _finish(connection, lease, now, "skipped" if skip else "done", seconds, review and not skip)


def free_for(project_id: int, worker: str, kind: str) -> ColumnElement[bool]:
    """Whether a task is there for a worker to take, as an SQL condition."""
    column = tasks.c
    return and_(
        column.project_id == project_id,
        column.kind == kind,
        or_(column.leased_until.is_(None), _has_run_out()),
        or_(column.not_for.is_(None), column.not_for != worker),
    )


def is_leased() -> ColumnElement[bool]:
    """Whether a task is in somebody's hands now, as an SQL condition."""
    return and_(tasks.c.state == "open", tasks.c.leased_until.is_not(None), ~_has_run_out())


def _has_run_out() -> ColumnElement[bool]:
    now = database_time()
    return or_(tasks.c.leased_until <= now, tasks.c.leased_at > now + _CLOCK_SLACK_SECONDS)


def _lease(connection: Connection, task: Row, worker: str, seconds: float) -> Lease:
    now: float = connection.execute(select(database_time())).scalar_one()
    lease = Lease(
        task_id=task.id,
        project_id=task.project_id,
        image_id=task.image_id,
        round_id=task.round_id,
        stage=task.stage,
        kind=task.kind,
        worker=worker,
        token=uuid.uuid4().hex,
        seconds=seconds,
        until=now + seconds,
    )
    values = {
        "holder": worker,
        "token": lease.token,
        "leased_at": now,
        "leased_until": lease.until,
        "num_leases": task.num_leases + 1,
    }
    connection.execute(update(tasks).where(tasks.c.id == task.id).values(**values))
    return lease


def _locked(connection: Connection, lease: Lease) -> Row | None:
    return connection.execute(select(tasks).where(tasks.c.id == lease.task_id).with_for_update(key_share=True)).first()


def _is_held(connection: Connection, lease: Lease) -> bool:
    task = _locked(connection, lease)
    return task is not None and task.state == "open" and task.token == lease.token


def _hold(connection: Connection, lease: Lease) -> Round:
    """Lock the task and extend the lease; returns its round. LeaseError where it is not this lease's any more."""
    task = _locked(connection, lease)
    what = f"task {lease.task_id} ({lease.kind} of image {lease.image_id})"
    if task is None:
        raise LeaseError(f"there is no {what} in the store.")
    if task.state != "open":
        raise LeaseError(f"{what} was finished by {task.done_by}. This was not saved; ask for the next task.")
    if task.token != lease.token:
        holder = f"is with {task.holder} now" if task.holder else "was given back"
        raise LeaseError(
            f"{what} {holder}: the lease of {lease.worker} ended. This was not saved; ask for the next task."
        )
    now = database_time()
    values = {"leased_at": now, "leased_until": now + lease.seconds}
    connection.execute(update(tasks).where(tasks.c.id == lease.task_id).values(**values))
    return Round(task.round_id, task.project_id, 0, task.stage, None)


def _saved_before(connection: Connection, lease: Lease, new: Sequence[NewMask]) -> list[int] | None:
    """Ids where every mask has been saved under its key and by its author before, else None."""
    if any(mask.save_key is None for mask in new):
        return None
    keys, authors = [mask.save_key for mask in new], {mask.author for mask in new}
    query = select(masks.c.save_key, masks.c.id).where(
        masks.c.image_id == lease.image_id, masks.c.save_key.in_(keys), masks.c.author.in_(authors)
    )
    ids = {row.save_key: row.id for row in connection.execute(query)}
    return [ids[key] for key in keys] if len(ids) == len(set(keys)) else None


def _finish(connection: Connection, lease: Lease, now: Round, state: str, seconds: float | None, review: bool) -> None:
    values = {
        "state": state,
        "seconds": seconds,
        "done_at": database_time(),
        "done_by": lease.worker,
        "holder": None,
        "leased_until": None,
    }
    connection.execute(update(tasks).where(tasks.c.id == lease.task_id).values(**values))
    if review:
        there = select(tasks.c.id).where(
            tasks.c.image_id == lease.image_id, tasks.c.kind == "review", tasks.c.round_id == now.id
        )
        if connection.scalar(there) is None:
            row = _task_row(now, lease.image_id, "review", not_for=lease.worker)
            connection.execute(insert(tasks).values(created_at=database_time()), [row])


def _task_row(now: Round, image_id: int, kind: str, not_for: str | None = None) -> dict[str, object]:
    return {
        "project_id": now.project_id,
        "image_id": image_id,
        "round_id": now.id,
        "kind": kind,
        "stage": now.stage,
        "priority": 0,
        "not_for": not_for,
        "state": "open",
        "num_leases": 0,
    }
