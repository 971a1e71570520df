"""Keep freed memory inside the process.

Large tensors come and go with every layer. glibc returns each to the system and faults fresh pages in for the next,
which on many machines costs more than the arithmetic: an element-wise pass ran at 3 GB/s instead of 21 GB/s where
this was measured (docs/log.md). Two `mallopt` settings keep the pages. ANYMASK_ALLOCATOR=system turns this off.
"""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # glibc malloc.h
_done = False


def keep_freed_memory() -> bool:
    """Apply the settings once; True where they are in force (Linux with glibc)."""
    global _done
    if _done:
        return True
    if sys.platform != "linux" or os.environ.get("ANYMASK_ALLOCATOR") == "system":
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False  # another C library; nothing is lost but speed
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 * 2**20))
    _done = all(mallopt(key, value) == 1 for key, value in settings)
    return _done
