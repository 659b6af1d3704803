"""From the name of a proposer, as an option of a command has it, to the proposer."""

from __future__ import annotations

from pathlib import Path

from boxwright.proposals.cache import Cached, Propose
from boxwright.proposals.file import FromFile
from boxwright.proposals.selective_search import SelectiveSearch
from boxwright.proposals.sliding_window import SlidingWindow

NAMES = ("selective_search", "selective_search_quality", "sliding_window")

KEPT = 2000
"""Boxes of an image that are kept even where fewer are wanted, so that those who want more find them."""


def build_proposer(name: str, count: int = 2000) -> Propose:
    """One of NAMES, or the path of a file that `boxwright propose` wrote; `count` boxes of an image at most.

    What selective search finds is kept on disk, see `Cached`; numba is looked for here, not at the first image.
    """
    if count < 1:
        raise ValueError(f"count is 1 or more, got {count}")
    if name in ("selective_search", "selective_search_quality"):
        import boxwright.proposals.compiled  # noqa: F401

        mode = "fast" if name == "selective_search" else "quality"
        return Cached(SelectiveSearch(mode, max(count, KEPT)), count=count)
    if name == "sliding_window":
        return SlidingWindow(count=count)
    if Path(name).suffix.lower() in (".safetensors", ".npz"):
        return FromFile(Path(name), count)
    raise ValueError(
        f"proposals come from {', '.join(NAMES)}, or the path of a .safetensors or .npz file; got {name!r}"
    )
