"""A project as a data set to give away, in SA-1B's layout: shards of 1,000 photos, hashes, a manifest, two cards.

Each shard is written aside and renamed, and `.anymask/<shard>.json` notes what it was made from, so a run that was
killed goes on at the shard where it was. The manifest comes last: a folder without one is not finished.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from sqlalchemy import func, select

from anymask import __version__
from anymask.core.errors import AnymaskError, ImageError, InputError, unknown_name
from anymask.core.files import sha256_of, write_aside
from anymask.data.shards import add_member
from anymask.engine.blur import Detector
from anymask.engine.exchange import to_record
from anymask.engine.photos import check_photo
from anymask.engine.release_photo import JPEG_QUALITY, SHORT_SIDE, ReleasedPhoto, release_photo
from anymask.engine.store import Store
from anymask.engine.tables import MASK_STATES, STAGES, images, masks
from anymask.predict.formats.files import load_json, write_json, write_text
from anymask.predict.formats.sa1b import to_json
from anymask.predict.records import PhotoMasks

PHOTOS_PER_SHARD = 1000
MANIFEST, SUMS, STATE = "manifest.json", "sha256sums.txt", ".anymask"
_SHARD = "sa_{:06d}"


@dataclass(frozen=True)
class ReleasePlan:
    """What is released and how. stage, state: of which masks; None: all, and all but the rejected."""

    folder: Path
    detectors: tuple[Detector, ...] = ()
    short_side: int = SHORT_SIDE
    stage: int | None = None
    state: str | None = None
    photos_per_shard: int = PHOTOS_PER_SHARD

    def __post_init__(self) -> None:
        if self.short_side < 16:
            raise InputError(f"the short side must be 16 pixels or more, got {self.short_side}.")
        if self.stage is not None and self.stage not in STAGES:
            raise unknown_name("stage", str(self.stage), [str(number) for number in STAGES])
        if self.state is not None and self.state not in MASK_STATES:
            raise unknown_name("state", self.state, list(MASK_STATES))

    def settings(self) -> dict[str, Any]:
        """All that decides about the content."""
        return {
            "short_side": self.short_side,
            "jpeg_quality": JPEG_QUALITY,
            "stage": self.stage,
            "state": self.state,
            "blurred": {d.what: {"detector": d.name, "sha256": d.sha256} for d in self.detectors},
        }


@dataclass(frozen=True)
class Shard:
    """A finished shard, as `.anymask/<name>.json` notes it. problems: (photo, reason) of photos left out."""

    file: str
    sha256: str
    num_bytes: int
    num_photos: int
    num_masks: int
    num_vanished: int
    blurred: dict[str, list[int]]  # faces, plates → regions, photos with any
    problems: tuple[tuple[str, str], ...]
    made_from: str

    def public(self) -> dict[str, Any]:
        """What the manifest tells."""
        return {name: getattr(self, name) for name in ("file", "sha256", "num_bytes", "num_photos", "num_masks")}


@dataclass(frozen=True)
class Released:
    """What `release` did. num_skipped: shards that were there already. num_without: photos without such masks."""

    shards: tuple[Shard, ...]
    num_skipped: int
    num_without: int

    @property
    def num_photos(self) -> int:
        """In all shards."""
        return sum(shard.num_photos for shard in self.shards)

    @property
    def num_masks(self) -> int:
        """In all shards."""
        return sum(shard.num_masks for shard in self.shards)

    @property
    def problems(self) -> list[tuple[str, str]]:
        """Photos that were left out, and why."""
        return [problem for shard in self.shards for problem in shard.problems]


def release(
    store: Store, project_id: int, plan: ReleasePlan, on_photo: Callable[[int, int], None] = lambda done, total: None
) -> Released:
    """Write the shards and the manifest. Repeating it goes on, and makes anew only what has changed.

    A photo that is gone, changed or broken is left out and told; its shard is tried again the next time. Raises
    InputError where there is nothing to release, or the folder holds something else.
    """
    chosen, num_without = _chosen_images(store, project_id, plan)
    if not chosen:
        raise InputError("there is no photo with such masks, so there is nothing to release.")
    state = plan.folder / STATE
    if plan.folder.is_dir() and any(plan.folder.iterdir()) and not state.is_dir():
        raise InputError(f"{plan.folder} holds something else; choose a new or empty folder for the release.")
    state.mkdir(parents=True, exist_ok=True)
    parts = [chosen[i : i + plan.photos_per_shard] for i in range(0, len(chosen), plan.photos_per_shard)]
    shards, num_skipped, done = [], 0, 0
    for number, part in enumerate(parts):
        name = _SHARD.format(number)
        first = number * plan.photos_per_shard + 1
        made_from = _fingerprint(store, part, plan, first)
        shard = _finished(plan.folder, name, made_from)
        if shard is not None:
            num_skipped += 1
        else:
            (plan.folder / MANIFEST).unlink(missing_ok=True)  # true no more
            shard = _write_shard(store, part, plan, name, first, made_from, _counting(on_photo, done, len(chosen)))
        shards.append(shard)
        done += len(part)
        on_photo(done, len(chosen))
    _forget_others(plan.folder, {_SHARD.format(number) for number in range(len(parts))})
    released = Released(tuple(shards), num_skipped, num_without)
    lines = "".join(f"{shard.sha256}  {shard.file}\n" for shard in shards if shard.file)
    write_text(lines, plan.folder / SUMS)
    write_json(manifest_of(released, plan), plan.folder / MANIFEST)
    return released


def manifest_of(released: Released, plan: ReleasePlan) -> dict[str, Any]:
    """All that a reader of the data set needs to know; no names or places of the original photos."""
    settings = plan.settings()
    blurred: dict[str, Any] = {"faces": None, "plates": None}
    for what, about in settings["blurred"].items():
        regions, photos = (sum(shard.blurred[what][i] for shard in released.shards) for i in (0, 1))
        blurred[what] = {**about, "regions": regions, "photos": photos}
    return {
        "layout": "SA-1B: tar shards of sa_<id>.jpg beside sa_<id>.json",
        "made_with": f"anymask {__version__}",
        "photos": released.num_photos,
        "masks": released.num_masks,
        **settings,
        "exif": "removed",
        "blurred": blurred,
        "left_out": {"photos": len(released.problems), "masks": sum(shard.num_vanished for shard in released.shards)},
        "shards": [shard.public() for shard in released.shards if shard.file],
    }


def _counting(on_photo: Callable[[int, int], None], before: int, total: int) -> Callable[[int], None]:
    return lambda done: on_photo(before + done, total)


def _wanted(project_id: int, plan: ReleasePlan) -> Any:
    states = masks.c.state != "rejected" if plan.state is None else masks.c.state == plan.state
    wanted = (masks.c.project_id == project_id) & masks.c.is_current & states
    return wanted if plan.stage is None else wanted & (masks.c.stage == plan.stage)


def _chosen_images(store: Store, project_id: int, plan: ReleasePlan) -> tuple[list[int], int]:
    """Photos with such masks in the order they were added, and how many have none."""
    with store.transaction() as connection:
        found = connection.scalars(select(masks.c.image_id).distinct().where(_wanted(project_id, plan)))
        chosen = sorted(found)
        num = connection.scalar(select(func.count()).where(images.c.project_id == project_id)) or 0
    return chosen, num - len(chosen)


def _fingerprint(store: Store, image_ids: Sequence[int], plan: ReleasePlan, first: int) -> str:
    """Changes when a photo, a mask, its state or a setting does; masks never change under their id."""
    digest = hashlib.sha256(json.dumps([plan.settings(), first], sort_keys=True).encode())
    with store.transaction() as connection:
        project_id = connection.scalar(select(images.c.project_id).where(images.c.id == image_ids[0]))
        between = (masks.c.image_id >= image_ids[0]) & (masks.c.image_id <= image_ids[-1])
        query = select(images.c.sha256, masks.c.id).join(images, images.c.id == masks.c.image_id)
        for row in connection.execute(query.where(_wanted(project_id or 0, plan), between).order_by(masks.c.id)):
            digest.update(f"{row.sha256}{row.id},".encode())
    return digest.hexdigest()


def _finished(folder: Path, name: str, made_from: str) -> Shard | None:
    """The note of a shard that needs no work: whole, without problems, and made from the same."""
    note = folder / STATE / f"{name}.json"
    try:
        content = load_json(note)
        content["problems"] = tuple(tuple(problem) for problem in content["problems"])
        shard = Shard(**content)
    except (InputError, KeyError, TypeError):
        return None
    tar = folder / f"{name}.tar"
    is_whole = bool(shard.file) and tar.is_file() and tar.stat().st_size == shard.num_bytes
    return shard if is_whole and not shard.problems and shard.made_from == made_from else None


def _write_shard(
    store: Store,
    image_ids: Sequence[int],
    plan: ReleasePlan,
    name: str,
    first: int,
    made_from: str,
    on_photo: Callable[[int], None],
) -> Shard:
    note = plan.folder / STATE / f"{name}.json"
    note.unlink(missing_ok=True)
    path = plan.folder / f"{name}.tar"
    problems: list[tuple[str, str]] = []
    blurred = {detector.what: [0, 0] for detector in plan.detectors}
    num_photos = num_masks = num_vanished = 0
    with write_aside(path) as part:
        with tarfile.open(part, "w") as tar:
            for done, (place, photo) in enumerate(_photos(store, image_ids, plan)):
                on_photo(done)
                if isinstance(photo, str):
                    problems.append((place, photo))
                    continue
                number = first + done
                record = to_json(PhotoMasks(f"sa_{number}.jpg", photo.hw, photo.masks, number))
                add_member(tar, f"sa_{number}.jpg", photo.encoded)
                add_member(tar, f"sa_{number}.json", json.dumps(record).encode())
                num_photos, num_masks = num_photos + 1, num_masks + len(photo.masks)
                num_vanished += photo.num_vanished
                for what, num in photo.num_blurred.items():
                    blurred[what] = [blurred[what][0] + num, blurred[what][1] + (num > 0)]
        num_bytes, sha256 = part.stat().st_size, sha256_of(part)
    if not num_photos:
        path.unlink()
    shard = Shard(
        path.name if num_photos else "",
        sha256,
        num_bytes,
        num_photos,
        num_masks,
        num_vanished,
        blurred,
        tuple(problems),
        made_from,
    )
    write_json(shard.__dict__, note)
    return shard


def _photos(store: Store, image_ids: Sequence[int], plan: ReleasePlan) -> Iterator[tuple[str, ReleasedPhoto | str]]:
    """Each photo with its original name, ready, or the reason why it is left out."""
    for image_id in image_ids:
        name = PurePath(store.image(image_id).place).name
        try:
            file = check_photo(store, image_id)
            found = [to_record(mask) for mask in store.masks([image_id]) if _is_wanted(mask, plan)]
            yield name, release_photo(file, found, plan.detectors, plan.short_side)
        except (ImageError, OSError) as error:
            yield name, str(error)
        except AnymaskError as error:  # of a detector: every photo would fail the same way
            raise InputError(f"{name}: {error}") from error


def _is_wanted(mask: Any, plan: ReleasePlan) -> bool:
    right_state = mask.state != "rejected" if plan.state is None else mask.state == plan.state
    return right_state and plan.stage in (None, mask.stage)


def _forget_others(folder: Path, names: set[str]) -> None:
    """Shards of an earlier, larger release go; only those that a note of ours names."""
    for note in (folder / STATE).glob("sa_*.json"):
        if note.stem not in names:
            (folder / f"{note.stem}.tar").unlink(missing_ok=True)
            note.unlink()
