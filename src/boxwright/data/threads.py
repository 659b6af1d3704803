"""Work on many files at once: threads wait for the disk, and decoders let others run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_threads(
    function: Callable[[_Item], _Result], items: Sequence[_Item], workers: int = 8, most: int = 64
) -> Iterator[_Result]:
    """The function's results in the order of the items. Once nothing holds the iterator, no further item is begun: do
    not name it, as a traceback would hold the name.

    most  items that a thread takes at once, where there are many: handing over each takes longer than reading a header
    """
    size = min(max(1, len(items) // (4 * workers)), most)
    batches = [items[start : start + size] for start in range(0, len(items), size)]
    with ThreadPoolExecutor(workers) as pool:
        for results in pool.map(partial(_all, function), batches):
            yield from results


def _all(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    return list(map(function, items))
