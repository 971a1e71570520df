"""Photos with masks from the formats they come in; every reader yields `Photo`."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anymask.core.errors import InputError


@dataclass(frozen=True)
class Photo:
    """One encoded photo and its masks.

    name: unique within its set. source: name of the set. encoded: JPEG or PNG bytes.
    hw: size of the masks (H, W). rles: COCO RLE of each mask. labels: a word for each mask, or None.
    """

    name: str
    source: str
    encoded: bytes
    hw: tuple[int, int]
    rles: list[dict[str, Any]]
    labels: list[str | None] = field(default_factory=list)


def read_sa1b_tar(path: Path) -> Iterator[Photo]:
    """Photos of a tar shard in the SA-1B layout: `<id>.jpg` beside `<id>.json`, in any order."""
    waiting: dict[str, dict[str, bytes]] = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                stem, _, suffix = member.name.rpartition(".")
                if not member.isfile() or suffix not in ("jpg", "jpeg", "png", "json"):
                    continue
                handle = tar.extractfile(member)
                assert handle is not None
                pair = waiting.setdefault(stem, {})
                pair["json" if suffix == "json" else "image"] = handle.read()
                if len(pair) == 2:
                    del waiting[stem]
                    yield _sa1b_photo(stem, path, pair["image"], pair["json"])
    except tarfile.TarError as error:
        raise InputError(f"{path} is not a readable tar shard: {error}. Download it again.") from error
    if waiting:
        missing = ", ".join(sorted(waiting)[:5])
        raise InputError(f"{path}: {len(waiting)} entries lack a photo or a JSON file: {missing}.")


def _sa1b_photo(stem: str, path: Path, encoded: bytes, record: bytes) -> Photo:
    try:
        content = json.loads(record)
        image, annotations = content["image"], content["annotations"]
        hw = (int(image["height"]), int(image["width"]))
        rles = [a["segmentation"] for a in annotations]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: {stem}.json is not an SA-1B record ({error!r}); expected 'image' and 'annotations'."
        ) from error
    labels = [a.get("category") for a in annotations]
    source = Path(path).stem.rsplit("-", 1)[0]
    return Photo(stem, source, encoded, hw, rles, labels)


def read_shards(paths: list[Path]) -> list[Photo]:
    """All photos of several SA-1B tar shards; a folder stands for the shards in it."""
    shards: list[Path] = []
    for path in map(Path, paths):
        shards += sorted(path.glob("*.tar")) if path.is_dir() else [path]
    shards = [s for s in shards if "labelmaps" not in s.name]
    if not shards:
        raise InputError(f"no tar shards in {', '.join(map(str, paths))}; expected files named *.tar.")
    return [photo for shard in shards for photo in read_sa1b_tar(shard)]
