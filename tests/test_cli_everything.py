"""Proves: the command's engines, shards, tiles and videos work from the shell's side, and it tells how far it is."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import pytest
import typer
from automatic_pair import BlobSegmenter, blobby_photo
from PIL import Image
from shard_tools import members, shard
from test_everything import ARGUMENTS, encoded
from typer.testing import CliRunner, Result

from anymask.cli import predict as predict_command
from anymask.cli import progress
from anymask.cli.convert import convert
from anymask.cli.everything import everything
from anymask.cli.progress import Bar, duration
from anymask.core.errors import InputError, MissingExtraError, OptionError
from anymask.predict.everything import Outcome
from anymask.predict.formats import read_masks
from anymask.predict.sources import PhotoSource

app = typer.Typer()
app.command("everything")(everything)
app.command("convert")(convert)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command line with the blob model instead of one with weights."""
    monkeypatch.setattr(predict_command, "load_predictor", lambda *_: SimpleNamespace(segmenter=BlobSegmenter()))

    def run(*arguments: Any) -> Result:
        return CliRunner().invoke(app, [str(a) for a in arguments])

    return run


def test_shards_in_shards_out_and_again(tmp_path: Path, command: Any) -> None:
    inputs = [
        shard(tmp_path / "in" / "a.tar", {"sa_1.png": encoded(1), "sa_2.png": encoded(2)}),
        shard(tmp_path / "in" / "b.tar", {"sa_3.png": encoded(3), "sa_4.jpg": b"no picture"}),
    ]
    arguments = ("everything", *inputs, "-o", tmp_path / "out", "--format", "sa1b-shards", *ARGUMENTS)
    result = command(*arguments)
    assert result.exit_code == 1 and "2 shards, 3 photos, " in result.stdout, result.output
    assert f"{inputs[1]}/sa_4.jpg: " in result.stderr and "1 of 4 photos failed" in result.stderr
    assert "b.errors.json" not in result.stdout and "*.errors.json" in result.stderr
    assert list(json.loads((tmp_path / "out" / "b.errors.json").read_text())) == [f"{inputs[1]}/sa_4.jpg"]
    assert list(members(tmp_path / "out" / "a.tar")) == ["sa_1.png", "sa_1.json", "sa_2.png", "sa_2.json"]
    again = command(*arguments)
    assert again.exit_code == 1 and "2 shards (2 were done before), 3 photos (3 were done before), " in again.stdout
    good = command("everything", inputs[0], *arguments[3:])
    assert good.exit_code == 0 and not (tmp_path / "out" / "overlays").exists()
    back = command("convert", tmp_path / "out", "--to", "parquet", "-o", tmp_path / "tables")
    assert back.exit_code == 0 and "3 photos" in back.stdout
    assert [p.masks for p in read_masks(tmp_path / "tables")] == [p.masks for p in read_masks(tmp_path / "out")]


def test_tiles(tmp_path: Path, command: Any) -> None:
    Image.fromarray(blobby_photo(3, (200, 260))).save(tmp_path / "a.tif", compression="tiff_lzw")
    tiles = ("--tile", 128, "--overlap", 32)
    result = command("everything", tmp_path / "a.tif", "-o", tmp_path / "out", *tiles, *ARGUMENTS)
    assert result.exit_code == 0, result.output
    (photo,) = read_masks(tmp_path / "out")
    crops = {mask.crop_xywh for mask in photo.masks}
    assert photo.hw == (200, 260) and len(crops) > 3 and max(c[0] for c in crops if c) == 132
    assert (tmp_path / "out" / "overlays" / "a.jpg").is_file()


def test_frames_of_a_video(tmp_path: Path, command: Any) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (80, 64))
    for i in range(5):
        writer.write(blobby_photo(i, (64, 80)))
    writer.release()
    result = command("everything", tmp_path / "clip.avi", "-o", tmp_path / "out", "--every", 2, *ARGUMENTS)
    assert result.exit_code == 0 and "3 photos, " in result.stdout, result.output
    assert sorted(p.name for p in (tmp_path / "out").glob("*.json")) == [f"clip_{i:06d}.json" for i in (0, 2, 4)]
    shards = command("everything", tmp_path, "-o", tmp_path / "s", "-f", "sa1b-shards", "--every", 2, *ARGUMENTS)
    assert shards.exit_code == 0 and len(members(tmp_path / "s" / "clip.tar")) == 6


def test_equal_names_are_told_when_converting(tmp_path: Path, command: Any) -> None:
    photos = [{"id": i, "width": 5, "height": 4, "file_name": f"{f}/a.jpg"} for i, f in enumerate(("x", "y"), 1)]
    (tmp_path / "a.json").write_text(json.dumps({"images": photos, "annotations": []}))
    result = command("convert", tmp_path / "a.json", "--to", "sa1b", "-o", tmp_path / "out")
    assert result.exit_code == 0 and "1 photos share a name" in result.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a-2.json", "a.json"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--engine", "spark"], OptionError, "Known: local, ray"),
        (["--workers", "0"], InputError, "--workers must be 1 or more"),
        (["--threads", "0"], InputError, "--threads must be 1 or more"),
        (["--every", "0"], InputError, "--every must be 1 or more"),
        (["--ray-address", "auto"], InputError, "add that"),
        (["--tile", "5"], OptionError, "--tile must be"),
        (["--tile", "128", "--overlap", "100"], OptionError, "half a tile"),
        (["--format", "sa1b-shards", "--overlays"], InputError, "leave --overlays out"),
    ],
)
def test_bad_options(tmp_path: Path, command: Any, arguments: list, error: type, message: str) -> None:
    (tmp_path / "a.png").write_bytes(encoded(1))
    result = command("everything", tmp_path / "a.png", "-o", tmp_path / "out", *arguments)
    assert isinstance(result.exception, error) and message in str(result.exception)


@pytest.mark.parametrize(
    ("missing", "arguments", "line"),
    [("ray", ["--engine", "ray"], "anymask[ray]"), ("pyarrow", ["--format", "parquet"], "anymask[parquet]")],
)
def test_a_missing_part_is_named_with_its_line(
    missing: str, arguments: list, line: str, tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, missing, None)
    (tmp_path / "a.png").write_bytes(encoded(1))
    result = command("everything", tmp_path / "a.png", "-o", tmp_path / "out", *arguments)
    assert isinstance(result.exception, MissingExtraError) and f"pip install '{line}'" in str(result.exception)


def test_progress_lines_tell_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    source = PhotoSource("a.png", Path("a.png"), "a")
    with Bar(1000) as bar:
        bar.skip(400, 400)  # done before: counts for the share, not for the rate
        now[0] += 20
        bar.step(Outcome(source, 3), 50)
        assert capsys.readouterr().err == ""  # too early for a line
        now[0] += 20
        bar.step(Outcome(source, error="is broken."), 50)
    told, line = capsys.readouterr().err.splitlines()
    assert told == "anymask: a.png: is broken."
    assert line == "anymask: photos 402, 1 failed (50%), 180 photos/h, 3 min 20 s left"


def test_durations() -> None:
    seconds = (7, 67, 3660, 90000, 4 * 86400 + 3700)
    assert [duration(s) for s in seconds] == ["7 s", "1 min 7 s", "1 h 1 min", "25 h 0 min", "4 d 1 h"]
