"""Which reader a path needs, told from the files in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path

from anymask.core.errors import InputError
from anymask.data.readers.bsds import bsds_root, read_bsds
from anymask.data.readers.coco import is_coco, read_coco
from anymask.data.readers.davis import read_davis
from anymask.data.readers.folder import read_folder
from anymask.data.readers.photo import PHOTO_SUFFIXES, Photo, Problems
from anymask.data.readers.sa1b import find_shards, read_sa1b_folder, read_sa1b_tar
from anymask.data.readers.voc import read_voc

Reader = Callable[[Problems | None], Iterator[Photo]]


@dataclass(frozen=True)
class Layout:
    """A data set's arrangement on disk. find: the reader for a path that is in this layout, else None."""

    name: str
    expects: str
    find: Callable[[Path], Reader | None]


def open_dataset(path: str | Path, *, problems: Problems | None = None) -> Iterator[Photo]:
    """Photos of a data set in any layout of LAYOUTS, one after the other.

    problems: collects what cannot be read and is skipped; without it the first such thing raises.
    Raises InputError at once where the path is in no known layout.
    """
    return _find(Path(path))[1](problems)


def layout_of(path: str | Path) -> str:
    """Name of the layout that `open_dataset` would read a path in."""
    return _find(Path(path))[0]


def _find(path: Path) -> tuple[str, Reader]:
    if not path.exists():
        raise InputError(f"{path} is not there. Expected {_expected()}")
    for layout in LAYOUTS:
        reader = layout.find(path)
        if reader is not None:
            return layout.name, reader
    inside = ""
    if path.is_dir():
        names = [p.name + "/" * p.is_dir() for p in islice(path.iterdir(), 8)]
        inside = f" (it holds {', '.join(sorted(names))})" if names else " (it is empty)"
    raise InputError(f"{path}: no data set that can be read{inside}. Expected {_expected()}")


def _expected() -> str:
    return "one of\n" + "\n".join(f"  {layout.name}: {layout.expects}" for layout in LAYOUTS)


def _shards(path: Path) -> Reader | None:
    is_shard = path.is_file() and path.suffix == ".tar"
    if not is_shard and not (path.is_dir() and any(path.glob("*.tar"))):
        return None
    shards = find_shards([path])
    return lambda problems: chain.from_iterable(read_sa1b_tar(shard, problems) for shard in shards)


def _coco(path: Path) -> Reader | None:
    if path.is_file():
        return partial(_read_coco, path) if path.suffix == ".json" else None
    found = [f for p in (path, path / "annotations") for f in sorted(p.glob("*.json")) if not _is_sa1b_json(f)]
    found = [f for f in found if is_coco(f)]
    if len(found) > 1:
        names = ", ".join(str(f.relative_to(path)) for f in found[:6])
        raise InputError(f"{path} has {len(found)} COCO files: {names}. Name the one to read.")
    return partial(_read_coco, found[0]) if found else None


def _read_coco(path: Path, problems: Problems | None) -> Iterator[Photo]:
    return read_coco(path, problems=problems)


def _is_sa1b_json(file: Path) -> bool:
    return any(file.with_suffix(suffix).is_file() for suffix in PHOTO_SUFFIXES)


def _voc(path: Path) -> Reader | None:
    above = (path, *sorted(path.glob("VOC2*")), *sorted(path.glob("VOCdevkit/VOC2*"))) if path.is_dir() else ()
    roots = [p for p in above if (p / "SegmentationObject").is_dir()]
    if len(roots) > 1:
        raise InputError(f"{path} has {len(roots)} years: {', '.join(p.name for p in roots)}. Name one.")
    return (lambda problems: read_voc(roots[0], problems=problems)) if roots else None


def _davis(path: Path) -> Reader | None:
    resolutions = sorted(p.name for p in path.glob("Annotations/*") if p.is_dir())
    if not resolutions or not (path / "JPEGImages").is_dir():
        return None
    resolution = "480p" if "480p" in resolutions else resolutions[0]
    return lambda problems: read_davis(path, resolution, problems=problems)


def _bsds(path: Path) -> Reader | None:
    if not path.is_dir() or bsds_root(path) is None:
        return None
    return lambda problems: read_bsds(path, problems=problems)


def _folder(path: Path) -> Reader | None:
    if not ((path / "images").is_dir() and (path / "masks").is_dir()):
        return None
    return lambda problems: read_folder(path, problems)


def _sa1b_folder(path: Path) -> Reader | None:
    if not path.is_dir() or not any(_is_sa1b_json(file) for file in path.glob("*.json")):
        return None
    return lambda problems: read_sa1b_folder(path, problems)


LAYOUTS = (
    Layout("SA-1B shards", "x.tar, or a folder of them: <id>.jpg beside <id>.json", _shards),
    Layout("Pascal VOC", "JPEGImages/x.jpg and SegmentationObject/x.png", _voc),
    Layout("DAVIS", "JPEGImages/480p/<video>/x.jpg and Annotations/480p/<video>/x.png", _davis),
    Layout("BSDS500", "images/x.jpg and groundTruth/x.mat (or with train/ val/ test/ in both)", _bsds),
    Layout("images and masks", "images/x.jpg and masks/x.png or masks/x/*.png", _folder),
    Layout("SA-1B folder", "x.jpg beside x.json", _sa1b_folder),
    Layout("COCO or LVIS", "x.json, or a folder with one (also in annotations/), and the photos", _coco),
)
