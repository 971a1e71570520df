"""Second looks at masks: accept, edit, reject, and undo. Every one is kept, also what was undone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, insert, select, update

from anymask.core.errors import InputError, StateError, unknown_name
from anymask.engine.database import database_time
from anymask.engine.records import NewMask, Round
from anymask.engine.store import Store, current_round
from anymask.engine.tables import images, masks, reviews
from anymask.engine.versions import insert_masks, lock_current, lock_image


def review(
    store: Store,
    mask_id: int,
    action: str,
    reviewer: str,
    *,
    edited: NewMask | None = None,
    seconds: float | None = None,
    note: str | None = None,
) -> int:
    """Accept, reject or edit the current version of a mask; returns the review's id.

    An edit saves `edited` as the next version, accepted. Raises StateError where the mask has been changed since
    the reviewer loaded it; InputError for an edit without a mask, or a mask without an edit.
    """
    if action not in ("accept", "edit", "reject"):
        raise unknown_name("action", action, ["accept", "edit", "reject"])
    if (action == "edit") != (edited is not None):
        raise InputError(f"an edit comes with the edited mask, and nothing else does; got {action!r}.")
    with store.transaction(writes=True) as connection:
        image = lock_image(connection, _image_id(connection, mask_id))
        mask = lock_current(connection, mask_id)
        new_id = None
        if edited is not None:
            edited = replace(edited, replaces=mask_id, state="accepted")
            now = current_round(connection, mask.project_id)
            (new_id,) = insert_masks(connection, image, [edited], now, mask.stage)
        else:
            _set_state(connection, mask_id, {"accept": "accepted", "reject": "rejected"}[action])
        return _record(
            connection,
            project_id=mask.project_id,
            mask_id=mask_id,
            action=action,
            reviewer=reviewer,
            state_before=mask.state,
            new_mask_id=new_id,
            seconds=seconds,
            note=note,
        )


def undo(store: Store, review_id: int, reviewer: str) -> int:
    """Take back the latest review of a mask; returns the id of the review that says so.

    After an accept or reject the mask has its state of before. After an edit a new version with the content of before
    becomes current: versions are never deleted. Raises StateError where something happened to the mask since.
    """
    with store.transaction(writes=True) as connection:
        found = connection.execute(select(reviews).where(reviews.c.id == review_id)).first()
        if found is None:
            raise StateError(f"there is no review {review_id} in the store.")
        if found.action == "undo":
            raise StateError("an undo cannot be undone; review the mask again.")
        image = lock_image(connection, _image_id(connection, found.mask_id))
        touched = found.new_mask_id or found.mask_id
        current = lock_current(connection, touched)
        later = select(reviews.c.id).where(
            reviews.c.id > review_id, reviews.c.mask_id.in_([found.mask_id, touched]), reviews.c.action != "undo"
        )
        undone = select(reviews.c.id).where(reviews.c.undoes_id == review_id)
        undone_later = select(reviews.c.undoes_id).where(reviews.c.undoes_id.is_not(None))
        if connection.scalar(undone) is not None:
            raise StateError(f"review {review_id} has been undone already.")
        if connection.scalar(later.where(reviews.c.id.not_in(undone_later))) is not None:
            raise StateError(f"mask {touched} was reviewed again since review {review_id}; undo the latest first.")
        new_id = None
        if found.action == "edit":
            before = connection.execute(select(masks).where(masks.c.id == found.mask_id)).one()._asdict()
            again = _again(before, touched, (image.height, image.width), found.state_before)
            now = Round(current.round_id, current.project_id, 0, current.stage, None)
            (new_id,) = insert_masks(connection, image, [again], now, current.stage)
        else:
            _set_state(connection, found.mask_id, found.state_before)
        return _record(
            connection,
            project_id=found.project_id,
            mask_id=touched,
            action="undo",
            reviewer=reviewer,
            state_before=current.state,
            new_mask_id=new_id,
            undoes_id=review_id,
        )


def history(store: Store, mask_id: int) -> list[Mapping[str, Any]]:
    """All reviews of a mask and of its earlier and later versions, oldest first; rows of `reviews`."""
    with store.transaction() as connection:
        ids = [mask_id]
        while (parent := connection.scalar(select(masks.c.parent_id).where(masks.c.id == ids[-1]))) is not None:
            ids.append(parent)
        last: int | None = mask_id
        while (last := connection.scalar(select(masks.c.id).where(masks.c.parent_id == last))) is not None:
            ids.append(last)
        query = select(reviews).where(reviews.c.mask_id.in_(ids)).order_by(reviews.c.id)
        return [row._asdict() for row in connection.execute(query)]


def _image_id(connection: Connection, mask_id: int) -> int:
    image_id = connection.scalar(select(images.c.id).join(masks).where(masks.c.id == mask_id))
    if image_id is None:
        raise StateError(f"there is no mask {mask_id} in the store.")
    return image_id


def _set_state(connection: Connection, mask_id: int, state: str) -> None:
    connection.execute(update(masks).where(masks.c.id == mask_id).values(state=state))


def _record(connection: Connection, **values: Any) -> int:
    new = insert(reviews).values(created_at=database_time(), **values)
    return connection.execute(new.returning(reviews.c.id)).scalar_one()


def _again(before: Mapping[str, Any], replaces: int, hw: tuple[int, int], state: str) -> NewMask:
    """The content of an earlier version as a new one; a person's time on it is not counted twice."""
    return NewMask(
        {"size": list(hw), "counts": bytes(before["rle"]).decode("ascii")},
        before["author"],
        before["author_kind"],
        state,
        before["prompts"],
        before["predicted_iou"],
        before["stability_score"],
        label=before["label"],
        model_version_id=before["model_version_id"],
        replaces=replaces,
    )
