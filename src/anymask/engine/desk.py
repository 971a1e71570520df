"""What people at a screen ask of the store: leases by their parts, what comes next, and saves that may be repeated.

A browser that lost its connection does not know whether its last step arrived. It sends the step again, and here it is
recognised: nothing is done twice, and the answer is that of the first time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select

from anymask.core.errors import NotFoundError
from anymask.engine import reviews as second_looks
from anymask.engine.leases import LEASE_SECONDS, free_for
from anymask.engine.records import Lease, NewMask, StoredImage, StoredMask
from anymask.engine.store import Store, image_of
from anymask.engine.tables import images, masks, reviews, tasks


def lease_of(store: Store, project_id: int, task_id: int, worker: str, token: str) -> Lease:
    """The lease that somebody says to hold; whether it is true is checked by what is done with it.

    NotFoundError where the project has no such task.
    """
    with store.transaction() as connection:
        query = select(tasks).where(tasks.c.id == task_id, tasks.c.project_id == project_id)
        task = connection.execute(query).first()
    if task is None:
        raise NotFoundError(f"there is no task {task_id} in this project.")
    return Lease(
        task_id=task_id,
        project_id=project_id,
        image_id=task.image_id,
        round_id=task.round_id,
        stage=task.stage,
        kind=task.kind,
        worker=worker,
        token=token,
        seconds=LEASE_SECONDS,
        until=task.leased_until or 0.0,
    )


def upcoming(store: Store, project_id: int, worker: str, kind: str = "annotate", limit: int = 4) -> list[int]:
    """Ids of the photos that a worker would get next, in order; nothing is leased."""
    with store.transaction() as connection:
        query = select(tasks.c.image_id).where(tasks.c.state == "open", free_for(project_id, worker, kind))
        return list(connection.scalars(query.order_by(tasks.c.priority, tasks.c.id).limit(limit)))


def image_in(store: Store, project_id: int, image_id: int) -> StoredImage:
    """One photo. NotFoundError where the project has none of this id."""
    with store.transaction() as connection:
        query = select(images).where(images.c.id == image_id, images.c.project_id == project_id)
        row = connection.execute(query).first()
    if row is None:
        raise NotFoundError(f"there is no photo {image_id} in this project.")
    return image_of(row)


def mask_in(store: Store, project_id: int, mask_id: int) -> StoredMask:
    """One version of a mask. NotFoundError where the project has none of this id."""
    return versions_in(store, project_id, [mask_id])[0]


def versions_in(store: Store, project_id: int, mask_ids: Sequence[int]) -> list[StoredMask]:
    """Some versions of masks in the order of the ids. NotFoundError where one is not the project's."""
    query = select(masks, images.c.height, images.c.width).join(images, images.c.id == masks.c.image_id)
    query = query.where(masks.c.project_id == project_id, masks.c.id.in_(mask_ids))
    with store.transaction() as connection:
        rows = connection.execute(query).mappings().all()
    found = {row["id"]: StoredMask.of(dict(row), (row["height"], row["width"])) for row in rows}
    for mask_id in mask_ids:
        if mask_id not in found:
            raise NotFoundError(f"there is no mask {mask_id} in this project.")
    return [found[mask_id] for mask_id in mask_ids]


def family(store: Store, project_id: int, mask_id: int) -> tuple[list[StoredMask], list[dict[str, Any]]]:
    """All versions of a mask, oldest first, and all reviews of them. NotFoundError for a mask of another project."""
    ids = [mask_in(store, project_id, mask_id).id]
    with store.transaction() as connection:
        while (parent := connection.scalar(select(masks.c.parent_id).where(masks.c.id == ids[0]))) is not None:
            ids.insert(0, parent)
        while (child := connection.scalar(select(masks.c.id).where(masks.c.parent_id == ids[-1]))) is not None:
            ids.append(child)
    looks = [dict(look) for look in second_looks.history(store, mask_id)]
    return versions_in(store, project_id, ids), looks


def review_once(
    store: Store,
    mask_id: int,
    action: str,
    reviewer: str,
    *,
    edited: NewMask | None = None,
    seconds: float | None = None,
    note: str | None = None,
) -> int:
    """`review`, or the id of the same review where it was made just before: same person, same action, still standing.

    An edit is the same where its `save_key` is. Raises what `review` raises.
    """
    if (made := _made_before(store, mask_id, action, reviewer, edited)) is not None:
        return made
    return second_looks.review(store, mask_id, action, reviewer, edited=edited, seconds=seconds, note=note)


def undo_once(store: Store, review_id: int, reviewer: str) -> int:
    """`undo`, or the id of the undo that the same person made of this review before."""
    made = select(reviews.c.id).where(reviews.c.undoes_id == review_id, reviews.c.reviewer == reviewer)
    with store.transaction() as connection:
        if (undo_id := connection.scalar(made)) is not None:
            return int(undo_id)
    return second_looks.undo(store, review_id, reviewer)


def _made_before(store: Store, mask_id: int, action: str, reviewer: str, edited: NewMask | None) -> int | None:
    column = reviews.c
    with store.transaction() as connection:
        if edited is not None and edited.save_key is not None:
            same = select(column.id).join(masks, masks.c.id == column.new_mask_id)
            same = same.where(column.mask_id == mask_id, column.reviewer == reviewer, column.action == action)
            return connection.scalar(same.where(masks.c.save_key == edited.save_key))
        query = select(column.id, column.action, column.reviewer).where(column.mask_id == mask_id)
        last = connection.execute(query.order_by(column.id.desc())).first()
    is_same = last is not None and (last.action, last.reviewer) == (action, reviewer)
    return last.id if last is not None and is_same else None
