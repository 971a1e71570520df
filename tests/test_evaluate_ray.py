"""Proves: an evaluation on Ray has the rows it has here, survives a worker that dies, and names a case that kills.

Ray runs in a process of its own, with a home of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_evaluate import photo_with

from anymask.cli.evaluate_shared import workforce
from anymask.core.errors import OptionError
from anymask.data.shards import write_shard
from anymask.evaluate.points import PointProtocol, Points
from anymask.evaluate.runner import run_task
from anymask.predict.ray_engine import RaySettings

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the runs left; `told` holds what they reported."""
    pytest.importorskip("ray")
    base = tmp_path_factory.mktemp("ray")
    rng = np.random.default_rng(0)
    photos = []
    for i in range(3):
        image = rng.integers(0, 90, (60, 80, 3), dtype=np.uint8)
        disc = np.hypot(*(np.mgrid[:60, :80] - np.array([30, 30 + 5 * i])[:, None, None])) < 14
        image[disc] = 220
        photos.append(photo_with([disc], image, f"p{i}", "discs"))
    write_shard(photos, base / "set" / "discs-000.tar")
    short = tempfile.mkdtemp(prefix="ray")  # Ray's socket names must fit into 107 bytes
    env = {**os.environ, "HOME": str(base), "RAY_TMPDIR": short}
    env["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    env |= {"RAY_worker_niceness": "0", "RAY_memory_monitor_refresh_ms": "0"}
    command = [sys.executable, str(HERE / "ray_evaluation.py"), str(base)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=base)
    try:
        out, err = process.communicate(timeout=400)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # Ray is shut down on the way out
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        shutil.rmtree(short, ignore_errors=True)
    assert process.returncode == 0, err[-3000:]
    return base


def told(base: Path) -> Any:
    return json.loads((base / "told").read_text())


def test_a_worker_that_dies_costs_its_case_at_most(base: Path) -> None:
    result = told(base)
    assert result["summary"] == {"sum": 2 * (1 + 2 + 7 + 5)}
    killed = "2 workers died on it, perhaps for lack of memory."
    assert result["failed"] == {"n-3": "it is negative.", "n13": killed}
    begun = (base / "log").read_text().split()  # a relative path, where the workers are
    assert {n: begun.count(f"n{n}") for n in (1, 2, -3, 7, 13, 5)} == {1: 1, 2: 1, -3: 1, 7: 2, 13: 2, 5: 1}
    rows = [json.loads(line) for line in (base / "out" / "results.jsonl").read_text().splitlines()]
    assert {row["case"] for row in rows if "error" in row} == {"n-3", "n13"} and len(rows) == 6


def test_an_error_that_every_case_meets_ends_the_run(base: Path) -> None:
    assert told(base)["error"] == "there are no weights"


def test_the_rows_are_those_of_a_run_here(base: Path) -> None:
    code, output = told(base)["command"]
    assert code == 0 and "3 scored, 0 failed" in output
    outcome = run_task(Points([base / "set"], "grabcut", PointProtocol(clicks=(1,))))
    result = json.loads((base / "points" / "summary.json").read_text())
    assert result["sets"] == outcome.summary["sets"] and result["mean"]["clicks_1"] > 50


def test_who_works() -> None:
    assert workforce(3, "local", None) == 3
    made = workforce(2, "ray", "host:6379")
    assert made == RaySettings(2, "host:6379", 1, num_gpus=0)
    assert workforce(2, "ray", None, "cuda") == RaySettings(2, None, max(1, (os.cpu_count() or 1) // 2))
    with pytest.raises(OptionError, match="--engine ray"):
        workforce(1, "local", "auto")
    with pytest.raises(OptionError, match="local"):
        workforce(1, "raj", None)
