"""Tar shards in, tar shards out, as SA-1B ships them: `sa_1.jpg` beside `sa_1.json`. Each output exactly once.

While a shard is worked on, the masks of each photo lie in an entry of their own (`.anymask/<shard>.photos/`), so a run
that was killed does no photo twice. When its last photo is in, the shard is written aside, flushed to disk and renamed;
then `.anymask/<shard>.shard.json` notes what it was made from, and the entries go. Killed anywhere in between, the next
run makes the same bytes again. What went wrong stands in `<shard>.errors.json`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from anymask.core.errors import AnymaskError, InputError
from anymask.core.files import write_aside
from anymask.data.shards import add_member
from anymask.predict.everything import Outcome, Plan, output_name, read_entry
from anymask.predict.formats.files import load_json, write_json
from anymask.predict.sources import (
    SHARD_SUFFIX,
    STATE,
    PhotoSource,
    find_files,
    photos_of,
    with_unique_stems,
)
from anymask.predict.video import VIDEO_SUFFIXES

PHOTOS_PER_SHARD = 1000  # of photos that come as files of their own; a folder's photos share its shards


@dataclass(frozen=True)
class Shard:
    """An output shard and what goes into it: the photos of a tar or video, or files of a folder.

    stem: its name without `.tar`, unique in the output folder. every: of a video each so-manieth frame.
    """

    stem: str
    files: tuple[Path, ...]
    every: int = 1

    @property
    def place(self) -> str:
        """Where it comes from: tells shards of one name apart."""
        first = self.files[0].resolve()
        return str(first if _is_collection(first) else first.parent)

    def num_bytes(self) -> int:
        """Size of the input, for telling how far a run is."""
        return sum(_size_and_time(file)[0] for file in self.files)

    def photos(self) -> list[PhotoSource]:
        """Its photos; at least one, which may be only a problem."""
        found = [source for file in self.files for source in photos_of(file, self.every)]
        if not found:
            file = self.files[0]
            found = [PhotoSource(str(file), file, file.stem, problem="holds no photo.")]
        return [replace(s, group=self.stem, group_size=len(found)) for s in with_unique_stems(found)]


@dataclass(frozen=True)
class ShardReport:
    """A finished shard. errors: reasons by the photo's name. skipped: it was there already."""

    shard: Shard
    num_photos: int
    num_masks: int
    errors: dict[str, str]
    skipped: bool = False


@dataclass
class _Open:
    """A shard that is being worked on."""

    shard: Shard
    seen: set[str] = field(default_factory=set)
    errors: dict[str, str] = field(default_factory=dict)


def find_shards(places: Iterable[str | Path], plan: Plan, every: int = 1) -> list[Shard]:
    """Output shards for files, folders, globs, tars and videos: one for each tar and video, one for 1000 other photos.

    Raises InputError where nothing is found, or an input shard lies in the output folder.
    """
    collections: list[Shard] = []
    loose: dict[Path, list[Path]] = {}
    for file in find_files(places):
        if file.suffix.lower() == SHARD_SUFFIX and file.resolve().parent == plan.folder.resolve():
            raise InputError(f"{file} lies in the output folder and would be overwritten. Choose another --output.")
        if _is_collection(file):
            collections.append(Shard(file.stem, (file,), every))
        else:
            loose.setdefault(file.parent, []).append(file)
    for folder, files in loose.items():
        for i in range(0, len(files), PHOTOS_PER_SHARD):
            name = folder.resolve().name or "photos"
            stem = f"{name}_{i // PHOTOS_PER_SHARD:06d}"
            collections.append(Shard(stem, tuple(files[i : i + PHOTOS_PER_SHARD])))
    taken: set[str] = set()
    named = []
    for shard in collections:
        stem, number = shard.stem, 1
        while stem.lower() in taken or _is_anothers(stem, shard, plan):
            number += 1
            stem = f"{shard.stem}-{number}"
        taken.add(stem.lower())
        named.append(replace(shard, stem=stem))
    return named


def photos_in(items: Iterable[PhotoSource] | Iterable[Shard]) -> Iterator[PhotoSource]:
    """Photos, those of a shard listed when its turn comes."""
    for item in items:
        if isinstance(item, Shard):
            yield from item.photos()
        else:
            yield item


def done_before(shard: Shard, plan: Plan) -> ShardReport | None:
    """What is known of a shard that is finished, made with the same options from the same photos; else None.

    Where sizes or times of the files changed, the photos' content decides.
    """
    state = _read_state(shard.stem, plan)
    if state is None or state["options"] != plan.options_hash() or state["place"] != shard.place:
        return None
    if state["num_photos"] and not _tar(shard, plan).is_file():
        return None
    if state["errors"] and not _errors(shard, plan).is_file():  # taken away to have them tried again
        return None
    if state["files"] != _stamp(shard):
        if state["content"] != _content_of({s.stem: _hash_or_reason(s) for s in shard.photos()}):
            return None
        write_json({**state, "files": _stamp(shard)}, _state(shard.stem, plan))
    _forget_entries(shard, plan)
    return ShardReport(shard, state["num_photos"], state["num_masks"], state["errors"], skipped=True)


def segment_shards(
    shards: Sequence[Shard],
    plan: Plan,
    outcomes: Iterable[Outcome],
    write: Callable[[Shard, Plan, dict[str, str]], Callable[[], ShardReport]] | None = None,
) -> Iterator[Outcome | ShardReport]:
    """Follow the photos of shards as they are done, and write each shard when its last photo is in.

    outcomes: from an engine, in any order; one that comes twice counts once. write: starts writing a shard and
    returns how to wait for it; None: at once, in this process. Yields the outcomes, and reports of written shards.
    """
    opened = {shard.stem: _Open(shard) for shard in shards}
    pending: list[Callable[[], ShardReport]] = []
    for outcome in outcomes:
        source = outcome.source
        group = opened.get(source.group or "")
        if group is None or source.stem in group.seen:
            continue
        group.seen.add(source.stem)
        if outcome.error is not None:
            group.errors[source.name] = outcome.error
        yield outcome
        if len(group.seen) == source.group_size:
            del opened[group.shard.stem]
            if write is None:
                yield write_shard(group.shard, plan, group.errors)
            else:
                pending.append(write(group.shard, plan, group.errors))
    for wait in pending:
        yield wait()


def write_shard(shard: Shard, plan: Plan, errors: dict[str, str]) -> ShardReport:
    """Pack the photos of a shard and their masks; errors: photos, by name, that have none, and why."""
    errors, stamp, sources, num_masks = dict(errors), _stamp(shard), shard.photos(), 0
    content = {s.stem: _hash_or_reason(s) for s in sources if s.name in errors}
    good = [s for s in sources if s.name not in errors]
    path = _tar(shard, plan)
    if not good:
        path.unlink(missing_ok=True)  # of an earlier run with other options
    else:
        with write_aside(path) as part, tarfile.open(part, "w") as tar:
            for source in good:
                try:
                    content[source.stem], found = _pack(tar, source, plan)
                    num_masks += found
                except (AnymaskError, OSError) as error:
                    errors[source.name] = content[source.stem] = str(error)
    if errors:
        write_json(errors, _errors(shard, plan))
    else:
        _errors(shard, plan).unlink(missing_ok=True)
    num_photos = len(sources) - len(errors)
    state = {
        "options": plan.options_hash(),
        "place": shard.place,
        "files": stamp,
        "content": _content_of(content),
        "num_photos": num_photos,
        "num_masks": num_masks,
        "errors": errors,
    }
    write_json(state, _state(shard.stem, plan))
    _forget_entries(shard, plan)
    return ShardReport(shard, num_photos, num_masks, errors)


def _pack(tar: tarfile.TarFile, source: PhotoSource, plan: Plan) -> tuple[str, int]:
    """Add a photo and its masks; returns the photo's hash and the number of masks."""
    encoded = source.read()
    digest = hashlib.sha256(encoded).hexdigest()
    entry = read_entry(plan.entry(source))
    if entry is None or entry["key"] != f"{digest}-{plan.options_hash()}":
        raise InputError("changed while its shard was worked on. Run the command again.")
    add_member(tar, output_name(source), encoded)
    add_member(tar, f"{source.stem}.json", json.dumps(entry["masks"]).encode())
    return digest, int(entry["num_masks"])


def _is_collection(file: Path) -> bool:
    return file.suffix.lower() in (SHARD_SUFFIX, *VIDEO_SUFFIXES)


def _is_anothers(stem: str, shard: Shard, plan: Plan) -> bool:
    """Whether a name in the output folder belongs to a shard of an earlier run that came from elsewhere."""
    state = _read_state(stem, plan)
    return state is not None and state["place"] != shard.place and Path(state["place"]).exists()


def _tar(shard: Shard, plan: Plan) -> Path:
    return plan.folder / f"{shard.stem}{SHARD_SUFFIX}"


def _errors(shard: Shard, plan: Plan) -> Path:
    return plan.folder / f"{shard.stem}.errors.json"


def _state(stem: str, plan: Plan) -> Path:
    return plan.folder / STATE / f"{stem}.shard.json"


def _read_state(stem: str, plan: Plan) -> dict[str, Any] | None:
    path = _state(stem, plan)
    try:
        state = load_json(path) if path.is_file() else {}
    except InputError:
        return None
    known = {"options", "place", "files", "content", "num_photos", "num_masks", "errors"}
    return state if known <= state.keys() else None


def _forget_entries(shard: Shard, plan: Plan) -> None:
    """Remove the photos' entries: the shard holds what they held."""
    shutil.rmtree(plan.folder / STATE / f"{shard.stem}.photos", ignore_errors=True)


def _stamp(shard: Shard) -> list[list[int]]:
    """Sizes and times of the files: while they stay, the content is taken to stay."""
    return [list(_size_and_time(file)) for file in shard.files]


def _size_and_time(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _hash_or_reason(source: PhotoSource) -> str:
    try:
        return source.sha256()
    except (AnymaskError, OSError) as error:
        return str(error)


def _content_of(hashes: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(hashes.items())).encode()).hexdigest()
