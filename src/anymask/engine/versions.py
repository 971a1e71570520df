"""Writing masks: new ones and new versions, never a change of what was saved. Called inside a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from anymask.core.errors import InputError, StateError
from anymask.engine.database import database_time
from anymask.engine.records import NewMask, Round
from anymask.engine.store import Store, current_round
from anymask.engine.tables import images, masks


def add_masks(store: Store, image_id: int, new: Sequence[NewMask], stage: int | None = None) -> list[int]:
    """Save masks of an image without a task, all or none; returns their ids. For imports and single corrections.

    stage: by default that of the project's current round. Raises InputError for a mask of another size than the
    image, StateError for an unknown image or a version that has been replaced meanwhile.
    """
    with store.transaction(writes=True) as connection:
        image = lock_image(connection, image_id)
        now = current_round(connection, image.project_id)
        return insert_masks(connection, image, new, now, now.stage if stage is None else stage)


def lock_image(connection: Connection, image_id: int) -> Row:
    """The row of an image, held so that masks of one image are written one after the other."""
    image = connection.execute(select(images).where(images.c.id == image_id).with_for_update(key_share=True)).first()
    if image is None:
        raise StateError(f"there is no image {image_id} in the store.")
    return image


def insert_masks(
    connection: Connection, image: Row, new: Sequence[NewMask], now: Round, stage: int, task_id: int | None = None
) -> list[int]:
    """Save masks of a locked image; returns their ids. One whose save_key is there already keeps its old id.

    StateError where that key names another mask.
    """
    keys = [mask.save_key for mask in new if mask.save_key is not None]
    saved: dict[str | None, tuple[int, bytes]] = {}
    if keys:
        query = select(masks.c.save_key, masks.c.id, masks.c.rle)
        query = query.where(masks.c.image_id == image.id, masks.c.save_key.in_(keys))
        saved = {row.save_key: (row.id, bytes(row.rle)) for row in connection.execute(query)}
    ids: list[int] = []
    waiting: list[NewMask] = []  # new ones are written together

    def write() -> None:
        rows = [_row(image, mask, now, stage, task_id) for mask in waiting]
        for mask, new_id in zip(waiting, _insert(connection, rows)):
            ids.append(new_id)
            saved[mask.save_key] = (new_id, mask.counts)
        waiting.clear()

    for mask in new:
        if mask.save_key is not None and any(other.save_key == mask.save_key for other in waiting):
            write()
        if mask.save_key is not None and mask.save_key in saved:
            old_id, counts = saved[mask.save_key]
            if counts != mask.counts:
                raise StateError(f"save_key {mask.save_key!r} names mask {old_id}, another one; give each its own.")
            write()
            ids.append(old_id)
        elif mask.replaces is not None:
            write()
            (new_id,) = _insert(connection, [_successor(connection, image, mask, now, task_id)])
            ids.append(new_id)
            saved[mask.save_key] = (new_id, mask.counts)
        else:
            waiting.append(mask)
    write()
    return ids


def lock_current(connection: Connection, mask_id: int) -> Row:
    """The row of a mask, held. StateError where there is none, or a later version has taken its place."""
    mask = connection.execute(select(masks).where(masks.c.id == mask_id).with_for_update(key_share=True)).first()
    if mask is None:
        raise StateError(f"there is no mask {mask_id} in the store.")
    if not mask.is_current:
        later = connection.execute(select(masks).where(masks.c.parent_id == mask_id)).one()
        raise StateError(
            f"mask {mask_id} was changed meanwhile: {later.author} saved version {later.version}, mask {later.id}. "
            "Load it, and repeat the change if it is still wanted."
        )
    return mask


def _insert(connection: Connection, rows: list[dict[str, Any]]) -> list[int]:
    """Ids of the new rows, in their order."""
    if not rows:
        return []
    new = insert(masks).values(created_at=database_time())
    return list(connection.scalars(new.returning(masks.c.id, sort_by_parameter_order=True), rows))


def _successor(connection: Connection, image: Row, mask: NewMask, now: Round, task_id: int | None) -> dict[str, Any]:
    """The row of a mask that takes the place of another, which is marked so. StateError where it was taken."""
    assert mask.replaces is not None
    parent = lock_current(connection, mask.replaces)
    if parent.image_id != image.id:
        raise InputError(f"mask {mask.replaces} belongs to another photo than the one that replaces it.")
    row = _row(image, mask, now, parent.stage, task_id)  # an edited mask stays one of its stage
    connection.execute(update(masks).where(masks.c.id == parent.id).values(is_current=False))
    return {**row, "version": parent.version + 1}


def _row(image: Row, mask: NewMask, now: Round, stage: int, task_id: int | None) -> dict[str, Any]:
    """A row of the table `masks`. InputError for a mask that does not fit the photo."""
    if image.height is None:
        raise InputError(f"{image.place} cannot be read ({image.problem}), so it can have no masks.")
    if mask.hw != (image.height, image.width):
        raise InputError(
            f"{image.place}: a mask of {mask.hw[0]}×{mask.hw[1]} pixels (H×W) does not fit the photo of "
            f"{image.height}×{image.width}."
        )
    return {
        "project_id": image.project_id,
        "image_id": image.id,
        "round_id": now.id,
        "task_id": task_id,
        "parent_id": mask.replaces,
        "version": 1,
        "is_current": True,
        "state": mask.state,
        "stage": stage,
        "author_kind": mask.author_kind,
        "author": mask.author,
        "model_version_id": mask.model_version_id,
        "rle": mask.counts,
        "num_px": mask.num_px,
        "prompts": None if mask.prompts is None else dict(mask.prompts),
        "predicted_iou": mask.predicted_iou,
        "stability_score": mask.stability_score,
        "seconds": mask.seconds,
        "label": mask.label,
        "save_key": mask.save_key,
    }
