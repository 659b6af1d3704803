"""Memory of large tensors is kept for the next ones: glibc asks the system for each otherwise, and gives it back."""

from __future__ import annotations

import os
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8  # of <malloc.h>


def keep_heap() -> bool:
    """Let malloc serve tensors of any size from memory that it keeps; whether it does.

    Only with glibc, and not where the environment variable BOXWRIGHT_KEEP_HEAP is 0. It holds for the whole process, so
    commands call it, and no import does. All threads share what is kept. Results are the same bit for bit.
    """
    if os.environ.get("BOXWRIGHT_KEEP_HEAP") == "0" or not sys.platform.startswith("linux"):
        return False
    import ctypes

    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version") or not hasattr(libc, "mallopt"):
        return False
    settings = (_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 << 20), (_ARENA_MAX, 1)
    return all([libc.mallopt(option, value) == 1 for option, value in settings])
