"""The 23 data sets of point to mask (PAPER §7.1): domain, split, published size, and where their files must lie.

The layouts are those of the owners' archives, unpacked, as far as descriptions of them and code that reads them tell;
none of the downloads themselves was at hand. `set_layouts` reads them. Of IBD (InstanceBuilding, 2D) its owners tell
that it holds drone photos, their height maps and roofs as instances, not how files are named: it is read by form.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from anymask.core.errors import InputError, unknown_name
from anymask.data.readers import Photo, Problems, open_dataset
from anymask.evaluate.set_by_form import ByForm
from anymask.evaluate.set_layouts import Coco, LabelMaps, Layout, MaskFiles, Polygons, VideoCoco, via, visor, woodscape


@dataclass(frozen=True)
class SetEntry:
    """A data set. num_images, num_masks: of the published subset. sam_minus_ritm: published, mIoU at one click."""

    name: str
    title: str
    domain: str
    split: str
    num_images: int
    num_masks: int
    sam_minus_ritm: float

    @property
    def layout(self) -> Layout:
        """Of the owners' archives."""
        return LAYOUTS[self.name]


LAYOUTS: dict[str, Layout] = {
    "ppdls": LabelMaps("Plant/*/*_rgb.png", "Plant/{0}/{1}_label.png"),
    "bbbc038v1": MaskFiles("stage1_train/*/images/*.png", "stage1_train/{0}/masks/*.png"),
    "doors": LabelMaps("Regression/Te*/img/*.png", "Regression/Te{0}/Rock_all/{1}.png"),
    "timberseg": Coco((("prescaled/coco_annotation_rotated.json", "prescaled"),)),
    "ndd20": Polygons("*_LABELS.json", "{0}/{name}", via),
    "lvis": Coco((("lvis_v0.5_val.json", "val2017"),), last=len("000000000000.jpg")),
    "streets": Coco((("annotations/vehicle-annotations.json", "images"),)),
    "zerowaste": Coco((("train/labels.json", "train/data"),)),
    "ishape": LabelMaps("*/val/image/*.jpg", "{0}/val/instance_map/{1}.png"),
    "ade20k": MaskFiles(
        "images/ADE/validation/*/*/ADE_val_*.jpg", "images/ADE/validation/{0}/{1}/ADE_val_{2}/instance_*.png"
    ),
    "ovis": VideoCoco("annotations_train.json", "train"),
    "hypersim": LabelMaps(
        "ai_*/images/scene_*_final_preview/frame.*.tonemap.jpg",
        "ai_{0}/images/scene_{1}_geometry_hdf5/frame.{2}.semantic_instance.hdf5",
        background=(-1, 0),
        only=r"^ai_0(?!20|25|40|49)([0-4]\d|5[0-5])_",
    ),
    "ndispark": Coco((("train/train_coco_annotations.json", "train/imgs"),)),
    "visor": Polygons("annotations/val/*.json", "rgb_frames/val/*/{0}/{name}", visor),
    "plittersdorf": Coco(tuple((f"{split}.json", "images") for split in ("train", "val", "test"))),
    "egohos": LabelMaps("train/image/*.jpg", "train/label/{0}.png", only=r"(?i)/(ego4d|thu)[^/]*$"),
    "woodscape": Polygons("instance_annotations/*.json", "rgb_images/{name}.png", woodscape),
    # ids under 7 are of classes that Cityscapes does not evaluate; of stuff, a class is one mask (panoptic)
    "cityscapes": LabelMaps(
        "leftImg8bit/val/*/*_leftImg8bit.png", "gtFine/val/{0}/{1}_gtFine_instanceIds.png", lowest=7
    ),
    "pidray": Coco((("annotations/xray_test_hard.json", "hard"),)),
    "dram": LabelMaps("test/*/*/*.jpg", "labels/{0}/{1}/{2}.png", background=(0, 255)),
    "trashcan": Coco((("instance_version/instances_train_trashcan.json", "instance_version/train"),)),
    "gtea": LabelMaps("GTEA/Images/*.jpg", "GTEA/Masks/{0}.png"),
    "ibd": ByForm("train", others=r"height|depth|dsm|3d/|mask|label"),
}  # of the owners' archives, unpacked
SETS = (
    SetEntry("ppdls", "PPDLS", "plants", "all", 182, 2347, 46.9),
    SetEntry("bbbc038v1", "BBBC038v1", "microscopy", "train", 227, 10506, 44.7),
    SetEntry("doors", "DOORS", "rendered boulders", "DS1", 10000, 10000, 41.1),
    SetEntry("timberseg", "TimberSeg 1.0", "logs", "all", 220, 2487, 28.9),
    SetEntry("ndd20", "NDD20", "underwater and aerial animals", "all", 4402, 6100, 21.1),
    SetEntry("lvis", "LVIS v0.5", "everyday", "val", 945, 9642, 18.5),
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
    SetEntry("cityscapes", "Cityscapes", "driving", "val", 293, 9973, -2.0),
    SetEntry("pidray", "PIDray", "X-ray", "test hard", 3733, 8892, -5.8),
    SetEntry("dram", "DRAM", "paintings", "test", 718, 1179, -6.5),
    SetEntry("trashcan", "TrashCan", "underwater trash", "train, instances", 5936, 9540, -15.0),
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
    """Photos of a set from its owners' layout. Raises InputError where parts of it are not there at all."""
    entry = find_set(name)
    absent = _missing(entry, Path(root))
    if absent:
        raise InputError(f"{entry.title} is not complete under {root}: {'; '.join(absent)}.")
    return entry.layout.read(Path(root), entry.name, problems)


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
    """Patterns of the layout that find nothing, with what is there instead."""
    absent = [pattern for pattern in entry.layout.files if next(root.glob(pattern), None) is None]
    there = ", ".join(sorted(p.name + "/" * p.is_dir() for p in root.iterdir())[:8]) if absent and root.is_dir() else ""
    return [f"{pattern} (in {root} there is {there or 'nothing'})" for pattern in absent]
