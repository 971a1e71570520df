"""The 23 data sets of point to mask (PAPER §7.1): domain, split, published size, and where their files must lie.

Layouts are written down only where the owners' archives are in a form that is documented and that a reader here
reads; of the others the registry says what to convert to.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from anymask.core.errors import InputError, unknown_name
from anymask.core.rle import RLE, encode_one
from anymask.data.readers import DataError, Photo, Problems, open_dataset, read_coco
from anymask.data.readers.photo import check_size, checked_hw, keep_readable, read_bytes
from anymask.data.readers.pictures import read_label_map

Reader = Callable[[Path, Problems | None], Iterator[Photo]]


@dataclass(frozen=True)
class SetEntry:
    """A data set. num_images, num_masks: of the published subset. sam_minus_ritm: published, mIoU at one centre click.

    files: globs under the root that must each find something, with what is expected there. read: None where the
    owners' format has no reader here: then `convert` to the layouts of `open_dataset`.
    """

    name: str
    title: str
    domain: str
    split: str
    num_images: int
    num_masks: int
    sam_minus_ritm: float
    files: tuple[tuple[str, str], ...] = ()
    read: Reader | None = None


def read_bbbc038(root: Path, problems: Problems | None) -> Iterator[Photo]:
    """Data Science Bowl 2018: `stage1_train/<id>/images/<id>.png` and `masks/*.png`, one for each nucleus."""

    def photo(folder: Path) -> Photo:
        file = folder / "images" / f"{folder.name}.png"
        encoded = read_bytes(file)
        hw = checked_hw(file, encoded)
        rles = []
        for mask in sorted((folder / "masks").glob("*.png")):
            labels = read_label_map(mask)
            check_size(mask, hw, (labels.shape[0], labels.shape[1]))
            rles.append(encode_one(labels > 0))
        if not rles:
            raise DataError("missing file", folder / "masks", "no mask of this photo is there.")
        return Photo(folder.name, "bbbc038v1", encoded, hw, rles, [None] * len(rles))

    folders = sorted(p for p in (root / "stage1_train").iterdir() if p.is_dir())
    return keep_readable((partial(photo, folder) for folder in folders), problems)


def read_cityscapes(root: Path, problems: Problems | None) -> Iterator[Photo]:
    """Cityscapes val: `leftImg8bit/val/<city>/*_leftImg8bit.png`, `gtFine/val/<city>/*_gtFine_instanceIds.png`.

    Every id is a mask: of things one an object, of stuff one a class (panoptic). Ids of the classes that Cityscapes
    does not evaluate (under 7) are left out.
    """

    def photo(truth: Path) -> Photo:
        name = truth.name.removesuffix("_gtFine_instanceIds.png")
        file = root / "leftImg8bit" / "val" / truth.parent.name / f"{name}_leftImg8bit.png"
        return _of_labels(file, truth, name, "cityscapes", lambda labels: [v for v in np.unique(labels) if v >= 7])

    files = sorted((root / "gtFine" / "val").glob("*/*_gtFine_instanceIds.png"))
    return keep_readable((partial(photo, file) for file in files), problems)


def _of_labels(file: Path, truth: Path, name: str, source: str, values: Callable[[np.ndarray], list[int]]) -> Photo:
    encoded, labels = read_bytes(file), read_label_map(truth)
    hw = checked_hw(file, encoded)
    check_size(truth, hw, (labels.shape[0], labels.shape[1]))
    rles: list[RLE] = [encode_one(labels == value) for value in values(labels)]
    return Photo(name, source, encoded, hw, rles, [None] * len(rles))


def _coco(annotations: str, photos: str, source: str) -> Reader:
    """A COCO file, its photos and the name of the set."""

    def read(root: Path, problems: Problems | None) -> Iterator[Photo]:
        found = read_coco(root / annotations, root / photos, problems=problems)
        return (Photo(p.name, source, p.encoded, p.hw, p.rles, p.labels) for p in found)

    return read


def read_lvis_v05(root: Path, problems: Problems | None) -> Iterator[Photo]:
    """LVIS v0.5 val: its records name the photos as COCO 2014 did, the files are those of COCO 2017."""
    content = json.loads((root / "lvis_v0.5_val.json").read_text())
    for record in content["images"]:
        record["file_name"] = record["file_name"][-len("000000000000.jpg") :]
    with tempfile.TemporaryDirectory() as folder:
        renamed = Path(folder) / "lvis_v0.5_val.json"
        renamed.write_text(json.dumps(content))
        for photo in read_coco(renamed, root / "val2017", problems=problems):
            yield Photo(photo.name, "lvis", photo.encoded, photo.hw, photo.rles, photo.labels)


_CITY = (
    ("leftImg8bit/val/*/*_leftImg8bit.png", "photos of leftImg8bit_trainvaltest.zip"),
    ("gtFine/val/*/*_gtFine_instanceIds.png", "instance ids of gtFine_trainvaltest.zip"),
)
_NUCLEI = (
    ("stage1_train/*/images/*.png", "photos of stage1_train.zip"),
    ("stage1_train/*/masks/*.png", "masks of stage1_train.zip, one file for each nucleus"),
)
_LVIS = (("lvis_v0.5_val.json", "annotations, lvis_v0.5_val.json.zip"), ("val2017/*.jpg", "photos of COCO val2017"))
_TRASH = (
    ("instance_version/instances_train_trashcan.json", "annotations of the instance version"),
    ("instance_version/train/*.jpg", "photos of the instance version's train split"),
)
SETS = (
    SetEntry("ppdls", "PPDLS", "plants", "all", 182, 2347, 46.9),
    SetEntry("bbbc038v1", "BBBC038v1", "microscopy", "train", 227, 10506, 44.7, _NUCLEI, read_bbbc038),
    SetEntry("doors", "DOORS", "rendered boulders", "DS1", 10000, 10000, 41.1),
    SetEntry("timberseg", "TimberSeg 1.0", "logs", "all", 220, 2487, 28.9),
    SetEntry("ndd20", "NDD20", "underwater and aerial animals", "all", 4402, 6100, 21.1),
    SetEntry("lvis", "LVIS v0.5", "everyday", "val", 945, 9642, 18.5, _LVIS, read_lvis_v05),
    SetEntry("streets", "STREETS", "traffic cameras", "all", 819, 9854, 17.3),
    SetEntry("zerowaste", "ZeroWaste-f", "recycling", "train", 2947, 6155, 9.1),
    SetEntry("ishape", "iShape", "irregular shapes", "val", 754, 9742, 8.8),
    SetEntry("ade20k", "ADE20K", "scenes", "val", 302, 10128, 7.8),
    SetEntry("ovis", "OVIS", "video", "train", 2044, 10011, 7.0),
    SetEntry("hypersim", "Hypersim", "rendered rooms", "archinteriors 1-55 but 20, 25, 40, 49", 338, 9445, 6.1),
    SetEntry("ndispark", "NDISPark", "traffic cameras", "train", 111, 2577, 2.7),
    SetEntry("visor", "VISOR", "egocentric", "val", 1864, 10141, 1.8),
    SetEntry("plittersdorf", "Plittersdorf", "camera traps", "train+val+test", 187, 546, 1.5),
    SetEntry("egohos", "EgoHOS", "egocentric", "train, Ego4D and THU-READ", 2940, 9961, 0.8),
    SetEntry("ibd", "IBD", "aerial", "train, 2D", 467, 11953, -0.3),
    SetEntry("woodscape", "WoodScape", "driving", "set 1", 107, 10266, -0.6),
    SetEntry("cityscapes", "Cityscapes", "driving", "val", 293, 9973, -2.0, _CITY, read_cityscapes),
    SetEntry("pidray", "PIDray", "X-ray", "test hard", 3733, 8892, -5.8),
    SetEntry("dram", "DRAM", "paintings", "test", 718, 1179, -6.5),
    SetEntry(
        "trashcan",
        "TrashCan",
        "underwater trash",
        "train, instances",
        5936,
        9540,
        -15.0,
        _TRASH,
        _coco("instance_version/instances_train_trashcan.json", "instance_version/train", "trashcan"),
    ),
    SetEntry("gtea", "GTEA", "egocentric", "train, hands", 652, 1208, -21.4),
)


@dataclass(frozen=True)
class Readiness:
    """What `prepare` found. missing: one line for each thing that is not there. problems: broken photos or masks."""

    entry: SetEntry
    num_images: int
    num_masks: int
    missing: list[str]
    problems: list[str]

    @property
    def ready(self) -> bool:
        """May it be evaluated?"""
        return not self.missing and not self.problems and self.num_masks > 0


def find_set(name: str) -> SetEntry:
    """A data set by name."""
    for entry in SETS:
        if entry.name == name.lower():
            return entry
    raise unknown_name("data set", name, [entry.name for entry in SETS])


def domains() -> dict[str, str]:
    """Domain of each set, by its name."""
    return {entry.name: entry.domain for entry in SETS}


def read_set(name: str, root: Path, problems: Problems | None = None) -> Iterator[Photo]:
    """Photos of a set from its owners' layout; where that has no reader, from any layout of `open_dataset`."""
    entry = find_set(name)
    if entry.read is not None:
        absent = _missing(entry, Path(root))
        if absent:
            raise InputError(f"{entry.title} is not complete under {root}: {'; '.join(absent)}.")
        return entry.read(Path(root), problems)
    photos = open_dataset(root, problems=problems)
    return (Photo(p.name, entry.name, p.encoded, p.hw, p.rles, p.labels) for p in photos)


def open_named(path: Path, problems: Problems | None = None) -> Iterator[Photo]:
    """Photos of `name:root` (a set of SETS in its owners' layout), or of a path in any layout of `open_dataset`."""
    name, colon, root = str(path).partition(":")
    if colon and not Path(path).exists():
        return read_set(name, Path(root), problems)
    return open_dataset(path, problems=problems)


def prepare(name: str, root: Path) -> Readiness:
    """Check a download against the set's layout, by reading all of it. Counts more than the published subset are
    expected where the paper took a part; fewer photos than it used are named as missing.
    """
    entry, root = find_set(name), Path(root)
    if not root.is_dir():
        return Readiness(entry, 0, 0, [f"{root} is not a folder"], [])
    missing = _missing(entry, root)
    if missing:
        return Readiness(entry, 0, 0, missing, [])
    problems = Problems()
    try:
        photos = [(len(p.rles), p.name) for p in read_set(name, root, problems)]
    except InputError as error:
        return Readiness(entry, 0, 0, [str(error)], [])
    num_masks = sum(n for n, _ in photos)
    if len(photos) < entry.num_images:
        missing.append(f"{len(photos)} photos are here, the published subset ({entry.split}) has {entry.num_images:,}")
    empty = [f"{name}: no mask" for n, name in photos if not n]
    found = [f"{p.file}: {p.kind}: {p.message}" for p in problems.found]
    return Readiness(entry, len(photos), num_masks, missing, [*found, *empty])


def _missing(entry: SetEntry, root: Path) -> list[str]:
    return [f"{glob} ({what})" for glob, what in entry.files if next(root.glob(glob), None) is None]
