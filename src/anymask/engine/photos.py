"""Photos into the store: read where they lie, checked, hashed; never copied or changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from anymask.core.errors import ImageError, InputError
from anymask.core.images import read_image
from anymask.engine.leases import insert_tasks
from anymask.engine.records import NewImage
from anymask.engine.store import Store, insert_images
from anymask.predict.sources import SHARD_SUFFIX, PhotoSource, find_files
from anymask.predict.video import VIDEO_SUFFIXES

_AT_ONCE = 200  # photos of one transaction


@dataclass(frozen=True)
class Added:
    """What `add_photos` did. problems: (path, why) of photos that cannot be read."""

    num_new: int
    num_known: int
    num_tasks: int
    problems: tuple[tuple[str, str], ...]


def add_photos(
    store: Store,
    project_id: int,
    places: Iterable[str | Path],
    progress: Callable[[int], None] = lambda num_done: None,
) -> Added:
    """Add photos of files, folders and globs, with an annotation task for each that can be read.

    A photo is known by its content, so repeating this adds nothing, and a run that was cut short goes on. A photo that
    cannot be read is kept with its problem and gets no task. Raises InputError where there is no photo at all, or for
    tar shards and videos, whose pictures are no files of their own.
    """
    files = find_files(places)
    for file in files:
        if file.suffix.lower() in (SHARD_SUFFIX, *VIDEO_SUFFIXES):
            raise InputError(f"{file}: the store keeps photos where they are, as files. Unpack it into a folder first.")
    num_new = num_known = num_tasks = 0
    problems: list[tuple[str, str]] = []
    for start in range(0, len(files), _AT_ONCE):
        new = []
        for file in files[start : start + _AT_ONCE]:
            image = look_at(file)
            if image.problem is not None:
                problems.append((str(file), image.problem))
            if image.sha256:
                new.append(image)
        with store.transaction(writes=True) as connection:  # no photo without its task
            added, _ = insert_images(connection, project_id, new)
            num_tasks += insert_tasks(connection, project_id, added)
        num_new += len(added)
        num_known += len(new) - len(added)
        progress(min(start + _AT_ONCE, len(files)))
    return Added(num_new, num_known, num_tasks, tuple(problems))


def look_at(file: Path) -> NewImage:
    """Hash, size and readability of a photo; it is decoded as a whole. An unreadable file has sha256 ""."""
    place = str(file.resolve())
    try:
        sha256 = PhotoSource(str(file), file, file.stem).sha256()
    except ImageError as error:
        return NewImage(place, "", 0, None, str(error))
    num_bytes = file.stat().st_size
    try:
        height, width = read_image(file).shape[:2]
    except ImageError as error:
        return NewImage(place, sha256, num_bytes, None, str(error))
    return NewImage(place, sha256, num_bytes, (height, width))


def check_photo(store: Store, image_id: int) -> Path:
    """Path of a photo whose content is still what was added. ImageError where it is gone or has changed."""
    image = store.image(image_id)
    file = Path(image.place)
    if not file.is_file():
        raise ImageError(
            f"{image.place} is gone; its masks are kept. Put it back, or run `anymask engine add` on its new folder."
        )
    if PhotoSource(str(file), file, file.stem).sha256() != image.sha256:
        raise ImageError(f"{image.place} has changed since it was added, so its masks may not fit. Put it back.")
    return file
