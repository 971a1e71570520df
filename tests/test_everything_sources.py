"""Proves: photos come from files, folders, globs, tars and videos, frame by frame, and never overwrite each other."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from shard_tools import encoded, shard
from worker_doubles import Squares

from anymask.core.errors import ImageError
from anymask.core.images import read_image
from anymask.predict.everything import Plan, finish, named_for, prepare, segment_here
from anymask.predict.formats import WRITABLE, read_masks, write_masks
from anymask.predict.options import AutomaticOptions
from anymask.predict.records import PhotoMasks
from anymask.predict.sources import find_photos
from anymask.predict.video import count_frames, read_frame


@pytest.fixture(params=[("clip.avi", "MJPG"), ("clip.mp4", "mp4v"), ("clip.mkv", "MJPG")])
def clip(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A video of 12 frames; frame i is grey 20 i."""
    name, codec = request.param
    path = tmp_path / name
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, (64, 48))
    assert writer.isOpened()
    for i in range(12):
        writer.write(np.full((48, 64, 3), 20 * i, np.uint8))
    writer.release()
    return path


def test_frames_of_a_video(clip: Path) -> None:
    found = find_photos([clip])
    assert [s.stem for s in found] == [f"clip_{i:06d}" for i in range(12)]
    for i in (0, 5, 11, 3):  # back as well
        image = read_image(found[i].read())
        assert image.shape == (48, 64, 3) and abs(image.mean() - 20 * i) < 6
    assert [s.frame for s in find_photos([clip], every=5)] == [0, 5, 10]
    assert count_frames(clip) == 12
    with pytest.raises(ImageError, match="ends before frame 12"):
        read_frame(clip, 12)


def test_colours_of_frames_are_rgb(tmp_path: Path) -> None:
    path = tmp_path / "red.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    writer.write(np.full((48, 64, 3), (0, 0, 250), np.uint8))  # OpenCV's order is BGR
    writer.release()
    red, green, blue = read_frame(path, 0).reshape(-1, 3).mean(0)
    assert red > 200 and green < 50 and blue < 50


def test_frames_get_masks(clip: Path, tmp_path: Path) -> None:
    outcomes = run([clip], tmp_path / "out", every=4)
    assert outcomes == ["clip_000000", "clip_000004", "clip_000008"]
    assert [p.file_name for p in read_masks(tmp_path / "out")] == [f"{stem}.png" for stem in outcomes]


def test_what_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video" * 100)
    (source,) = find_photos([tmp_path])
    with pytest.raises(ImageError, match="no video"):
        source.read()


def test_folders_globs_and_tars_together(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/b/2.PNG", "a/.hidden/3.png", "a/notes.txt", "c/4.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded(1))
    shard(tmp_path / "a" / "s.tar", {"5.png": encoded(5)})
    found = find_photos([tmp_path / "a", str(tmp_path / "*" / "[14].png"), str(tmp_path / "**" / "2.*")])
    assert [s.file_name for s in found] == ["1.png", "2.PNG", "5.png", "4.png"]


def run(places: list[Path], out: Path, format_name: str = "sa1b", every: int = 1) -> list[str]:
    """Stems of a whole run."""
    plan = Plan(out, format_name, AutomaticOptions(), "squares", overlays=False)
    prepare(plan)
    sources = named_for(plan, find_photos(places, every))
    outcomes = list(segment_here(Squares(), sources, plan))  # type: ignore[arg-type]
    assert [o.error for o in outcomes] == [None] * len(sources)
    finish(plan, sources)
    return [s.stem for s in sources]


def test_equal_names_of_later_runs_do_not_overwrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i, folder in enumerate(("x", "y")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(encoded(10, hw=(10 + i, 10)))
    out = tmp_path / "out"
    assert run([tmp_path / "x"], out) == ["a"] and run([tmp_path / "y"], out) == ["a-2"]
    assert [p.hw for p in read_masks(out)] == [(11, 10), (10, 10)]  # a-2.json, a.json
    monkeypatch.chdir(tmp_path)
    assert run([Path("y/a.png")], out) == ["a-2"]  # named otherwise, the same photo
    (tmp_path / "x").rename(tmp_path / "z")
    assert run([tmp_path / "z"], out) == ["a"]  # moved, nothing is at the old place


@pytest.mark.parametrize("name", [n for n in WRITABLE if n not in ("coco", "coco_polygons", "parquet")])
def test_equal_names_in_one_call_do_not_overwrite(name: str, tmp_path: Path) -> None:
    photos = [PhotoMasks(f, (4 + i, 5), (), 1 + i) for i, f in enumerate(("t/a.jpg", "v/a.jpg", "A.png"))]
    write_masks(photos, tmp_path, name)
    assert sorted(p.hw for p in read_masks(tmp_path, name)) == [(4, 5), (5, 5), (6, 5)]


def test_a_photo_that_goes_missing(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(1))
    (source,) = find_photos([tmp_path])
    assert source.sha256() and Image.open(io.BytesIO(source.read())).size == (15, 12)
    (tmp_path / "a.png").unlink()
    for action in (source.read, source.sha256):
        with pytest.raises(ImageError, match="cannot be read: No such file"):
            action()
