"""Many photos on several processes of one machine: a worker that dies costs only the photo it was working on.

Each worker loads the model once and gets one photo at a time, so a slow photo holds up nobody and nothing piles up.
Outputs and entries are written by the workers as `everything.segment_photo` does: whole or not at all, the entry
last. A photo whose worker was killed is therefore simply given to another one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from anymask.core.errors import AnymaskError, OptionError
from anymask.predict.automatic import SamAutomaticMaskGenerator
from anymask.predict.everything import Outcome, Plan, segment_photo
from anymask.predict.sources import PhotoSource

ATTEMPTS = 2  # a photo that kills two workers is taken to be the reason

Load = Callable[[], SamAutomaticMaskGenerator]


def segment_in_workers(
    load: Load, sources: Iterable[PhotoSource], plan: Plan, num_workers: int, num_threads: int | None = None
) -> Iterator[Outcome]:
    """As `everything.segment_here`, in `num_workers` processes; outcomes as they come.

    load: makes the generator, called in each worker; must pickle. sources: taken one by one when a worker is free.
    num_threads: of each worker; None: the processors shared out. Raises what `load` raises.
    """
    check_workers(num_workers)
    threads = num_threads or max(1, (os.cpu_count() or 1) // num_workers)
    again, deaths = deque[PhotoSource](), Counter[str]()
    fresh = iter(sources)
    workers: list[_Worker] = []

    def upcoming() -> PhotoSource | None:
        return again.popleft() if again else next(fresh, None)

    try:
        while True:
            while len(workers) < num_workers and (source := upcoming()) is not None:
                workers.append(_Worker(load, plan, threads))
                workers[-1].give(source)
            if not workers:
                return
            ready = wait([worker.connection for worker in workers])
            for worker in [w for w in workers if w.connection in ready]:
                outcome = worker.answer()
                source = worker.source
                if outcome is None:  # killed, out of memory, crashed: redo its photo
                    deaths[source.place] += 1
                    if deaths[source.place] < ATTEMPTS:
                        again.append(source)
                    else:
                        reason = f"{ATTEMPTS} workers died on it; the last {worker.how_it_died()}."
                        outcome = Outcome(source, error=reason)
                    worker.stop()
                    workers.remove(worker)
                elif (following := upcoming()) is not None:
                    worker.give(following)
                else:
                    worker.stop()
                    workers.remove(worker)
                if outcome is not None:
                    yield outcome
    finally:
        for worker in workers:
            worker.stop()


def check_workers(num_workers: int) -> None:
    """Raises OptionError for a number of workers that is none."""
    if num_workers < 1:
        raise OptionError(f"--workers must be 1 or more, got {num_workers}.")


class _Worker:
    """One process and the photo it works on."""

    source: PhotoSource

    def __init__(self, load: Load, plan: Plan, num_threads: int) -> None:
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, load, plan, num_threads), daemon=True)
        self._process.start()
        theirs.close()  # so that the pipe ends when the process does

    def give(self, source: PhotoSource) -> None:
        """Hand over the next photo."""
        self.source = source
        with suppress(OSError):  # it has died already; `answer` tells
            self.connection.send(source)

    def answer(self) -> Outcome | None:
        """How the photo went; None if the process died."""
        try:
            answer: Any = self.connection.recv()
        except (EOFError, OSError):
            return None
        if isinstance(answer, BaseException):
            raise answer
        outcome: Outcome = answer
        return outcome

    def how_it_died(self) -> str:
        """A word for the exit code of a process that is gone."""
        self._process.join(5)
        code = self._process.exitcode
        if code is not None and code < 0:
            return f"was killed by {signal.Signals(-code).name}, perhaps for lack of memory"
        return f"left with code {code}"

    def stop(self) -> None:
        """End the process, gently and then not."""
        self.connection.close()
        self._process.join(1)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(connection: Connection, load: Load, plan: Plan, num_threads: int) -> None:
    """A worker: photos in, outcomes out, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the parent, which closes the pipe
    import cv2
    import torch

    torch.set_num_threads(num_threads)
    cv2.setNumThreads(num_threads)
    try:
        generator = load()
    except (AnymaskError, OSError) as error:
        connection.send(error)
        return
    while True:
        try:
            source = connection.recv()
        except EOFError:
            return
        connection.send(segment_photo(generator, source, plan))
