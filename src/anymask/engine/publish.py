"""A data set out of the store: a numbered folder of SA-1B shards that never changes, with a manifest of hashes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from anymask.core.errors import ImageError, InputError
from anymask.core.files import sha256_of
from anymask.data.readers import Photo, open_dataset
from anymask.data.shards import write_shard
from anymask.engine.photos import check_photo
from anymask.engine.records import StoredMask
from anymask.engine.store import Store

MANIFEST = "manifest.json"
PHOTOS_PER_SHARD = 1000
NAMES = {0: "imported", 1: "manual", 2: "semi", 3: "automatic"}  # of the shards, by stage


@dataclass(frozen=True)
class DataSet:
    """A published folder. sha256: of its manifest, so of all its content."""

    folder: Path
    sha256: str
    manifest: dict[str, Any]

    @property
    def num_masks(self) -> int:
        """Masks in all shards."""
        return sum(file["num_masks"] for file in self.manifest["files"])

    @property
    def num_photos(self) -> int:
        """Entries of all shards; a photo with masks of two stages has two."""
        return sum(file["num_photos"] for file in self.manifest["files"])

    def photos(self, *, oversample: int = 1) -> list[Photo]:
        """All photos with masks; those that people worked on `oversample` times beside automatic ones (PAPER §7.7)."""
        found: list[Photo] = []
        for file in self.manifest["files"]:
            photos = list(open_dataset(self.folder / file["name"]))
            found += photos * (1 if file["stage"] == 3 else oversample)
        return found


def publish(store: Store, project_id: int, folder: Path, facts: dict[str, Any] | None = None) -> DataSet:
    """Write what is good to train on; the folder appears as a whole, read-only. One that is there already is checked.

    Of current masks go in: accepted ones, those of people and imports that nobody rejected, and automatic ones of stage
    3; candidates of stage 2 only if accepted. Photos that are gone are left out and named in the manifest.
    Raises InputError where there is nothing to publish, or the folder's content was changed.
    """
    if (folder / MANIFEST).is_file():
        return open_published(folder)
    by_stage: dict[int, list[tuple[int, list[StoredMask]]]] = {}
    for image in store.images(project_id):
        if image.hw is None:
            continue
        found = [mask for mask in store.masks([image.id]) if is_good(mask)]
        for stage in NAMES:
            good = [mask for mask in found if mask.stage == stage]
            if good:
                by_stage.setdefault(stage, []).append((image.id, good))
    if not by_stage:
        raise InputError("there is no mask to publish: annotate photos first, or import masks.")
    aside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    files: list[dict[str, Any]] = []
    missing: list[str] = []
    for stage, entries in sorted(by_stage.items()):
        parts = iter(entries)
        for number in range(-(-len(entries) // PHOTOS_PER_SHARD)):
            name = f"{NAMES[stage]}-{number:03d}.tar"
            photos = list(_photos(store, islice(parts, PHOTOS_PER_SHARD), NAMES[stage], missing))
            if photos:
                num_masks = write_shard(photos, aside / name)
                about = {"name": name, "stage": stage, "num_photos": len(photos), "num_masks": num_masks}
                files.append({**about, "sha256": sha256_of(aside / name)})
    if not files:
        raise InputError("none of the photos with masks is on the disk any more; put them back.")
    manifest = {"layout": "SA-1B", "files": files, "missing_photos": missing, **(facts or {})}
    (aside / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    for file in aside.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
        file.chmod(0o444)
    aside.rename(folder)
    return open_published(folder)


def open_published(folder: Path) -> DataSet:
    """A published data set, every file checked against the manifest. InputError names what is missing or changed."""
    try:
        text = (folder / MANIFEST).read_bytes()
        manifest = json.loads(text)
        wanted = {file["name"]: file["sha256"] for file in manifest["files"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} is no published data set: {MANIFEST} cannot be read ({error}).") from error
    for name, digest in wanted.items():
        if not (folder / name).is_file():
            raise InputError(f"{folder / name} is missing; a published data set never changes. Put it back.")
        if sha256_of(folder / name) != digest:
            raise InputError(f"{folder / name} is not what was published; its hash differs. Put the file back.")
    return DataSet(folder, hashlib.sha256(text).hexdigest(), manifest)


def is_good(mask: StoredMask) -> bool:
    """Is this mask one to train on?"""
    by_model_alone = mask.author_kind == "model" and mask.stage != 3
    return mask.state == "accepted" or (mask.state == "proposed" and not by_model_alone)


def _photos(
    store: Store, entries: Iterable[tuple[int, list[StoredMask]]], source: str, missing: list[str]
) -> Iterable[Photo]:
    for image_id, found in entries:
        image = store.image(image_id)
        try:
            encoded = check_photo(store, image_id).read_bytes()
        except ImageError:
            missing.append(image.place)
            continue
        assert image.hw is not None
        labels = [mask.label for mask in found]
        yield Photo(f"sa_{image_id}", source, encoded, image.hw, [mask.rle for mask in found], labels)
