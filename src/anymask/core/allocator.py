"""Keep freed memory inside the process.

Large tensors come and go with every layer. glibc returns each to the system and faults fresh pages in for the next,
which on many machines costs more than the arithmetic: an element-wise pass ran at 3 GB/s instead of 21 GB/s where
this was measured (docs/log.md). Two `mallopt` settings keep the pages, and a reserved stretch of the heap is backed by
2 MiB pages, a fifteenth of the page faults. Nothing is occupied before it is used. ANYMASK_ALLOCATOR=system turns this
off.
"""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # glibc malloc.h
_MADV_HUGEPAGE = 14  # linux/mman.h
_HUGE_PAGE = 2 * 2**20
_RESERVED = 4 * 2**30  # bytes of address space
_done = False


def keep_freed_memory() -> bool:
    """Apply the settings once; True where they are in force (Linux with glibc)."""
    global _done
    if _done:
        return True
    if sys.platform != "linux" or os.environ.get("ANYMASK_ALLOCATOR") == "system":
        return False
    try:
        libc = ctypes.CDLL("libc.so.6", use_errno=True)
        mallopt = libc.mallopt
    except (OSError, AttributeError):
        return False  # another C library; nothing is lost but speed
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, 64 * 2**20))
    _done = all(mallopt(key, value) == 1 for key, value in settings)
    if _done:
        _ask_for_huge_pages(libc)
    return _done


def _ask_for_huge_pages(libc: ctypes.CDLL) -> None:
    """Grow the heap once, mark the new stretch for huge pages, and give it back to malloc, which keeps it.

    Where the system refuses the reservation or the advice, memory is as it was.
    """
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    block = libc.malloc(_RESERVED)
    if not block:
        return
    start = -(-block // _HUGE_PAGE) * _HUGE_PAGE
    libc.madvise(start, (block + _RESERVED - start) // _HUGE_PAGE * _HUGE_PAGE, _MADV_HUGEPAGE)
    libc.free(block)
