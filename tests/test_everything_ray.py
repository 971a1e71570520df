"""Proves: on Ray every shard is written exactly once, also when a worker is killed; and nothing of Ray is left behind.

Ray runs in a process of its own, with a home of its own, and none of its processes outlives that.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from shard_tools import encoded, members, shard
from worker_doubles import Squares

from anymask.core.errors import OptionError
from anymask.predict.everything import Plan, prepare, segment_here
from anymask.predict.options import AutomaticOptions
from anymask.predict.ray_engine import RaySettings, ray_cluster
from anymask.predict.shards import find_shards, segment_shards

HERE = Path(__file__).parent


def ray_processes() -> set[int]:
    """Ray's own processes, by their command lines."""
    found = set()
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                line = (place / "cmdline").read_bytes()
            except OSError:
                continue
            if b"ray::" in line or b"/ray/core/" in line or b"ray/_private" in line:
                found.add(int(place.name))
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos and shards for each of the runs, and what came of them; `told` holds what was reported."""
    base = tmp_path_factory.mktemp("ray")
    shard(base / "kill" / "a.tar", {f"sa_{i}.png": encoded(10 * i) for i in range(8)})
    second = {"sa_100.png": encoded(100), "bad.jpg": b"no picture", "sa_101.png": encoded(101)}
    shard(base / "kill" / "b.tar", second)
    shard(base / "poison" / "x.tar", {"a.png": encoded(1), "white.png": encoded(255), "b.png": encoded(2)})
    shard(base / "no_weights" / "x.tar", {"a.png": encoded(1)})
    (base / "files").mkdir()
    for i in range(3):
        (base / "files" / f"{i}.png").write_bytes(encoded(i))
    before = ray_processes()
    short = tempfile.mkdtemp(prefix="ray")  # Ray's socket names must fit into 107 bytes
    env = {**os.environ, "HOME": str(base), "RAY_TMPDIR": short, "PYTHONPATH": str(HERE)}
    # other programs on a busy machine should neither stop nor kill the workers
    env |= {"RAY_worker_niceness": "0", "RAY_memory_monitor_refresh_ms": "0"}
    command = [sys.executable, str(HERE / "ray_run.py"), str(base)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    try:
        out, err = process.communicate(timeout=600)  # a fraction of it where nobody else needs the processors
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # Ray is shut down on the way out
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()  # its Ray ends with it
    shutil.rmtree(short, ignore_errors=True)
    assert process.returncode == 0, err[-3000:]
    (base / "told").write_text(out.splitlines()[-1])
    give_up = time.monotonic() + 20
    while ray_processes() - before and time.monotonic() < give_up:
        time.sleep(0.1)
    assert not ray_processes() - before, "Ray left processes behind"
    return base


def told(base: Path, mode: str) -> Any:
    return json.loads((base / "told").read_text())[mode]


def expected(shards: list[Path], tmp_path: Path) -> dict[str, bytes]:
    """The output shards of a run without Ray."""
    plan = Plan(tmp_path / "straight", "sa1b_shards", AutomaticOptions(), "squares", overlays=False)
    prepare(plan)
    found = find_shards(shards, plan)
    outcomes = segment_here(Squares(), (s for one in found for s in one.photos()), plan)  # type: ignore[arg-type]
    list(segment_shards(found, plan, outcomes))
    return {p.name: p.read_bytes() for p in plan.folder.glob("*.tar")}


def test_a_killed_worker_changes_nothing(base: Path, tmp_path: Path) -> None:
    reports, shards, out = told(base, "kill"), [base / "kill" / "a.tar", base / "kill" / "b.tar"], base / "kill-out"
    assert reports["a"] == [8, 8, {}]
    assert reports["b"][:2] == [2, 2] and list(reports["b"][2]) == [f"{shards[1]}/bad.jpg"]
    assert {p.name: p.read_bytes() for p in out.glob("*.tar")} == expected(shards, tmp_path)
    left = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    assert left == [".anymask/a.shard.json", ".anymask/b.shard.json", "a.tar", "b.errors.json", "b.tar"]


def test_only_the_photo_of_the_killed_worker_is_done_again(base: Path) -> None:
    begun = [line.split() for line in (base / "log" / "begun").read_text().splitlines()]
    pid, photo = (base / "log" / "killed").read_text().split()
    by_photo = Counter(value for _, value in begun)
    assert by_photo.pop(photo) == 2 and set(by_photo.values()) == {1} and len(by_photo) == 9
    assert len({worker for worker, _ in begun}) == 3  # two, and one for the one that was killed
    assert [worker for worker, value in begun if value == photo].count(pid) == 1


def test_a_photo_that_always_kills_is_given_up(base: Path) -> None:
    (num_photos, _, errors) = told(base, "poison")["x"]
    ((name, reason),) = errors.items()
    assert num_photos == 2 and name.endswith("/x.tar/white.png") and "2 workers died" in reason
    assert list(members(base / "poison-out" / "x.tar")) == ["a.png", "a.json", "b.png", "b.json"]


def test_photos_that_are_files(base: Path) -> None:
    assert told(base, "files") == {"photos": ["0", "1", "2"]}


def test_a_model_that_does_not_load_ends_the_run(base: Path) -> None:
    assert told(base, "no_weights") == {"error": "CheckpointError: there are no weights"}


def test_bad_settings() -> None:
    with pytest.raises(OptionError, match="--workers must be 1 or more"), ray_cluster(RaySettings(0)):
        pass
