"""Build a proposer from its name, as given to an option of a command."""

from __future__ import annotations

from pathlib import Path

from boxwright.proposals.cache import CachedProposer
from boxwright.proposals.file import ProposalsFromFile
from boxwright.proposals.selective_search import SelectiveSearch
from boxwright.proposals.sliding_window import SlidingWindow
from boxwright.types import Propose

NAMES = ("selective_search", "selective_search_quality", "sliding_window")

CACHED_COUNT = 2000
"""Boxes of an image that are cached even if fewer are asked for, so that the cache also serves larger counts."""


def build_proposer(name: str, count: int = 2000) -> Propose:
    """One of NAMES, or the path of a file that `boxwright propose` wrote; `count` boxes of an image at most.

    Boxes of selective search are cached on disk, see `CachedProposer`. A missing numba is reported here, not at the
    first image.
    """
    if count < 1:
        raise ValueError(f"count is 1 or more, got {count}")
    if name in ("selective_search", "selective_search_quality"):
        import boxwright.proposals.segmentation  # noqa: F401

        mode = "fast" if name == "selective_search" else "quality"
        return CachedProposer(SelectiveSearch(mode, max(count, CACHED_COUNT)), count=count)
    if name == "sliding_window":
        return SlidingWindow(count=count)
    if Path(name).suffix.lower() in (".safetensors", ".npz"):
        return ProposalsFromFile(Path(name), count)
    raise ValueError(f"proposals are one of {', '.join(NAMES)}, or the path of a .safetensors or .npz; got {name!r}")
