"""Proves: data sets in their owners' layouts are read mask by mask, and what a download lacks is said exactly."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from anymask.cli.main import app
from anymask.core import rle
from anymask.core.errors import InputError, OptionError
from anymask.evaluate.datasets import LAYOUTS, SETS, find_set, open_named, prepare, read_set


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)


PHOTO = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
SQUARE = [5, 5, 25, 5, 25, 15, 5, 15]  # 200 px
POINTS = np.array(SQUARE).reshape(-1, 2).tolist()


def labels(*values: int, dtype: type = np.uint8) -> np.ndarray:
    """Bands of 5 rows, 300 px each."""
    made = np.zeros((40, 60), dtype)
    for i, value in enumerate(values):
        made[5 * i : 5 * i + 5] = value
    return made


def coco(path: Path, name: str) -> None:
    square = {"id": 1, "image_id": 7, "category_id": 1, "segmentation": [SQUARE], "iscrowd": 0}
    image = {"id": 7, "file_name": name, "height": 40, "width": 60}
    text({"images": [image], "annotations": [square], "categories": [{"id": 1, "name": "thing"}]}, path)


def text(content: object, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def hypersim(at: Path) -> None:
    for scene in ("ai_020_001", "ai_056_001"):  # left out by the paper
        write(at / scene / "images/scene_cam_00_final_preview/frame.0000.tonemap.jpg", PHOTO)
    write(at / "ai_021_001/images/scene_cam_00_final_preview/frame.0003.tonemap.jpg", PHOTO)
    file = at / "ai_021_001/images/scene_cam_00_geometry_hdf5/frame.0003.semantic_instance.hdf5"
    file.parent.mkdir(parents=True)
    with h5py.File(file, "w") as content:
        content["dataset"] = labels(-1, 4, 9, dtype=np.int32)


def ovis(at: Path) -> None:
    mask = rle.encode_one(labels(0, 1) > 0)
    for i in range(2):
        write(at / f"train/v/img_{i}.jpg", PHOTO)
    video = {"id": 1, "file_names": ["v/img_0.jpg", "v/img_1.jpg"], "height": 40, "width": 60}
    text({"videos": [video], "annotations": [{"id": 1, "video_id": 1, "segmentations": [None, mask]}]},
         at / "annotations_train.json")  # fmt: skip


def ndd20(at: Path) -> None:
    for kind in ("ABOVE", "BELOW"):
        write(at / kind / "1.jpg", PHOTO)
        shape = {"all_points_x": SQUARE[::2], "all_points_y": SQUARE[1::2], "name": "polygon"}
        region = {"shape_attributes": shape, "region_attributes": {}}
        regions = [region] if kind == "ABOVE" else {"0": region, "1": region}
        text({"1.jpg123": {"filename": "1.jpg", "size": 123, "regions": regions}}, at / f"{kind}_LABELS.json")


def visor(at: Path) -> None:
    write(at / "rgb_frames/val/P01/P01_107/P01_107_frame_1.jpg", PHOTO)
    image = {"name": "P01_107_frame_1.jpg", "video": "P01_107"}
    two = [POINTS, [[30, 30], [40, 30], [40, 35], [30, 35]]]  # one mask of two pieces
    content = {"video_annotations": [{"image": image, "annotations": [{"segments": two}, {"segments": []}]}]}
    text(content, at / "annotations/val/P01_107.json")


def woodscape(at: Path) -> None:
    write(at / "rgb_images/00001_FV.png", PHOTO)
    content = {"00001_FV.json": {"annotation": [{"segmentation": POINTS, "tags": ["vehicles"]}]}}
    text(content, at / "instance_annotations/00001_FV.json")


def ibd(at: Path) -> None:
    """The train photos in COCO's form and one in LabelMe's; a height map of each name, and a val part."""
    for name in ("DJI_1.JPG", "DJI_2.JPG", "DJI_3.JPG"):
        write(at / f"2D/photos/{name}", PHOTO)
        write(at / f"2D/height/{name}", PHOTO[:10])
    coco(at / "2D/annotations/train.json", "D:\\\\data\\DJI_1.JPG")
    coco(at / "2D/annotations/val.json", "DJI_3.JPG")
    two = [{"points": POINTS, "group_id": 4}, {"points": [[30, 30], [40, 30], [40, 35], [30, 35]], "group_id": 4}]
    text({"shapes": [*two, {"points": POINTS, "group_id": None}], "imagePath": "DJI_2.JPG"}, at / "2D/train/DJI_2.json")


ADE = "images/ADE/validation/home/attic/ADE_val_00000007"
PAIRS = {  # photo, labels, values in them, how many are masks
    "ppdls": ("Plant/Ara2012/ara2012_plant001_rgb.png", "Plant/Ara2012/ara2012_plant001_label.png", (1, 2), 2),
    "doors": ("Regression/Te1_5000_b/img/1.png", "Regression/Te1_5000_b/Rock_all/1.png", (255,), 1),
    "ishape": ("wire/val/image/3.jpg", "wire/val/instance_map/3.png", (1000, 1001, 1002), 3),
    "egohos": ("train/image/ego4d_1.jpg", "train/label/ego4d_1.png", (1, 2, 4), 3),
    "cityscapes": ("leftImg8bit/val/b/b_leftImg8bit.png", "gtFine/val/b/b_gtFine_instanceIds.png", (3, 7, 26001), 2),
    "dram": ("test/realism/someone/a.jpg", "labels/realism/someone/a.png", (15, 255, 3), 2),
    "gtea": ("GTEA/Images/a.jpg", "GTEA/Masks/a.png", (1, 2), 2),
}  # fmt: skip
FILES = {  # photo, two masks
    "bbbc038v1": ("stage1_train/ab/images/ab.png", "stage1_train/ab/masks/m{}.png"),
    "ade20k": (f"{ADE}.jpg", ADE + "/instance_{}_ADE_val_00000007.png"),
}  # fmt: skip
COCO = {  # annotations, photo, its name in there
    "timberseg": ("prescaled/coco_annotation_rotated.json", "prescaled/1.png", "1.png"),
    "lvis": ("lvis_v0.5_val.json", "val2017/000000000007.jpg", "COCO_val2014_000000000007.jpg"),
    "streets": ("annotations/vehicle-annotations.json", "images/a.jpg", "a.jpg"),
    "zerowaste": ("train/labels.json", "train/data/a.PNG", "a.PNG"),
    "ndispark": ("train/train_coco_annotations.json", "train/imgs/a.jpg", "a.jpg"),
    "pidray": ("annotations/xray_test_hard.json", "hard/xray_hard1.png", "xray_hard1.png"),
    "trashcan": ("instance_version/instances_train_trashcan.json", "instance_version/train/vid_7.jpg", "vid_7.jpg"),
}
OTHERS = {  # areas of all masks
    "hypersim": (hypersim, [300, 300]),
    "ovis": (ovis, [300]),
    "ndd20": (ndd20, [200, 200, 200]),
    "visor": (visor, [250]),
    "woodscape": (woodscape, [200]),
    "ibd": (ibd, [200, 250, 200]),
}


def build(name: str, root: Path) -> list[int]:
    """A set in its owners' layout, one photo or two, and the areas of its masks."""
    if name in PAIRS:
        photo, truth, values, count = PAIRS[name]
        write(root / photo, PHOTO)
        write(root / truth, labels(*values, dtype=np.uint16 if max(values) > 255 else np.uint8))
        return [300] * count
    if name in FILES:
        photo, mask = FILES[name]
        write(root / photo, PHOTO)
        for i in range(2):
            write(root / mask.format(i), labels(*[0] * i, 255))
        return [300, 300]
    if name in COCO:
        annotations, photo, written = COCO[name]
        write(root / photo, PHOTO)
        coco(root / annotations, written)
        return [200]
    if name == "plittersdorf":
        for split in ("train", "val", "test"):
            write(root / f"images/{split}.jpg", PHOTO)
            coco(root / f"{split}.json", f"{split}.jpg")
        return [200] * 3
    make, areas = OTHERS[name]
    make(root)
    return areas


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two sets side by side."""
    for name in ("bbbc038v1", "cityscapes"):
        build(name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_every_mask_is_read(tmp_path: Path, name: str) -> None:
    areas = build(name, tmp_path)
    photos = list(read_set(name, tmp_path))
    assert {p.source for p in photos} == {name} and [rle.area(r) for p in photos for r in p.rles] == areas
    assert len({p.name for p in photos}) == len(photos)
    assert [p.name for p in open_named(Path(f"{name}:{tmp_path}"))] == [p.name for p in photos]
    found = prepare(name, tmp_path)
    assert (found.num_images, found.num_masks, found.problems) == (len(photos), len(areas), [])
    assert f"{len(photos)} photos are here" in found.missing[0] and not found.ready


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_an_empty_folder_lacks_everything(tmp_path: Path, name: str) -> None:
    found = prepare(name, tmp_path)
    assert len(found.missing) == len(LAYOUTS[name].files) and "there is nothing" in found.missing[0]


def test_every_set_has_a_layout() -> None:
    assert {s.name for s in SETS} == set(LAYOUTS)


def test_annotations_cannot_leave_the_set(tmp_path: Path) -> None:
    ndd20(tmp_path / "set")
    write(tmp_path / "secret.jpg", PHOTO)
    shape = {"all_points_x": SQUARE[::2], "all_points_y": SQUARE[1::2]}
    entry = {"filename": "../../secret.jpg", "regions": [{"shape_attributes": shape}]}
    text({"a": entry}, tmp_path / "set/ABOVE_LABELS.json")
    assert "names a photo outside the set" in prepare("ndd20", tmp_path / "set").problems[0]
    text({"a": {"filename": "1.jpg"}}, tmp_path / "set/ABOVE_LABELS.json")
    assert "not in the owners' form" in prepare("ndd20", tmp_path / "set").problems[0]


def test_what_is_missing_is_named(root: Path) -> None:
    (root / "cityscapes/leftImg8bit/val/b/b_leftImg8bit.png").unlink()
    found = prepare("cityscapes", root / "cityscapes")
    where = root / "cityscapes"
    assert found.missing == [f"leftImg8bit/val/*/*_leftImg8bit.png (in {where} there is gtFine/, leftImg8bit/)"]
    with pytest.raises(InputError, match="Cityscapes is not complete"):
        read_set("cityscapes", root / "cityscapes")
    for mask in (root / "bbbc038v1/stage1_train/ab/masks").iterdir():
        mask.write_bytes(b"half a file")
    assert "m0.png" in prepare("bbbc038v1", root / "bbbc038v1").problems[0]
    assert prepare("bbbc038v1", root / "nowhere").missing == [f"{root / 'nowhere'} is not a folder"]
    with pytest.raises(OptionError, match="cityscapes"):
        find_set("cityscape")


def test_another_split_and_half_a_download_are_named(tmp_path: Path) -> None:
    build("lvis", tmp_path / "lvis")
    (tmp_path / "lvis/lvis_v0.5_val.json").rename(tmp_path / "lvis/lvis_v0.5_train.json")
    (missing,) = prepare("lvis", tmp_path / "lvis").missing
    assert missing.startswith("lvis_v0.5_val.json (in ") and "lvis_v0.5_train.json" in missing
    build("ibd", tmp_path / "ibd")
    for part in ("train/DJI_2.json", "annotations/train.json"):
        (tmp_path / "ibd/2D" / part).unlink()
    assert "no JSON file has 'train' in its path" in prepare("ibd", tmp_path / "ibd").missing[0]
    ibd(tmp_path / "ibd")
    (tmp_path / "ibd/2D/photos/DJI_1.JPG").unlink()
    found = prepare("ibd", tmp_path / "ibd")
    assert found.num_images == 1 and "DJI_1.JPG: missing file" in found.problems[0]
    line = {"points": [[1, 1], [2, 2]], "shape_type": "line"}
    text({"boxes": []}, tmp_path / "ibd/2D/train/a.json")
    text({"shapes": [{}], "imagePath": "DJI_2.JPG"}, tmp_path / "ibd/2D/train/b.json")
    text({"shapes": [line], "imagePath": "DJI_2.JPG"}, tmp_path / "ibd/2D/train/c.json")
    found = prepare("ibd", tmp_path / "ibd")
    for part in ("a.json: broken record: in no form", "b.json: broken record", "c.json: broken mask"):
        assert any(part in problem for problem in found.problems), found.problems


def test_the_published_totals() -> None:
    assert len(SETS) == 23 and len({entry.name for entry in SETS}) == 23
    assert (sum(s.num_images for s in SETS), sum(s.num_masks for s in SETS)) == (40_188, 172_653)
    assert sum(s.sam_minus_ritm > 0 for s in SETS) == 16
    assert np.mean([s.sam_minus_ritm for s in SETS]) == pytest.approx(9.2, abs=0.05)


def test_command(root: Path) -> None:
    listed = CliRunner().invoke(app, ["data", "prepare", "all"])
    assert listed.exit_code == 0 and len(listed.output.splitlines()) == 23
    done = CliRunner().invoke(app, ["data", "prepare", "cityscapes", "--root", str(root / "cityscapes")])
    assert done.exit_code == 1 and "the published subset (val) has 293" in done.output
