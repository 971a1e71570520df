"""A lock between processes. The system releases it when its holder dies, so a crash leaves nothing stuck."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_S = 0.1

if sys.platform == "win32":
    import msvcrt

    def _try_lock(handle: int) -> bool:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(handle: int) -> None:
        os.lseek(handle, 0, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_UN)  # closing it alone leaves the lock with a forked child that lives longer


@contextmanager
def locked(path: Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold `<path>.lock`; waits while another process or thread holds it, calling `on_wait` once.

    The empty lock file stays behind: removing it would race with a process that has just opened it.
    """
    handle = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not _try_lock(handle):
            if on_wait is not None:
                on_wait()
            while not _try_lock(handle):
                time.sleep(POLL_S)
        try:
            yield
        finally:
            _unlock(handle)
    finally:
        os.close(handle)
