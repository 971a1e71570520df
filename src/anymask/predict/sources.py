"""Photos from wherever they are named: files, folders, globs, tar shards. Nothing is read before it is needed."""

from __future__ import annotations

import glob
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from anymask.core.errors import ImageError, InputError

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heif", ".heic")
STATE = ".anymask"  # folder that marks another as output of `anymask everything`


@dataclass(frozen=True)
class PhotoSource:
    """Where one photo lies. name: for people, unique. stem: for output files, unique in a run.

    offset, num_bytes: place in a tar shard; None for a file of its own. problem: why it cannot be read, if known.
    """

    name: str
    path: Path
    stem: str
    offset: int | None = None
    num_bytes: int = 0
    problem: str | None = None

    @property
    def file_name(self) -> str:
        """The photo's own name, without folders."""
        return PurePosixPath(self.name.replace("\\", "/")).name

    def read(self) -> bytes:
        """The encoded photo; ImageError with the reason where that fails."""
        if self.problem is not None:
            raise ImageError(self.problem)
        try:
            if self.offset is None:
                return self.path.read_bytes()
            with self.path.open("rb") as shard:
                shard.seek(self.offset)
                content = shard.read(self.num_bytes)
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror or error}.") from error
        if len(content) < self.num_bytes:
            raise ImageError("is cut off: the shard ends before the photo does. Download it again.")
        return content


def find_photos(places: Iterable[str | Path]) -> list[PhotoSource]:
    """All photos of files, folders (searched to the bottom), globs and tar shards, in the order given.

    A photo named twice comes once; output of earlier runs in a folder is left out. What is missing or broken comes
    with its `problem`, so that the rest of a run goes on. Raises InputError where nothing at all is found.
    """
    found: dict[str, PhotoSource] = {}
    places = list(places)
    for place in places:
        for source in _at(str(place)):
            found.setdefault(source.name, source)
    if not found:
        kinds = ", ".join(PHOTO_SUFFIXES)
        raise InputError(f"no photos in {', '.join(map(str, places))}; expected files named *{kinds} or *.tar.")
    return _with_unique_stems(list(found.values()))


def _at(place: str) -> Iterator[PhotoSource]:
    path = Path(place).expanduser()
    if path.is_dir():
        results = {state.parent for state in path.rglob(STATE)}  # our own output is no input
        files = sorted(p for p in path.rglob("*") if _is_photo(p.relative_to(path)) or p.suffix == ".tar")
        for file in files:
            if results.isdisjoint(file.parents):
                yield from _in_file(file)
    elif path.exists():
        yield from _in_file(path)
    elif glob.has_magic(place):
        matches = sorted(glob.glob(str(path), recursive=True))
        for match in matches:
            yield from _at(match)
    else:
        yield PhotoSource(str(path), path, path.stem, problem="does not exist.")


def _in_file(path: Path) -> Iterator[PhotoSource]:
    if path.suffix == ".tar":
        yield from _in_shard(path)
    else:
        yield PhotoSource(str(path), path, path.stem)


def _in_shard(path: Path) -> Iterator[PhotoSource]:
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                name = PurePosixPath(member.name)
                if member.isfile() and _is_photo(name):
                    yield PhotoSource(f"{path}/{member.name}", path, name.stem, member.offset_data, member.size)
    except (tarfile.TarError, EOFError, OSError) as error:
        yield PhotoSource(str(path), path, path.stem, problem=f"is no readable tar shard from here on: {error}.")


def _is_photo(path: Path | PurePosixPath) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    return path.suffix.lower() in PHOTO_SUFFIXES and not hidden


def _with_unique_stems(sources: list[PhotoSource]) -> list[PhotoSource]:
    """Stems numbered where several photos share one, so that no output overwrites another."""
    taken: set[str] = set()
    named = []
    for source in sources:
        stem, number = source.stem, 1
        while stem.lower() in taken:  # some file systems do not tell A from a
            number += 1
            stem = f"{source.stem}-{number}"
        taken.add(stem.lower())
        named.append(replace(source, stem=stem))
    return named
