"""The one thread that runs the model: a bounded line, urgent work first, prompts on the same photo together.

Torch already uses every core for one call, so more threads would only wait for each other and fill the memory. Whoever
comes when the line is full is told when to try again. Long work (everything in a photo) comes as many small jobs of
low urgency, so that clicks go in between.
"""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from anymask.core.errors import AnymaskError

CLICK, ENCODE, BULK = 0, 1, 2  # urgency, lower first
TOGETHER = 16  # prompts in one call; more is not faster (docs/log.md)


class BusyError(AnymaskError):
    """The line is full. retry_after_s: when a place may be free."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"the server has as much to do as it can hold; try again in {retry_after_s} s.")
        self.retry_after_s = retry_after_s


@dataclass(order=True)
class Job:
    """One piece of work. Jobs with the same `key` may be run by one call of the first one's `run`."""

    urgency: int
    number: int
    run: Callable[[list[Any]], list[Any]] = field(compare=False)  # payloads to results, in order
    payload: Any = field(compare=False)
    key: Hashable | None = field(compare=False)
    future: Future = field(compare=False, default_factory=Future)


class Lane:
    """A bounded line in front of one thread. on_batch: told how many jobs each call answered."""

    def __init__(self, max_waiting: int, on_batch: Callable[[int], None] = lambda size: None) -> None:
        self._max_waiting, self._on_batch = max_waiting, on_batch
        self._jobs: list[Job] = []
        self._number = 0
        self._seconds_per_call = 0.1  # running mean
        self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="anymask-model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Jobs in line."""
        return len(self._jobs)

    def submit(
        self,
        run: Callable[[list[Any]], list[Any]],
        payload: Any = None,
        *,
        urgency: int = CLICK,
        key: Hashable | None = None,
    ) -> Future:
        """Put a job in line; BusyError if that is full. The future is done, failed, or cancelled by `stop`."""
        with self._changed:
            if self._stopping or len(self._jobs) >= self._max_waiting:
                raise BusyError(self._retry_after_s())
            self._number += 1
            job = Job(urgency, self._number, run, payload, key)
            heapq.heappush(self._jobs, job)
            self._changed.notify()
            return job.future

    def stop(self, timeout_s: float = 10.0) -> None:
        """Finish the call that runs, cancel the rest, end the thread."""
        with self._changed:
            self._stopping = True
            for job in self._jobs:
                job.future.cancel()
            self._jobs.clear()
            self._changed.notify()
        self._thread.join(timeout_s)

    def _retry_after_s(self) -> int:
        return max(1, min(60, math.ceil(len(self._jobs) * self._seconds_per_call)))

    def _take(self) -> list[Job] | None:
        """The next job and those that can share its call; None when it is time to end."""
        with self._changed:
            while not self._jobs:
                if self._stopping:
                    return None
                self._changed.wait()
            first = heapq.heappop(self._jobs)
            if first.key is None:
                return [first]
            alike = sorted(job for job in self._jobs if job.key == first.key)[: TOGETHER - 1]
            taken = {job.number for job in alike}
            self._jobs = [job for job in self._jobs if job.number not in taken]
            heapq.heapify(self._jobs)
            return [first, *alike]

    def _work(self) -> None:
        while (jobs := self._take()) is not None:
            jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if not jobs:
                continue
            started = time.perf_counter()
            try:
                results = jobs[0].run([job.payload for job in jobs])
            except BaseException as error:  # whatever it is belongs to who asked, and the lane goes on
                for job in jobs:
                    job.future.set_exception(error)
            else:
                for job, result in zip(jobs, results, strict=True):
                    job.future.set_result(result)
            self._on_batch(len(jobs))
            self._seconds_per_call += 0.2 * (time.perf_counter() - started - self._seconds_per_call)
