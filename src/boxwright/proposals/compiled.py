"""The one door to numba: only files that are imported inside a function come through it, so it costs nothing before.

A kernel is machine code on one thread that releases the interpreter's lock and is kept on disk from run to run. numba
notices a change of a kernel's own file only, therefore a kernel calls kernels of its own file only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    from numba import njit
except ImportError as error:
    raise ImportError('selective search needs numba; install it with: pip install "boxwright[proposals]"') from error


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at the first call. No fast-math: sums keep their order, so results are the same on every machine."""
    return njit(cache=True, nogil=True)(function)
