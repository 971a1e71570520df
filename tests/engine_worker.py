"""A process that works for the store, for tests that kill it or take its disk: `engine_worker.py DB WORKER MODE`.

Modes: `work` saves 3 masks for each task, naming each finished image on stdout; `halfway` stops
in the middle of its first save; both say "ready" and wait for a line. `fill` saves until the disk is full.
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np

from anymask.core.errors import LeaseError, StoreError
from anymask.core.rle import encode_one
from anymask.engine import leases
from anymask.engine.leases import next_task, save_masks
from anymask.engine.records import NewMask
from anymask.engine.store import open_store


def some_masks(hw: tuple[int, int], author: str, num: int, key: str) -> list[NewMask]:
    masks = []
    for index in range(num):
        mask = np.zeros(hw, dtype=bool)
        mask[index : index + 4, 2:9] = True
        masks.append(NewMask(encode_one(mask), author, seconds=2.0, save_key=f"{key}-{index}"))
    return masks


def main() -> None:
    place, worker, mode = sys.argv[1:]
    store = open_store(place)
    project = store.project_id()
    if mode == "fill":
        fill(store, project, worker)
        return
    print("ready", flush=True)
    sys.stdin.readline()
    if mode == "halfway":
        leases._finish = stay  # the last step of a save that finishes its task
    while lease := next_task(store, project, worker, lease_seconds=1.0):
        hw = store.image(lease.image_id).hw
        assert hw is not None
        try:
            save_masks(store, lease, some_masks(hw, worker, 3, f"task{lease.task_id}"), finish=True)
        except LeaseError:
            continue  # on a busy machine the second was over before the save
        print(lease.image_id, flush=True)


def stay(*_: object) -> None:
    print("masks are written, the task is not done", flush=True)
    time.sleep(600)


def fill(store, project: int, worker: str) -> None:
    """Prints how many masks were saved before the file might grow no further."""
    lease = next_task(store, project, worker)
    assert lease is not None
    hw = store.image(lease.image_id).hw
    assert hw is not None
    noise = np.random.default_rng(0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
    num = 0
    try:
        while num < 2000:
            save_masks(store, lease, [NewMask(encode_one(noise.random(hw) > 0.5), worker, save_key=str(num))])
            num += 1
    except StoreError as error:
        print(error, file=sys.stderr)
        print(num)


if __name__ == "__main__":
    main()
