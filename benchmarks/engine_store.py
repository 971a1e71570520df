"""The store on SQLite with a million masks: open a project, next task, save a mask, report, its page; beside the goals.

    python benchmarks/engine_store.py [--masks 1000000] [--folder DIR]

The store is built in a temporary folder with bulk inserts and removed at the end; ~200 bytes a mask.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sqlalchemy import insert

from anymask.core.rle import encode_one
from anymask.engine.leases import next_task, save_masks
from anymask.engine.records import NewMask
from anymask.engine.report import make_report, status
from anymask.engine.report_page import write_report
from anymask.engine.store import Store, make_store, open_store
from anymask.engine.tables import images, masks, tasks

HW = (480, 640)
MASKS_PER_IMAGE = 50
NUM_ANNOTATIONS = 200
GOALS_MS = {"open a project": 1000, "next task": 30, "save a mask": 30, "report": 10_000, "report page": 10_000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--masks", type=int, default=1_000_000)
    parser.add_argument("--folder", help="where the temporary folder is made")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        place = Path(folder) / "store.db"
        started = time.perf_counter()
        build(place, options.masks)
        size = place.stat().st_size / 2**20
        print(f"{options.masks:,} masks built in {time.perf_counter() - started:.0f} s, {size:,.0f} MiB")
        for name, values in measure(place).items():
            goal = f"goal {GOALS_MS[name]:,} ms" if name in GOALS_MS else ""
            print(f"{name:>16}: median {statistics.median(values):9.2f} ms, worst {max(values):9.2f} ms  {goal}")


def build(place: Path, num_masks: int) -> None:
    """A project with masks of all three stages, and as many images again that wait for an annotator."""
    store = make_store(place)
    project = store.project_id()
    round_id = store.current_round(project).id
    num_images = num_masks // MASKS_PER_IMAGE
    rng = np.random.default_rng(0)
    runs = [encode_one(blob(rng))["counts"].encode() for _ in range(100)]
    with store.transaction(writes=True) as connection:
        connection.execute(insert(images), [image_row(project, i + 1) for i in range(2 * num_images)])
        waiting = [task_row(project, round_id, i + 1, num_images) for i in range(2 * num_images)]
        connection.execute(insert(tasks), waiting)
        for start in range(0, num_masks, 50_000):
            rows = [mask_row(project, round_id, i, runs[i % 100]) for i in range(start, min(start + 50_000, num_masks))]
            connection.execute(insert(masks), rows)
    store.close()


def measure(place: Path) -> dict[str, list[float]]:
    """Milliseconds of each step; every save is a transaction that reaches the disk."""
    times: dict[str, list[float]] = {}

    def timed(name: str, call: Callable) -> object:
        started = time.perf_counter()
        result = call()
        times.setdefault(name, []).append(1e3 * (time.perf_counter() - started))
        return result

    def opened() -> Store:
        store = open_store(place)
        store.current_round(store.project_id())
        return store

    store = timed("open a project", opened)
    assert isinstance(store, Store)
    project = store.project_id()
    mask = encode_one(blob(np.random.default_rng(1)))
    for _ in range(NUM_ANNOTATIONS):
        lease = timed("next task", lambda: next_task(store, project, "anna"))
        new = [NewMask(mask, "anna", seconds=14.0)]
        timed("save a mask", lambda lease=lease, new=new: save_masks(store, lease, new))
        save_masks(store, lease, [], finish=True)
    for _ in range(3):
        timed("status", lambda: status(store, project))
        timed("report", lambda: make_report(store, project))
        timed("report page", lambda: write_report(store, project, "bench", place.with_suffix(".html")))
    store.close()
    return times


def blob(rng: np.random.Generator) -> np.ndarray:
    """An ellipse somewhere, (H, W) bool."""
    y, x = np.mgrid[: HW[0], : HW[1]]
    cy, cx, ry, rx = rng.uniform((60, 80, 20, 20), (420, 560, 90, 120))
    return ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1


def image_row(project: int, number: int) -> dict:
    height, width = HW
    return {
        "project_id": project,
        "place": f"/photos/{number:07d}.jpg",
        "sha256": f"{number:064x}",
        "num_bytes": 200_000,
        "height": height,
        "width": width,
        "added_at": 0.0,
    }


def task_row(project: int, round_id: int, number: int, num_done: int) -> dict:
    return {
        "project_id": project,
        "image_id": number,
        "round_id": round_id,
        "kind": "annotate",
        "stage": 1,
        "priority": 0,
        "state": "done" if number <= num_done else "open",
        "num_leases": 0,
        "created_at": 0.0,
    }


def mask_row(project: int, round_id: int, index: int, counts: bytes) -> dict:
    by_person = index % 3 != 2
    return {
        "project_id": project,
        "image_id": index // MASKS_PER_IMAGE + 1,
        "round_id": round_id,
        "version": 1,
        "is_current": True,
        "state": ("proposed", "accepted", "rejected")[index % 7 % 3],
        "stage": 1 + index % 3,
        "author_kind": "person" if by_person else "model",
        "author": "anna" if by_person else "m1",
        "rle": counts,
        "num_px": 1000,
        "seconds": 14.0 if by_person else None,
        "created_at": 0.0,
    }


if __name__ == "__main__":
    main()
