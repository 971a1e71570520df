"""Proves: photos and masks go into a store and come out of it by the command line; what does not fit is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from anymask.cli.engine import app
from anymask.core.errors import ImageError, InputError
from anymask.core.rle import encode_one
from anymask.engine.photos import check_photo
from anymask.engine.store import open_store
from anymask.predict.formats import WRITABLE, read_masks, write_masks
from anymask.predict.records import MaskRecord, PhotoMasks

HW = (30, 40)


@pytest.fixture
def database(tmp_path: Path) -> str:
    """A store with two photos and one that is broken, which the command tells."""
    (tmp_path / "photos").mkdir()
    for number in range(2):
        Image.new("RGB", HW[::-1], (90 * number, 9, 9)).save(tmp_path / "photos" / f"p{number}.png")
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"not a photo")
    place = str(tmp_path / "masks.db")
    assert "default" in run("init", place)
    shown = run("add", place, str(tmp_path / "photos"), code=1)
    assert "3 photos added" in shown and "2 tasks" in shown and "bad.jpg" in shown
    return place


def run(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(words), catch_exceptions=True)
    if isinstance(done.exception, InputError):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.output


def some_masks(hw: tuple[int, int] = HW, name: str = "p0.png", num: int = 2) -> PhotoMasks:
    masks = []
    for index in range(num):
        mask = np.zeros(hw, dtype=bool)
        mask[8 * index : 8 * index + 6, 4:20] = True
        masks.append(MaskRecord(encode_one(mask), 0.5 + 0.25 * index, 0.75, (5.0, 9.0), (0.0, 0.0, 40.0, 30.0), "cup"))
    return PhotoMasks(name, hw, tuple(masks))


def test_adding_again_adds_nothing(database: str, tmp_path: Path) -> None:
    assert "0 photos added, 3 were there; 0 tasks" in run("add", database, str(tmp_path / "photos"), code=1)
    status = json.loads(run("status", database, "--json"))
    assert (status["num_images"], status["num_unreadable"], status["tasks"]) == (3, 1, {"annotate": {"open": 2}})


@pytest.mark.parametrize("name", sorted(set(WRITABLE) - {"labelmap"}))
def test_masks_come_in_and_go_out_in_every_format(database: str, tmp_path: Path, name: str) -> None:
    write_masks([some_masks()], tmp_path / "in", "sa1b")
    assert "2 masks added, 0 were there" in run("import", database, str(tmp_path / "in"))
    assert "0 masks added, 2 were there" in run("import", database, str(tmp_path / "in"))
    run("export", database, "-o", str(tmp_path / "out"), "--format", name)
    photos = {Path(photo.file_name).stem: photo for photo in read_masks(tmp_path / "out", name)}
    assert [mask.rle for mask in photos["p0"].masks] == [mask.rle for mask in some_masks().masks]
    if name in ("sa1b", "coco", "parquet"):
        assert [m.predicted_iou for m in photos["p0"].masks] == [0.5, 0.75]
        assert photos["p0"].masks == some_masks().masks


def test_export_chooses_by_stage_and_state(database: str, tmp_path: Path) -> None:
    write_masks([some_masks()], tmp_path / "in", "coco")
    run("import", database, str(tmp_path / "in"), "--stage", "3")
    assert "2 photos, 2 masks" in run("export", database, "-o", str(tmp_path / "a"), "--stage", "3")
    assert "2 photos, 0 masks" in run("export", database, "-o", str(tmp_path / "b"), "--stage", "1")
    assert "2 photos, 0 masks" in run("export", database, "-o", str(tmp_path / "c"), "--state", "accepted")
    with pytest.raises(InputError, match="proposed"):
        run("export", database, "-o", str(tmp_path / "d"), "--state", "acepted")


def test_an_import_that_does_not_fit_adds_nothing_and_names_the_photos(database: str, tmp_path: Path) -> None:
    photos = [some_masks(), some_masks((9, 40), "p1.png", 1), some_masks(name="unknown.png")]
    write_masks(photos, tmp_path / "in", "coco")
    with pytest.raises(InputError, match=r"(?s)nothing was imported, 2 of 3.*p1\.png.*unknown\.png.*engine add"):
        run("import", database, str(tmp_path / "in"))
    assert json.loads(run("report", database, "--json"))["masks"] == 0


def test_the_report_in_words_and_as_json(database: str, tmp_path: Path) -> None:
    write_masks([some_masks()], tmp_path / "in", "coco")
    run("import", database, str(tmp_path / "in"))
    words = run("report", database)
    assert "stage 0 (imported): 2 masks on 1 photos, 2.0 each, no times" in words
    (stage,) = json.loads(run("report", database, "--json"))["stages"]
    assert (stage["num_imported"], stage["masks_per_image"], stage["seconds_per_mask"]) == (2, 2.0, None)


def test_a_photo_that_is_gone_or_changed_is_noticed_and_a_moved_one_found(database: str, tmp_path: Path) -> None:
    store = open_store(database)
    image = next(image for image in store.images(store.project_id()) if image.hw is not None)
    file = check_photo(store, image.id)
    content = file.read_bytes()
    file.write_bytes(content + b" ")
    with pytest.raises(ImageError, match="has changed"):
        check_photo(store, image.id)
    file.unlink()
    with pytest.raises(ImageError, match="is gone"):
        check_photo(store, image.id)
    moved = tmp_path / "elsewhere.png"
    moved.write_bytes(content)
    run("add", database, str(moved))
    assert check_photo(store, image.id) == moved.resolve()
    store.close()
