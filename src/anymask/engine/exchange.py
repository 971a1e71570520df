"""Masks out of the store and into it, in every format that `anymask convert` knows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from sqlalchemy import Connection, func, select

from anymask.core.errors import InputError, unknown_name
from anymask.core.rle import to_compressed
from anymask.engine.records import NewMask, StoredImage, StoredMask
from anymask.engine.store import Store, current_round
from anymask.engine.tables import MASK_STATES, STAGES, masks
from anymask.engine.versions import insert_masks, lock_image
from anymask.predict.formats import FORMATS, find_format, known_format, read_masks, require_parts, write_masks
from anymask.predict.records import MaskRecord, PhotoMasks

_AT_ONCE = 200  # photos whose masks are held at a time
_MAX_NAMED = 5  # problems that a message spells out


@dataclass(frozen=True)
class Exchanged:
    """How much went out or came in. num_known: masks that were in the store before."""

    num_photos: int
    num_masks: int
    num_files: int = 0
    num_known: int = 0


def export_masks(
    store: Store,
    project_id: int,
    folder: Path,
    format_name: str,
    *,
    stage: int | None = None,
    state: str | None = None,
) -> Exchanged:
    """Write current masks of the readable photos, photos without any included.

    stage: of one stage only. state: "accepted" or another; by default all but the rejected. Raises InputError for a
    format that needs the photos too.
    """
    if state is not None and state not in MASK_STATES:
        raise unknown_name("state", state, list(MASK_STATES))
    if stage is not None and stage not in STAGES:
        raise unknown_name("stage", str(stage), [str(number) for number in STAGES])
    require_parts(format_name)
    if FORMATS[known_format(format_name)].with_photos:
        find_format(format_name).write([], folder)  # says that masks alone do not make it
    count = [0, 0]

    def counted() -> Iterator[PhotoMasks]:
        for image, found in _images_with_masks(store, project_id):
            records = tuple(to_record(mask) for mask in found if _is_wanted(mask, stage, state))
            count[0] += 1
            count[1] += len(records)
            yield PhotoMasks(PurePath(image.place).name, image.hw or (0, 0), records, image.id)

    written = write_masks(counted(), folder, format_name)
    return Exchanged(count[0], count[1], num_files=len(written))


def import_masks(
    store: Store, project_id: int, path: Path, format_name: str | None = None, *, stage: int = 0
) -> Exchanged:
    """Save the masks of a file or folder to photos of the project that have the same name; all or none.

    Photos are matched by file name, then by name without suffix. Repeating it adds nothing. Raises InputError, naming
    the photos, where one is not in the store, its name is not unique, a size is wrong or a mask is empty.
    """
    if stage not in STAGES:
        raise unknown_name("stage", str(stage), [str(number) for number in STAGES])
    photos = read_masks(path, format_name)
    by_name = _by_name(store, project_id)
    wanted: list[tuple[int, list[NewMask]]] = []
    problems: list[str] = []
    for photo in photos:
        try:
            image = _find(by_name, photo)
            wanted.append((image.id, [_of_record(mask, image, path.name) for mask in photo.masks]))
        except InputError as error:
            problems.append(f"{photo.file_name}: {error}")
    if problems:
        shown = "\n  ".join(problems[:_MAX_NAMED])
        more = f"\n  … and {len(problems) - _MAX_NAMED} more" if len(problems) > _MAX_NAMED else ""
        raise InputError(f"nothing was imported, {len(problems)} of {len(photos)} photos do not fit:\n  {shown}{more}")
    num_before = num_after = 0
    with store.transaction(writes=True) as connection:
        now = current_round(connection, project_id)
        before = _last_mask_id(connection)
        for image_id, new in sorted(wanted, key=lambda pair: pair[0]):
            ids = insert_masks(connection, lock_image(connection, image_id), new, now, stage)
            num_after += sum(mask_id > before for mask_id in ids)
            num_before += sum(mask_id <= before for mask_id in ids)
    return Exchanged(len(photos), num_after, num_known=num_before)


def _images_with_masks(store: Store, project_id: int) -> Iterator[tuple[StoredImage, list[StoredMask]]]:
    readable = (image for image in store.images(project_id) if image.hw is not None)
    while part := list(islice(readable, _AT_ONCE)):
        by_image: dict[int, list[StoredMask]] = {image.id: [] for image in part}
        for mask in store.masks(list(by_image)):
            by_image[mask.image_id].append(mask)
        yield from ((image, by_image[image.id]) for image in part)


def _is_wanted(mask: StoredMask, stage: int | None, state: str | None) -> bool:
    right_state = mask.state != "rejected" if state is None else mask.state == state
    return right_state and stage in (None, mask.stage)


def to_record(mask: StoredMask) -> MaskRecord:
    """What the formats write of a stored mask."""
    prompts = mask.prompts or {}
    point, crop = prompts.get("point_xy"), prompts.get("crop_xywh")
    return MaskRecord(
        mask.rle,
        mask.predicted_iou,
        mask.stability_score,
        None if point is None else (float(point[0]), float(point[1])),
        None if crop is None else (float(crop[0]), float(crop[1]), float(crop[2]), float(crop[3])),
        mask.label,
    )


def _of_record(mask: MaskRecord, image: StoredImage, source: str) -> NewMask:
    if tuple(mask.rle["size"]) != image.hw:
        raise InputError(f"a mask of {mask.rle['size']} pixels (H, W) does not fit the photo of {image.hw}.")
    prompts: dict[str, Any] = {}
    if mask.point_xy is not None:
        prompts["point_xy"] = list(mask.point_xy)
    if mask.crop_xywh is not None:
        prompts["crop_xywh"] = list(mask.crop_xywh)
    counts = to_compressed(mask.rle)["counts"]
    counts = counts if isinstance(counts, bytes) else str(counts).encode("ascii")
    key = hashlib.sha256(counts + repr(mask.label).encode()).hexdigest()
    return NewMask(
        mask.rle,
        source,
        "import",
        prompts=prompts or None,
        predicted_iou=mask.predicted_iou,
        stability_score=mask.stability_score,
        label=mask.label,
        save_key=f"import:{key}",
    )


def _by_name(store: Store, project_id: int) -> dict[str, list[StoredImage]]:
    found: dict[str, list[StoredImage]] = {}
    for image in store.images(project_id):
        name = PurePath(image.place)
        for key in {name.name, name.stem}:
            found.setdefault(key, []).append(image)
    return found


def _find(by_name: dict[str, list[StoredImage]], photo: PhotoMasks) -> StoredImage:
    name = PurePosixPath(photo.file_name.replace("\\", "/"))
    found = by_name.get(name.name) or by_name.get(name.stem) or []
    if not found:
        raise InputError("is not in the project; add it with `anymask engine add` first.")
    if len(found) > 1:
        raise InputError(f"is ambiguous: {', '.join(image.place for image in found[:3])}. Import into projects apart.")
    if found[0].hw is None:
        raise InputError(f"cannot be read: {found[0].problem}")
    if found[0].hw != photo.hw:
        raise InputError(f"is {photo.hw} pixels (H, W) in the file, but the photo has {found[0].hw}.")
    return found[0]


def _last_mask_id(connection: Connection) -> int:
    return connection.execute(select(func.coalesce(func.max(masks.c.id), 0))).scalar_one()
