"""Proves: stage 3 on Ray makes the masks that it makes here, each photo once, and tells which photos it left out."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from engine_discs import disc_store
from test_engine_loop import FEW

from anymask.engine.automatic import automatic_here, begin_automatic, generator_options
from anymask.engine.models import first_version, load_version
from anymask.engine.report import status
from anymask.engine.stages import remaining_images
from anymask.engine.store import Store

pytest.importorskip("ray")


def masks_of(store: Store, project: int) -> dict[str, list[str]]:
    images = list(store.images(project))
    return {image.sha256: sorted(mask.rle["counts"] for mask in store.masks([image.id])) for image in images}


def test_stage_3_on_ray(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "ray").mkdir()
    store, project, _ = disc_store(tmp_path / "here", 3)
    model = first_version(store, project)
    options = generator_options(load_version(model), **FEW)
    begin_automatic(store, project, remaining_images(store, project), options, model.id)
    automatic_here(store, project, "generator")
    expected = masks_of(store, project)
    store.close()

    store, project, _ = disc_store(tmp_path / "ray", 3)
    gone = store.image(remaining_images(store, project)[1])
    words = ["automatic", str(tmp_path / "ray" / "masks.db"), "--engine", "ray", "--workers", "2"]
    words += [part for name, value in FEW.items() for part in ("--set", f"{name}={value}")]
    Path(gone.place).unlink()
    done = run_with_ray(words, tmp_path)
    assert done.returncode == 1, done.stderr[-3000:]  # of one photo there is nothing to see
    assert f"{gone.place} is gone" in done.stderr and "2 photos done" in done.stdout
    assert status(store, project).tasks == {"generate": {"done": 2, "skipped": 1}}
    found = masks_of(store, project)
    assert found.pop(gone.sha256) == [] and expected.pop(gone.sha256)
    assert found == expected
    store.close()


def run_with_ray(words: list[str], home: Path) -> subprocess.CompletedProcess[str]:
    short = tempfile.mkdtemp(prefix="ray")  # Ray's socket names must fit into 107 bytes
    env = {**os.environ, "HOME": str(home), "RAY_TMPDIR": short}
    env |= {"RAY_worker_niceness": "0", "RAY_memory_monitor_refresh_ms": "0"}
    command = [sys.executable, "-m", "anymask", "engine", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    try:
        out, err = process.communicate(timeout=400)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # Ray is shut down on the way out
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        shutil.rmtree(short, ignore_errors=True)
    return subprocess.CompletedProcess(command, process.returncode, out, err)
