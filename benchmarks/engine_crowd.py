"""20 annotators and 2 workers on one PostgreSQL for 2 minutes: nothing lost or doubled, no deadlock; with times.

    python benchmarks/engine_crowd.py [--seconds 120] [--url postgresql://…] [--sqlite]

Starts a PostgreSQL server of its own (Debian's package) unless a URL of an empty database is given. Annotators save
masks one by one, repeat a tenth of the saves as after a lost connection, give tasks back, walk away from some until the
lease has run out, accept, reject, edit and undo. Workers save twenty automatic masks at a time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from sqlalchemy import func, select

from anymask.core.errors import LeaseError, StateError, StoreError
from anymask.core.rle import encode_one
from anymask.engine.leases import add_tasks, next_task, release, save_masks
from anymask.engine.records import Lease, NewImage, NewMask
from anymask.engine.reviews import review, undo
from anymask.engine.store import Store, make_store, open_store
from anymask.engine.tables import masks, reviews, tasks

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from engine_places import postgresql_programs, postgresql_server

HW = (240, 320)
NUM_ANNOTATORS, NUM_WORKERS = 20, 2
NUM_PHOTOS, NUM_AUTOMATIC = 6_000, 1_000
LEASE_SECONDS = 4.0  # short, so that leases run out during the run


@dataclass
class Diary:
    """What one of the crowd did, by its own account."""

    finished: list[int] = field(default_factory=list)  # tasks
    saved: list[tuple[int, str]] = field(default_factory=list)  # task, save key: acknowledged
    times_ms: dict[str, list[float]] = field(default_factory=dict)
    late: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--think", type=float, default=0.08, help="seconds between the masks of one annotator, mean")
    parser.add_argument("--processes", type=int, default=4, help="that the annotators share")
    parser.add_argument("--url", help="an empty database; by default a server of our own")
    parser.add_argument("--sqlite", action="store_true", help="a SQLite file instead")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        place = options.url or str(folder / "store.db")
        if options.url is None and not options.sqlite:
            programs = postgresql_programs()
            if programs is None:
                sys.exit("PostgreSQL is not installed: make database-tools")
            place = stack.enter_context(postgresql_server(programs, folder / "server"))
        fill(place)
        crowd(place, options.seconds, options.think, options.processes)


def fill(place: str) -> None:
    store = make_store(place)
    project = store.project_id()
    photos = [NewImage(f"/photos/{i}.jpg", f"{i:064x}", 1, HW) for i in range(NUM_PHOTOS + NUM_AUTOMATIC)]
    ids, _ = store.add_images(project, photos)
    add_tasks(store, project, ids[:NUM_PHOTOS])
    add_tasks(store, project, ids[NUM_PHOTOS:], "automatic")
    store.close()


def crowd(place: str, seconds: float, think: float, num_processes: int) -> None:
    context = multiprocessing.get_context("spawn")
    names = [f"annotator{i}" for i in range(NUM_ANNOTATORS)]
    groups = [names[i::num_processes] for i in range(num_processes)]
    groups.append([f"worker{i}" for i in range(NUM_WORKERS)])
    ready, start = context.Barrier(len(groups) + 1), time.perf_counter()
    diaries: list[Diary] = []
    with context.Pool(len(groups), initializer=_set_barrier, initargs=(ready,)) as pool:
        running = pool.starmap_async(people, [(place, group, seconds, think) for group in groups], chunksize=1)
        ready.wait(120)
        start = time.perf_counter()
        for part in running.get(seconds + 120):
            diaries += part
    elapsed = time.perf_counter() - start
    report(place, diaries, elapsed)


def _set_barrier(barrier: object) -> None:
    global _ready
    _ready = barrier


def people(place: str, names: list[str], seconds: float, think: float) -> list[Diary]:
    """Several of the crowd in one process, each in a thread."""
    store = open_store(place)
    project, diaries = store.project_id(), [Diary() for _ in names]
    _ready.wait(120)  # type: ignore[name-defined]
    until = time.monotonic() + seconds
    threads = [
        threading.Thread(target=one, args=(store, project, name, until, think, diary))
        for name, diary in zip(names, diaries)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()
    return diaries


def one(store: Store, project: int, name: str, until: float, think: float, diary: Diary) -> None:
    dice = random.Random(name)
    while time.monotonic() < until:
        try:
            if name.startswith("worker"):
                automatic(store, project, name, think, diary)
            elif dice.random() < 0.3:
                look(store, project, name, dice, diary)
            else:
                annotate(store, project, name, dice, think, diary)
        except LeaseError:
            diary.late += 1  # somebody else has it by now: told, and nothing was saved
        except StateError:
            diary.refused += 1
        except StoreError as error:
            diary.failures.append(str(error))


def timed(diary: Diary, what: str, call):
    started = time.perf_counter()
    result = call()
    diary.times_ms.setdefault(what, []).append(1e3 * (time.perf_counter() - started))
    return result


def take(store: Store, project: int, name: str, kind: str, diary: Diary) -> Lease | None:
    lease = timed(diary, "next task", lambda: next_task(store, project, name, kind, lease_seconds=LEASE_SECONDS))
    if lease is None:
        time.sleep(0.05)
    return lease


def annotate(store: Store, project: int, name: str, dice: random.Random, think: float, diary: Diary) -> None:
    lease = take(store, project, name, "annotate", diary)
    if lease is None:
        return
    num = dice.randint(1, 4)
    for i in range(num):
        time.sleep(dice.uniform(0, 2 * think))
        new = [a_mask(name, i, f"{lease.token}-{i}")]
        is_last = i == num - 1
        fate = dice.random()
        if is_last and fate < 0.03:
            time.sleep(dice.uniform(0, 2 * LEASE_SECONDS))  # to lunch, in the middle of it
        elif is_last and fate < 0.08:
            release(store, lease)
            return
        keep = {"finish": is_last, "review": is_last, "seconds": 1.0 if is_last else None}
        timed(diary, "save a mask", lambda keep=keep, new=new: save_masks(store, lease, new, **keep))
        diary.saved.append((lease.task_id, new[0].save_key or ""))
        if is_last:
            diary.finished.append(lease.task_id)
        if fate > 0.9:
            save_masks(store, lease, new, **keep)  # again: the answer was lost


def look(store: Store, project: int, name: str, dice: random.Random, diary: Diary) -> None:
    lease = take(store, project, name, "review", diary)
    if lease is None:
        return
    for mask in store.masks([lease.image_id]):
        fate = dice.random()
        if fate < 0.5:
            timed(diary, "review", lambda mask=mask: review(store, mask.id, "accept", name, seconds=1.0))
        elif fate < 0.7:
            timed(diary, "review", lambda mask=mask: review(store, mask.id, "reject", name))
        else:
            edited = a_mask(name, dice.randint(5, 9), None)
            made = timed(
                diary, "review", lambda mask=mask, edited=edited: review(store, mask.id, "edit", name, edited=edited)
            )
            if fate > 0.9:
                timed(diary, "undo", lambda made=made: undo(store, made, name))
    save_masks(store, lease, [], finish=True)
    diary.finished.append(lease.task_id)


def automatic(store: Store, project: int, name: str, think: float, diary: Diary) -> None:
    lease = take(store, project, name, "automatic", diary)
    if lease is None:
        return
    new = [a_mask(name, i, f"{lease.token}-{i}", "model") for i in range(20)]
    timed(diary, "save 20 masks", lambda: save_masks(store, lease, new, finish=True))
    diary.saved += [(lease.task_id, mask.save_key or "") for mask in new]
    diary.finished.append(lease.task_id)
    time.sleep(think)


def a_mask(name: str, row: int, key: str | None, kind: str = "person") -> NewMask:
    mask = np.zeros(HW, dtype=bool)
    mask[10 * row + 5 : 10 * row + 60, 40:200] = True
    return NewMask(encode_one(mask), name, kind, seconds=1.0 if kind == "person" else None, save_key=key)


def report(place: str, diaries: list[Diary], elapsed: float) -> None:
    store = open_store(place)
    finished = Counter(task for diary in diaries for task in diary.finished)
    acknowledged = Counter(pair for diary in diaries for pair in diary.saved)
    with store.transaction() as connection:
        done = set(connection.scalars(select(tasks.c.id).where(tasks.c.state == "done")))
        query = select(masks.c.task_id, masks.c.save_key).where(masks.c.save_key.is_not(None), masks.c.version == 1)
        kept = Counter((row.task_id, row.save_key) for row in connection.execute(query))
        twice = select(masks.c.parent_id).where(masks.c.parent_id.is_not(None)).group_by(masks.c.parent_id)
        forked = len(connection.execute(twice.having(func.count() > 1)).all())
        num_reviews = connection.scalar(select(func.count()).select_from(reviews))
    store.close()
    failures = [failure for diary in diaries for failure in diary.failures]
    print(f"{store.engine.dialect.name}, {NUM_ANNOTATORS} annotators, {NUM_WORKERS} workers, {elapsed:.0f} s")
    print(f"{len(done):,} tasks finished, {sum(kept.values()):,} masks saved, {num_reviews:,} reviews")
    print(
        f"told, and nothing saved: {sum(d.late for d in diaries):,} times a lease had gone to somebody else, "
        f"{sum(d.refused for d in diaries):,} times a mask had been changed"
    )
    checks = {
        "tasks finished by two": sum(num > 1 for num in finished.values()),
        "finished tasks that are not done": len(finished.keys() - done),
        "done tasks that nobody finished": len(done - finished.keys()),
        "acknowledged masks that are lost": len(acknowledged.keys() - kept.keys()),
        "masks kept twice": sum(num > 1 for num in kept.values()),
        "masks kept that nobody was told of": len(kept.keys() - acknowledged.keys()),
        "versions with two successors": forked,
        "deadlocks and other failures": len(failures),
    }
    for what, num in checks.items():
        print(f"{what:>36}: {num}")
    for name in ("next task", "save a mask", "save 20 masks", "review", "undo"):
        values = np.array([ms for diary in diaries for ms in diary.times_ms.get(name, [])])
        if values.size:
            median, high, worst = np.percentile(values, [50, 99, 100])
            times = f"median {median:.1f} ms, 99 % {high:.1f} ms, worst {worst:.1f} ms"
            print(f"{name:>36}: {values.size:,} times, {times}")
    for failure in failures[:5]:
        print(failure)
    if any(checks.values()):
        sys.exit("something was lost, doubled or failed")


if __name__ == "__main__":
    main()
