"""The only import of numba. Files with kernels are imported inside functions, so that importing boxwright is fast.

A kernel is compiled for one thread, releases the GIL, and is cached on disk between runs. numba notices changes of a
kernel's own file only, so a kernel may only call kernels of its own file.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from boxwright.install import install


@functools.cache
def is_available() -> bool:
    """Whether numba is installed, for what can be computed without it."""
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at the first call. No fast-math: sums keep their order, so that results are equal on every machine.

    Where neither this folder nor the user's cache can be written to, each process compiles anew. Raises ImportError
    without numba.
    """
    try:
        from numba import njit
    except ImportError as error:
        raise ImportError(f"selective search needs numba; install it with: {install('proposals')}") from error
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # "no locator available for file"
        return njit(nogil=True)(function)
