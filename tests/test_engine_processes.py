"""Proves: killed processes and a full disk leave what was saved before, whole; work goes on where it stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from engine_worker import some_masks
from sqlalchemy import func, select, text
from test_engine_store import HW, count_masks, fill, place, server, store  # noqa: F401 - fixtures

from anymask.core.rle import encode_one
from anymask.engine.leases import add_tasks, next_task, save_masks
from anymask.engine.records import NewImage, NewMask
from anymask.engine.report import status
from anymask.engine.store import Store, make_store
from anymask.engine.tables import masks, tasks

WORKER = Path(__file__).with_name("engine_worker.py")


def start(database: str, worker: str, mode: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(WORKER), database, worker, mode]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str], kill: bool) -> list[str]:
    """Lines that were not read yet."""
    if kill:
        process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if kill else 0)
    return rest.split()


def test_a_worker_killed_in_the_middle_of_saving_leaves_nothing_half(store: Store, place: str) -> None:  # noqa: F811
    project, (image_id,) = fill(store, 1)
    worker = start(place, "anna", "halfway")
    assert read_line(worker) == "ready"
    print("go", file=worker.stdin, flush=True)
    assert read_line(worker) == "masks are written, the task is not done"
    end(worker, kill=True)
    assert count_masks(store) == 0
    lease = next_task(store, project, "anna")
    assert lease.image_id == image_id
    save_masks(store, lease, some_masks(HW, "anna", 3, "again"), finish=True)
    assert count_masks(store) == 3


def test_killed_workers_lose_and_double_nothing(store: Store, place: str) -> None:  # noqa: F811
    project, ids = fill(store, 250)
    finished: list[int] = []
    for turn in range(3):  # killed somewhere in their work, twice; the third pair finishes
        pair = [start(place, f"w{turn}{i}", "work") for i in range(2)]
        for worker in pair:
            assert read_line(worker) == "ready"
        for worker in pair:
            print("go", file=worker.stdin, flush=True)
        if turn < 2:
            time.sleep(0.2)
        for worker in pair:
            finished += [int(line) for line in end(worker, kill=turn < 2)]
        assert turn == 2 or 0 < len(finished) < len(ids)
    time.sleep(1.1)  # the killed held theirs for a second
    while lease := next_task(store, project, "last", lease_seconds=5.0):
        save_masks(store, lease, some_masks(HW, "last", 3, f"task{lease.task_id}"), finish=True)
    assert status(store, project).tasks == {"annotate": {"done": 250}}
    with store.transaction() as connection:
        per_task = select(masks.c.task_id, func.count()).group_by(masks.c.task_id)
        counts = {task_id: num for task_id, num in connection.execute(per_task)}
        done = set(connection.scalars(select(tasks.c.image_id).where(tasks.c.state == "done")))
    assert set(counts.values()) == {3}, "a task's masks are all there, once"
    assert len(counts) == 250 and done == set(ids)
    assert len(finished) == len(set(finished)), "no image was finished twice"


def test_a_full_disk_is_told_and_keeps_what_was_saved(tmp_path: Path) -> None:
    database = str(tmp_path / "store.db")
    kept = make_store(database)
    project = kept.project_id()
    ids, _ = kept.add_images(project, [NewImage("/photos/noise.png", "0" * 64, 10, (120, 160))])
    add_tasks(kept, project, ids)
    kept.close()
    done = subprocess.run([sys.executable, str(WORKER), database, "anna", "fill"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "The disk is full or not writable" in done.stderr
    assert int(done.stdout) > 0
    assert count_masks(kept) == int(done.stdout)
    lease = next_task(kept, project, "anna")
    noise = NewMask(encode_one(np.eye(120, 160, dtype=bool)), "anna")
    save_masks(kept, lease, [noise])  # with room again, work goes on
    with kept.transaction() as connection:
        assert connection.execute(text("PRAGMA integrity_check")).scalar() == "ok"
    kept.close()
