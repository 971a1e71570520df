"""Photos from wherever they are named: files, folders, globs, tar shards, videos; read when they are needed."""

from __future__ import annotations

import glob
import hashlib
import io
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from PIL import Image

from anymask.core.errors import ImageError, InputError
from anymask.predict.video import VIDEO_SUFFIXES, count_frames, read_frame

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heif", ".heic")
SHARD_SUFFIX = ".tar"
STATE = ".anymask"  # folder that marks another as output of `anymask everything`
_PART = 2**20  # bytes hashed at once


@dataclass(frozen=True)
class PhotoSource:
    """Where one photo lies. name: for people, unique. stem: for output files, unique in a run.

    offset, num_bytes: place in a tar shard; None for a file of its own. frame: which one of a video. problem: why it
    cannot be read, if known. group: stem of the output shard it goes to, of group_size photos.
    """

    name: str
    path: Path
    stem: str
    offset: int | None = None
    num_bytes: int = 0
    problem: str | None = None
    frame: int | None = None
    group: str | None = None
    group_size: int = 1

    @property
    def file_name(self) -> str:
        """The photo's own name, without folders."""
        return PurePosixPath(self.name.replace("\\", "/")).name

    @property
    def place(self) -> str:
        """The name with the full path: the same photo is named alike from every working folder."""
        return str(self.path.resolve()) + self.name.removeprefix(str(self.path))

    @property
    def is_file(self) -> bool:
        """Whether the photo is a file of its own, which can be read in parts."""
        return self.offset is None and self.frame is None

    def read(self) -> bytes:
        """The encoded photo; of a video the frame as PNG. ImageError with the reason where that fails."""
        if self.problem is not None:
            raise ImageError(self.problem)
        if self.frame is not None:
            buffer = io.BytesIO()
            Image.fromarray(read_frame(self.path, self.frame)).save(buffer, "PNG", compress_level=1)
            return buffer.getvalue()
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

    def sha256(self) -> str:
        """Hash of the encoded photo; a file of its own is never held as a whole."""
        if not self.is_file or self.problem is not None:
            return hashlib.sha256(self.read()).hexdigest()
        digest = hashlib.sha256()
        try:
            with self.path.open("rb") as file:
                while part := file.read(_PART):
                    digest.update(part)
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror or error}.") from error
        return digest.hexdigest()


def find_photos(places: Iterable[str | Path], every: int = 1) -> list[PhotoSource]:
    """All photos of files, folders (searched to the bottom), globs, tar shards and videos, in the order given.

    every: of a video take each so-manieth frame. A photo named twice comes once; output of earlier runs in a folder
    is left out. What is missing or broken comes with its `problem`, so that the rest of a run goes on. Raises
    InputError where nothing at all is found.
    """
    found: dict[str, PhotoSource] = {}
    for file in find_files(places):
        for source in photos_of(file, every):
            found.setdefault(source.name, source)
    return with_unique_stems(list(found.values()))


def find_files(places: Iterable[str | Path]) -> list[Path]:
    """Photos, tar shards and videos that places name, each once; also what is named but missing.

    Raises InputError where there is none.
    """
    places = list(places)
    found = list(dict.fromkeys(file for place in places for file in _at(str(place))))
    if not found:
        kinds = ", ".join((*PHOTO_SUFFIXES, *VIDEO_SUFFIXES, SHARD_SUFFIX))
        raise InputError(f"no photos in {', '.join(map(str, places))}; expected files that end in {kinds}.")
    return found


def photos_of(path: Path, every: int = 1) -> Iterator[PhotoSource]:
    """The photos of a file: itself, the members of a tar shard, or frames of a video."""
    if not path.exists():
        yield PhotoSource(str(path), path, path.stem, problem="does not exist.")
    elif path.suffix.lower() == SHARD_SUFFIX:
        yield from _in_shard(path)
    elif path.suffix.lower() in VIDEO_SUFFIXES:
        yield from _in_video(path, every)
    else:
        yield PhotoSource(str(path), path, path.stem)


def with_unique_stems(
    sources: list[PhotoSource], is_taken: Callable[[str, PhotoSource], bool] = lambda stem, source: False
) -> list[PhotoSource]:
    """Stems numbered where several photos share one, so that no output overwrites another.

    is_taken: whether a stem belongs to a photo of an earlier run.
    """
    taken: set[str] = set()
    named = []
    for source in sources:
        stem, number = source.stem, 1
        while stem.lower() in taken or is_taken(stem, source):  # some file systems do not tell A from a
            number += 1
            stem = f"{source.stem}-{number}"
        taken.add(stem.lower())
        named.append(replace(source, stem=stem))
    return named


def _at(place: str) -> Iterator[Path]:
    path = Path(place).expanduser()
    if path.is_dir():
        results = {state.parent for state in path.rglob(STATE)}  # our own output is no input
        for file in sorted(p for p in path.rglob("*") if _is_input(p.relative_to(path))):
            if results.isdisjoint(file.parents):
                yield file
    elif path.exists() or not glob.has_magic(place):
        yield path
    else:
        for match in sorted(glob.glob(str(path), recursive=True)):
            yield from _at(match)


def _in_shard(path: Path) -> Iterator[PhotoSource]:
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                name = PurePosixPath(member.name)
                if member.isfile() and _is_photo(name):
                    yield PhotoSource(f"{path}/{member.name}", path, name.stem, member.offset_data, member.size)
    except (tarfile.TarError, EOFError, OSError) as error:
        yield PhotoSource(str(path), path, path.stem, problem=f"is no readable tar shard from here on: {error}.")


def _in_video(path: Path, every: int) -> Iterator[PhotoSource]:
    try:
        for i in range(0, count_frames(path), every):
            stem = f"{path.stem}_{i:06d}"
            yield PhotoSource(f"{path}/{stem}.png", path, stem, frame=i)
    except ImageError as error:
        yield PhotoSource(str(path), path, path.stem, problem=str(error))


def _is_input(path: Path) -> bool:
    known = path.suffix.lower() in (*PHOTO_SUFFIXES, *VIDEO_SUFFIXES, SHARD_SUFFIX)
    return known and not _is_hidden(path)


def _is_photo(path: PurePosixPath) -> bool:
    return path.suffix.lower() in PHOTO_SUFFIXES and not _is_hidden(path)


def _is_hidden(path: PurePosixPath | Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
