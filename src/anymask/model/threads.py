"""Work on a CPU in several threads of one torch thread each.

The decoder's steps are short: whole blocks of prompts, one in each thread, take a quarter less time than steps that are
shared between the threads one by one (docs/log.md). torch lets go of Python's lock while it computes.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier, Lock, local
from typing import Any, TypeVar

import torch

T = TypeVar("T")

_lock = Lock()
_member = local()  # of a team
_teams: dict[tuple[int, int], ThreadPoolExecutor] = {}  # by process, for a fork has no threads, and size


def in_threads(work: Callable[[Any], T], items: Iterable[Any]) -> Iterator[T]:
    """Results of `work` for each of the items, in their order, in as many threads as torch has here.

    One more item than there are threads is taken ahead of the results that are asked for. Inside of `work` it is a
    plain `map`.
    """
    num_threads = torch.get_num_threads()
    if num_threads == 1 or getattr(_member, "is_one", False):
        yield from map(work, items)
        return
    team = _team(num_threads)
    waiting: deque[Future[T]] = deque()
    try:
        for item in items:
            waiting.append(team.submit(work, item))
            if len(waiting) > num_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def for_each(work: Callable[[int], T], count: int) -> list[T]:
    """Results of `work` for 0 … count - 1, in threads, without autograd and with types as they are."""

    def plain(i: int) -> T:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            return work(i)

    return list(in_threads(plain, range(count)))


def _team(size: int) -> ThreadPoolExecutor:
    with _lock:
        team = _teams.get((os.getpid(), size))
        if team is None:
            ready = Barrier(size)

            def start() -> None:
                torch.set_num_threads(1)
                torch.get_num_threads()  # a thread's first look copies what was set last, anywhere
                _member.is_one = True
                ready.wait()

            team = ThreadPoolExecutor(size, "decode", initializer=start)
            for future in [team.submit(int) for _ in range(size)]:
                future.result()
            torch.set_num_threads(size)
            _teams[os.getpid(), size] = team
        return team
