"""Proves: data sets in their owners' layouts are read mask by mask, and what a download lacks is said exactly."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from anymask.cli.main import app
from anymask.core import rle
from anymask.core.errors import InputError, OptionError
from anymask.evaluate.datasets import SETS, find_set, open_named, prepare, read_set


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One photo of each set that has a layout."""
    photo = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    for k in range(2):
        mask = np.zeros((40, 60), np.uint8)
        mask[5 * k : 5 * k + 10, :10] = 255
        write(tmp_path / f"bbbc038v1/stage1_train/ab/masks/m{k}.png", mask)
    write(tmp_path / "bbbc038v1/stage1_train/ab/images/ab.png", photo)
    ids = np.zeros((40, 60), np.uint16)
    ids[:10], ids[10:20], ids[20:, :30] = 3, 7, 26001
    write(tmp_path / "cityscapes/leftImg8bit/val/bonn/bonn_0_leftImg8bit.png", photo)
    write(tmp_path / "cityscapes/gtFine/val/bonn/bonn_0_gtFine_instanceIds.png", ids)
    write(tmp_path / "lvis/val2017/000000000007.jpg", photo)
    write(tmp_path / "trashcan/instance_version/train/vid_7.jpg", photo)
    square = {"id": 1, "image_id": 7, "category_id": 1, "segmentation": [[5, 5, 25, 5, 25, 15, 5, 15]], "iscrowd": 0}
    for path, name in (
        ("lvis/lvis_v0.5_val.json", "COCO_val2014_000000000007.jpg"),
        ("trashcan/instance_version/instances_train_trashcan.json", "vid_7.jpg"),
    ):
        image = {"id": 7, "file_name": name, "height": 40, "width": 60}
        content = {"images": [image], "annotations": [square], "categories": [{"id": 1, "name": "thing"}]}
        (tmp_path / path).write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "areas"), [("bbbc038v1", [100, 100]), ("cityscapes", [600, 600]), ("lvis", [200]), ("trashcan", [200])]
)
def test_every_mask_is_read(root: Path, name: str, areas: list[int]) -> None:
    photos = list(read_set(name, root / name))
    assert [p.source for p in photos] == [name] and [rle.area(r) for r in photos[0].rles] == areas
    assert [p.name for p in open_named(Path(f"{name}:{root / name}"))] == [photos[0].name]
    found = prepare(name, root / name)
    assert (found.num_images, found.num_masks, found.problems) == (1, len(areas), [])
    assert "1 photos are here" in found.missing[0] and not found.ready


def test_what_is_missing_is_named(root: Path) -> None:
    (root / "cityscapes/leftImg8bit/val/bonn/bonn_0_leftImg8bit.png").unlink()
    found = prepare("cityscapes", root / "cityscapes")
    assert found.missing == ["leftImg8bit/val/*/*_leftImg8bit.png (photos of leftImg8bit_trainvaltest.zip)"]
    with pytest.raises(InputError, match="leftImg8bit_trainvaltest"):
        read_set("cityscapes", root / "cityscapes")
    for mask in (root / "bbbc038v1/stage1_train/ab/masks").iterdir():
        mask.write_bytes(b"half a file")
    assert "m0.png" in prepare("bbbc038v1", root / "bbbc038v1").problems[0]
    assert prepare("bbbc038v1", root / "nowhere").missing == [f"{root / 'nowhere'} is not a folder"]
    with pytest.raises(OptionError, match="cityscapes"):
        find_set("cityscape")


def test_sets_without_a_layout_take_any(root: Path) -> None:
    for kind, value in (("images", 90), ("masks", 1)):
        write(root / "leaves" / kind / "a.png", np.full((40, 60), value, np.uint8))
    photos = list(read_set("ppdls", root / "leaves"))
    assert len(photos) == 1 and {p.source for p in photos} == {"ppdls"}


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
