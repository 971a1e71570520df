"""Photos with masks packed into tar shards in the SA-1B layout, which every SA-1B reader streams."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

from anymask.core.errors import InputError
from anymask.core.files import write_aside
from anymask.core.rle import area, to_bbox_xywh, to_compressed
from anymask.data.readers.photo import Photo, checked_hw


def write_shard(photos: Iterable[Photo], path: Path) -> int:
    """Writes photos as `<name>.jpg` beside `<name>.json`; returns the number of masks.

    Labels become `category`. The shard appears when it is complete; names must differ.
    """
    num_masks = 0
    seen: set[str] = set()
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_aside(path) as part, tarfile.open(part, "w") as tar:
        for photo in photos:
            stem = Path(photo.name).with_suffix("").as_posix().replace("/", "_")
            if stem in seen:
                raise InputError(f"two photos are named {stem}; a shard needs different names.")
            seen.add(stem)
            suffix = ".png" if photo.encoded.startswith(b"\x89PNG") else ".jpg"
            add_member(tar, stem + suffix, photo.encoded)
            add_member(tar, f"{stem}.json", json.dumps(_record(photo, stem + suffix)).encode())
            num_masks += len(photo.rles)
    return num_masks


def _record(photo: Photo, file_name: str) -> dict[str, object]:
    height, width = checked_hw(photo.name, photo.encoded)
    annotations = []
    for i, rle in enumerate(photo.rles):
        annotation = {"id": i, "segmentation": to_compressed(rle), "bbox": to_bbox_xywh(rle), "area": area(rle)}
        if i < len(photo.labels) and photo.labels[i] is not None:
            annotation["category"] = photo.labels[i]
        annotations.append(annotation)
    image = {"image_id": photo.name, "width": width, "height": height, "file_name": file_name}
    return {"image": image, "annotations": annotations}


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file without times and owners, so that the same photos give the same bytes."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
