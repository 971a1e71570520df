"""Ground truth for the simulated annotator: photos with masks from any data set, known by the photos' content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anymask.core.errors import InputError
from anymask.core.files import write_aside
from anymask.core.rle import area, decode
from anymask.data.readers import Photo, open_dataset
from anymask.engine.photos import look_at
from anymask.engine.records import NewImage
from anymask.engine.store import Store

_AT_ONCE = 200


@dataclass(frozen=True)
class Truth:
    """Masks of photos by the SHA-256 of the photo's file.

    min_area_px: smaller masks are nothing a person would mark. max_masks: of each photo, the most prominent ones.
    """

    photos: dict[str, Photo]
    min_area_px: int = 100
    max_masks: int = 24

    def objects(self, sha256: str) -> np.ndarray | None:
        """Objects (P, H, W) bool in order of prominence: the largest first. None for a photo without truth."""
        photo = self.photos.get(sha256)
        if photo is None:
            return None
        areas = [area(rle) for rle in photo.rles]
        order = [i for i in np.argsort(areas, kind="stable")[::-1] if areas[i] >= self.min_area_px][: self.max_masks]
        if not order:
            return np.zeros((0, *photo.hw), bool)
        return decode([photo.rles[i] for i in order])


def read_truth(places: Iterable[Path], max_masks: int = 24) -> Truth:
    """All photos of data sets in any layout, with their masks. InputError where there is no mask at all."""
    places = list(places)
    photos = {hashlib.sha256(p.encoded).hexdigest(): p for place in places for p in open_dataset(place)}
    if not any(photo.rles for photo in photos.values()):
        raise InputError(f"no mask in {', '.join(map(str, places))}; the simulated annotator needs photos with masks.")
    return Truth(photos, max_masks=max_masks)


def add_truth_photos(store: Store, project_id: int, photos: Iterable[Photo], folder: Path) -> int:
    """Add photos to the store without a task, written into `folder` first; returns how many are new.

    A photo that the store knows already is left where it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = {image.sha256 for image in store.images(project_id)}
    new: list[NewImage] = []
    num_new = 0
    for photo in photos:
        digest = hashlib.sha256(photo.encoded).hexdigest()
        if digest in known:
            continue
        known.add(digest)
        suffix = ".png" if photo.encoded.startswith(b"\x89PNG") else ".jpg"
        file = folder / f"{photo.source}_{digest[:16]}{suffix}"
        if not file.is_file():
            with write_aside(file) as part:
                part.write_bytes(photo.encoded)
        new.append(look_at(file))
        if len(new) == _AT_ONCE:
            num_new += len(store.add_images(project_id, new)[0])
            new = []
    return num_new + len(store.add_images(project_id, new)[0])
