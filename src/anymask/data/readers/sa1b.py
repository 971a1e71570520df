"""SA-1B: `<id>.jpg` beside `<id>.json`, loose in a folder or in tar shards."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from anymask.core.errors import InputError
from anymask.data.readers.photo import (
    PHOTO_SUFFIXES,
    DataError,
    Photo,
    Problems,
    check_rles,
    check_size,
    checked_hw,
    complain,
    keep_readable,
    read_bytes,
)


def read_sa1b_tar(path: Path, problems: Problems | None = None) -> Iterator[Photo]:
    """Photos of a tar shard in the SA-1B layout: `<id>.jpg` beside `<id>.json`, in any order."""
    path = Path(path)
    return keep_readable(_tar_jobs(path, problems), problems)


def read_sa1b_folder(path: Path, problems: Problems | None = None) -> Iterator[Photo]:
    """Photos of a folder in the SA-1B layout; SA-1B's tars unpack to this."""
    path = Path(path)
    for photo in (p for p in sorted(path.iterdir()) if p.suffix.lower() in PHOTO_SUFFIXES):
        if not photo.with_suffix(".json").is_file():
            complain(problems, "missing file", photo, f"no {photo.stem}.json beside it.")
    records = sorted(path.glob("*.json"))
    return keep_readable((partial(_photo_of_files, path, record, problems) for record in records), problems)


def read_shards(paths: list[Path], problems: Problems | None = None) -> list[Photo]:
    """All photos of several SA-1B tar shards; a folder stands for the shards in it."""
    return [photo for shard in find_shards(paths) for photo in read_sa1b_tar(shard, problems)]


def find_shards(paths: list[Path]) -> list[Path]:
    """Tar shards with photos; a folder stands for the shards in it."""
    shards: list[Path] = []
    for path in map(Path, paths):
        shards += sorted(path.glob("*.tar")) if path.is_dir() else [path]
    shards = [s for s in shards if "labelmaps" not in s.name]
    if not shards:
        raise InputError(f"no tar shards in {', '.join(map(str, paths))}; expected files named *.tar.")
    return shards


def _tar_jobs(path: Path, problems: Problems | None) -> Iterator[Callable[[], Photo]]:
    """One job per pair; photos whose partner has not come yet wait in memory."""
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
                    source = path.stem.rsplit("-", 1)[0]
                    yield partial(photo_of_pair, stem, source, path, pair["image"], pair["json"], problems)
    except (tarfile.TarError, EOFError) as error:
        complain(problems, "broken record", path, f"not a readable tar shard: {error}. Download it again.")
    if waiting:
        missing = ", ".join(sorted(waiting)[:5])
        complain(problems, "missing file", path, f"{len(waiting)} entries lack a photo or a JSON file: {missing}.")


def _photo_of_files(folder: Path, record: Path, problems: Problems | None) -> Photo:
    for suffix in PHOTO_SUFFIXES:
        photo = record.with_suffix(suffix)
        if photo.is_file():
            return photo_of_pair(record.stem, folder.name, folder, read_bytes(photo), record.read_bytes(), problems)
    raise DataError("missing file", record, f"no {record.stem}.jpg beside it.")


def photo_of_pair(
    stem: str, source: str, path: Path, encoded: bytes, record: bytes, problems: Problems | None
) -> Photo:
    """A photo from the bytes of its two files. stem: name without suffix. path: the tar or folder, for messages."""
    file = path / f"{stem}.json"
    try:
        content = json.loads(record)
        image, annotations = content["image"], content["annotations"]
        hw = (int(image["height"]), int(image["width"]))
        rles = [a["segmentation"] for a in annotations]
        labels = [a.get("category") for a in annotations]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            "broken record",
            file,
            f"not an SA-1B record ({error!r}); expected 'image' and 'annotations'.",
        ) from error
    check_size(file, checked_hw(path / f"{stem}.jpg", encoded), hw)
    wrong = check_rles(rles, hw)
    for i, (kind, reason) in wrong.items():
        complain(problems, kind, file, f"mask {i} {reason}")
    kept = [i for i in range(len(rles)) if i not in wrong]
    return Photo(stem, source, encoded, hw, [rles[i] for i in kept], [labels[i] for i in kept])
