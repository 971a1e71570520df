"""Proves: what is wrong with a data set or with predictions is named and counted, in output and result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from anymask.cli.main import app
from anymask.core.errors import InputError
from anymask.core.rle import encode_one

PHOTO = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
MASK = np.zeros((40, 60), bool)
MASK[5:25, 10:40] = True


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Nuclei as their owners pack them: one photo is whole, of each other something is wrong."""

    def write(path: Path, array: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), array)

    train = tmp_path / "set" / "stage1_train"
    for name in ("whole", "cut", "no_mask", "empty", "nan", "no_photo", "no_prediction"):
        if name != "no_photo":
            write(train / name / "images" / f"{name}.png", PHOTO)
        if name != "no_mask":
            write(train / name / "masks" / "1.png", 255 * MASK.astype(np.uint8) * (name != "empty"))
        if name != "no_prediction":
            record = {"segmentation": encode_one(MASK), "predicted_iou": float("nan") if name == "nan" else 0.9}
            place = tmp_path / "records" / "stage1_train" / name / "images" / f"{name}.png.json"
            place.parent.mkdir(parents=True)
            place.write_text(json.dumps({"annotations": [record]}))
    photo = train / "cut" / "images" / "cut.png"
    photo.write_bytes(photo.read_bytes()[:3000])
    return tmp_path


def points(root: Path, *more: str) -> Any:
    words = ["evaluate", "points", "--data", f"bbbc038v1:{root / 'set'}", "--method", f"folder:{root / 'records'}"]
    return CliRunner().invoke(app, [*words, "--json", str(root / "result.json"), "--set", "clicks=[1]", *more])


def test_everything_that_is_wrong_is_named_and_counted(root: Path) -> None:
    done = points(root)
    assert done.exit_code == 0, done.output
    result = json.loads((root / "result.json").read_text())
    assert result["scored"] == 1 and result["mean"]["clicks_1"] == 100
    photo = "bbbc038v1/stage1_train/{0}/images/{0}.png"
    assert set(result["failed"]) == {photo.format(name) for name in ("cut", "nan", "no_prediction")}
    assert "NaN" in result["failed"][photo.format("nan")]
    assert "is not there" in result["failed"][photo.format("no_prediction")]
    problems = {word: [p for p in result["problems"] if f"/{word}/" in p] for word in ("no_mask", "empty", "no_photo")}
    assert len(result["problems"]) == 3 and all(len(found) == 1 for found in problems.values())
    assert "no mask of this photo is there" in problems["no_mask"][0]
    assert "the photo of this mask is not there" in problems["no_photo"][0]
    assert "no mask that is not empty" in problems["empty"][0]
    assert "1 scored, 3 failed, 3 missing or unusable." in done.output
    assert all(name in done.output for name in ("cut", "nan", "no_prediction", "no_mask", "empty", "no_photo"))
    assert points(root, "--strict").exit_code == 1


def test_another_split_is_refused_with_what_is_there(root: Path) -> None:
    (root / "set" / "stage1_train").rename(root / "set" / "stage1_test")
    done = points(root)
    assert isinstance(done.exception, InputError)
    assert "BBBC038v1 is not complete" in str(done.exception) and "there is stage1_test/" in str(done.exception)
