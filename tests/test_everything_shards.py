"""Proves: tar shards become tar shards, each whole and exactly once, whatever is broken, killed, or run again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shard_tools import encoded, members, shard
from worker_doubles import Squares

from anymask.core.errors import InputError
from anymask.core.rle import decode_one
from anymask.data.readers.sa1b import read_sa1b_tar
from anymask.predict.everything import Outcome, Plan, prepare, segment_here
from anymask.predict.formats import read_masks, recognise, write_masks
from anymask.predict.options import AutomaticOptions
from anymask.predict.shards import ShardReport, done_before, find_shards, photos_in, segment_shards
from anymask.predict.workers import segment_in_workers


class Counting(Squares):
    """Counts the photos it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.num = 0

    def generate(self, image: np.ndarray, **options: Any) -> list[dict[str, Any]]:
        self.num += 1
        return super().generate(image, **options)


def plan_in(folder: Path, model: str = "squares") -> Plan:
    return Plan(folder, "sa1b_shards", AutomaticOptions(), model, overlays=False)


def run(places: list[Path], plan: Plan, generator: Any = None, num_workers: int = 0) -> list[ShardReport]:
    """A whole run, as the command does it; in the order of the shards' names."""
    prepare(plan)
    shards = find_shards(places, plan)
    reports = [done_before(s, plan) for s in shards]
    todo = [s for s, report in zip(shards, reports) if report is None]
    if num_workers:
        outcomes = segment_in_workers(generator, photos_in(todo), plan, num_workers)
    else:
        outcomes = segment_here(generator or Squares(), photos_in(todo), plan)
    answers = segment_shards(todo, plan, outcomes)
    written = [a for a in answers if isinstance(a, ShardReport)]
    return sorted([r for r in reports if r is not None] + written, key=lambda r: r.shard.stem)


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    """Two shards of three photos and one; the first has a JSON file and a folder in it, too."""
    first = {f"./sa_{i}.jpg": encoded(20 * i, "JPEG") for i in (1, 2, 3)}
    return [
        shard(tmp_path / "in" / "sa_000000.tar", {**first, "./sa_1.json": b"{}"}),
        shard(tmp_path / "in" / "sa_000001.tar", {"deep/sa_9.png": encoded(90)}),
    ]


def test_shards_come_out_as_sa1b_ships_them(two: list[Path], tmp_path: Path) -> None:
    reports = run(two, plan_in(tmp_path / "out"))
    assert [(r.num_photos, r.num_masks, r.errors, r.skipped) for r in reports] == [(3, 3, {}, False), (1, 1, {}, False)]
    first, second = members(tmp_path / "out" / "sa_000000.tar"), members(tmp_path / "out" / "sa_000001.tar")
    assert list(first) == [f"sa_{i}.{s}" for i in (1, 2, 3) for s in ("jpg", "json")]
    assert first["sa_2.jpg"] == members(two[0])["./sa_2.jpg"] and list(second) == ["sa_9.png", "sa_9.json"]
    content = json.loads(first["sa_2.json"])
    assert content["image"] == {"image_id": 2, "width": 15, "height": 12, "file_name": "sa_2.jpg"}
    assert decode_one(content["annotations"][0]["segmentation"]).sum() == 9
    left = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file())
    states = [f".anymask/sa_00000{i}.shard.json" for i in (0, 1)]
    assert left == [*states, "sa_000000.tar", "sa_000001.tar"]


def test_sa1b_readers_read_them(two: list[Path], tmp_path: Path) -> None:
    run(two, plan_in(tmp_path / "out"))
    path = tmp_path / "out" / "sa_000000.tar"
    problems: list[Any] = []
    photos = list(read_sa1b_tar(path, problems))
    assert [(p.name, len(p.rles)) for p in photos] == [("sa_1", 1), ("sa_2", 1), ("sa_3", 1)] and not problems
    assert recognise(path) == recognise(path.parent) == "sa1b_shards"
    assert [p.file_name for p in read_masks(path)] == ["sa_1.jpg", "sa_2.jpg", "sa_3.jpg"]
    assert len(read_masks(path.parent)) == 4
    with pytest.raises(InputError, match="cannot be made from masks alone"):
        write_masks(read_masks(path), tmp_path / "again", "sa1b-shards")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves its files open
def test_webdataset_streams_them(two: list[Path], tmp_path: Path) -> None:
    import webdataset

    run(two, plan_in(tmp_path / "out"))
    stream = webdataset.WebDataset(str(tmp_path / "out" / "sa_000000.tar"), shardshuffle=False).decode("rgb8")
    assert [(s["__key__"], s["jpg"].shape, len(s["json"]["annotations"])) for s in stream] == [
        (f"sa_{i}", (12, 15, 3), 1) for i in (1, 2, 3)
    ]


def test_finished_shards_are_left_alone(two: list[Path], tmp_path: Path) -> None:
    plan, counting = plan_in(tmp_path / "out"), Counting()
    run(two, plan, counting)
    before = [(tmp_path / "out" / p.name).stat().st_mtime_ns for p in two]
    os.utime(two[1])  # another time, the same content
    again = run(two, plan, counting)
    assert [(r.skipped, r.num_photos, r.num_masks) for r in again] == [(True, 3, 3), (True, 1, 1)]
    assert counting.num == 4 and before == [(tmp_path / "out" / p.name).stat().st_mtime_ns for p in two]
    shard(two[1], {"sa_9.png": encoded(91)})  # other content
    assert [r.skipped for r in run(two, plan, counting)] == [True, False] and counting.num == 5
    assert [r.skipped for r in run(two, plan_in(tmp_path / "out", "other weights"), counting)] == [False, False]
    (tmp_path / "out" / "sa_000000.tar").unlink()
    assert [r.skipped for r in run(two, plan_in(tmp_path / "out", "other weights"), counting)] == [False, True]


def test_a_bad_photo_and_a_corrupt_tar_are_reported(two: list[Path], tmp_path: Path) -> None:
    bad = shard(tmp_path / "in" / "bad.tar", {"a.png": encoded(1), "b.jpg": b"no picture", "c.png": encoded(3)})
    cut = shard(tmp_path / "in" / "cut.tar", {"a.png": encoded(1), "b.png": encoded(2), "c.png": encoded(3)})
    cut.write_bytes(cut.read_bytes()[: 3 * 512 + 20])
    noise = tmp_path / "in" / "noise.tar"
    noise.write_bytes(b"not a tar" * 300)
    empty = shard(tmp_path / "in" / "empty.tar", {"readme.txt": b"no photos"})
    missing = tmp_path / "in" / "missing.tar"
    out = tmp_path / "out"
    reports = {r.shard.stem: r for r in run([bad, cut, noise, empty, missing, *two], plan_in(out))}
    assert {s: r.num_photos for s, r in reports.items()} == {
        "bad": 2, "cut": 1, "noise": 0, "empty": 0, "missing": 0, "sa_000000": 3, "sa_000001": 1
    }  # fmt: skip
    (reason,) = json.loads((out / "bad.errors.json").read_text()).items()
    assert reason[0] == f"{bad}/b.jpg" and "not an image" in reason[1]
    assert list(members(out / "bad.tar")) == ["a.png", "a.json", "c.png", "c.json"]
    assert list(members(out / "cut.tar")) == ["a.png", "a.json"]
    told = {s: " ".join(r.errors.values()) for s, r in reports.items()}
    assert "cut off" in told["cut"] or "no readable tar" in told["cut"]
    assert "no readable tar" in told["noise"] and "no photo" in told["empty"] and "does not exist" in told["missing"]
    assert not [s for s in ("noise", "empty", "missing") if (out / f"{s}.tar").exists()]
    again = run([bad, noise, *two], plan_in(out))
    assert all(r.skipped for r in again) and sum(len(r.errors) for r in again) == 2
    (out / "bad.errors.json").unlink()  # to have it tried again
    shard(bad, {"a.png": encoded(1), "b.png": encoded(2)})
    assert [r.errors for r in run([bad], plan_in(out))] == [{}] and not (out / "bad.errors.json").exists()


def test_a_run_killed_in_a_shard_does_no_photo_twice(two: list[Path], tmp_path: Path) -> None:
    straight = plan_in(tmp_path / "straight")
    run(two, straight)
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_everything_shards as t, os, signal
from pathlib import Path
class Dies(t.Counting):
    def generate(self, image, **options):
        if self.num == 2: os.kill(os.getpid(), signal.SIGKILL)
        return super().generate(image, **options)
t.run([Path(p) for p in {list(map(str, two))!r}], t.plan_in(Path({str(tmp_path / "out")!r})), Dies())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not list((tmp_path / "out").glob("*.tar"))
    counting = Counting()
    run(two, plan_in(tmp_path / "out"), counting)
    assert counting.num == 2
    for path in two:
        assert (tmp_path / "out" / path.name).read_bytes() == (tmp_path / "straight" / path.name).read_bytes()


def test_killed_between_the_shard_and_its_note(
    two: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anymask.predict import shards as module

    out, counting = tmp_path / "out", Counting()
    original = module.write_json

    def killed(content: Any, path: Path) -> Path:
        if path.name.endswith(".shard.json"):
            raise KeyboardInterrupt
        return original(content, path)

    monkeypatch.setattr(module, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        run(two[:1], plan_in(out), counting)
    first = (out / two[0].name).read_bytes()
    monkeypatch.undo()
    (report,) = run(two[:1], plan_in(out), counting)
    assert (report.skipped, report.num_photos, counting.num) == (False, 3, 3)
    assert (out / two[0].name).read_bytes() == first


def test_a_killed_worker_changes_nothing(tmp_path: Path) -> None:
    photos = {f"p{i}.png": encoded(255 if i == 2 else 10 * i) for i in range(6)}  # white kills, once
    path = shard(tmp_path / "in" / "x.tar", photos)
    marker = tmp_path / "killed"
    run([path], plan_in(tmp_path / "workers"), partial(Squares, marker), num_workers=2)
    assert marker.exists()
    run([path], plan_in(tmp_path / "here"), Squares(marker))
    assert (tmp_path / "workers" / "x.tar").read_bytes() == (tmp_path / "here" / "x.tar").read_bytes()


def test_an_outcome_that_comes_twice_counts_once(two: list[Path], tmp_path: Path) -> None:
    plan = plan_in(tmp_path / "out")
    prepare(plan)
    shards = find_shards(two, plan)
    outcomes = list(segment_here(Squares(), photos_in(shards), plan))  # type: ignore[arg-type]
    doubled = [o for o in outcomes for _ in range(2)]
    answers = list(segment_shards(shards, plan, doubled))
    assert sum(isinstance(a, Outcome) for a in answers) == 4 and sum(isinstance(a, ShardReport) for a in answers) == 2


def test_equal_names_do_not_overwrite(tmp_path: Path) -> None:
    a = shard(tmp_path / "a" / "x.tar", {"p.png": encoded(1), "deep/p.png": encoded(2)})
    b = shard(tmp_path / "b" / "x.tar", {"p.png": encoded(3)})
    plan = plan_in(tmp_path / "out")
    run([a, b], plan)
    assert list(members(tmp_path / "out" / "x.tar")) == ["p.png", "p.json", "p-2.png", "p-2.json"]
    assert members(tmp_path / "out" / "x-2.tar")["p.png"] == encoded(3)
    c = shard(tmp_path / "c" / "x.tar", {"p.png": encoded(4)})  # in a later run
    run([c], plan)
    assert sorted(p.name for p in (tmp_path / "out").glob("*.tar")) == ["x-2.tar", "x-3.tar", "x.tar"]
    assert [r.skipped for r in run([b], plan)] == [True]
    with pytest.raises(InputError, match="would be overwritten"):
        run([tmp_path / "out" / "x.tar"], plan)


def test_photos_of_a_folder_are_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anymask.predict.shards.PHOTOS_PER_SHARD", 2)
    (tmp_path / "cats").mkdir()
    for i in range(3):
        (tmp_path / "cats" / f"{i}.png").write_bytes(encoded(i))
    run([tmp_path / "cats"], plan_in(tmp_path / "out"))
    found = {p.name: len(members(p)) for p in sorted((tmp_path / "out").glob("*.tar"))}
    assert found == {"cats_000000.tar": 4, "cats_000001.tar": 2}
