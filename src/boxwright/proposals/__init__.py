"""Class-agnostic proposals without learning: proposers are callables from an image to boxes, best first.

An image is uint8 RGB (H, W, 3); boxes are (P, 4) float32 numpy, xyxy in the image's pixels.
"""

from boxwright.proposals.build import NAMES, build_proposer
from boxwright.proposals.cache import CachedProposer, image_key
from boxwright.proposals.file import ProposalsFromFile, read_proposals, write_proposals
from boxwright.proposals.selective_search import SelectiveSearch
from boxwright.proposals.sliding_window import SlidingWindow, count_windows
from boxwright.types import Propose

__all__ = [
    "NAMES", "CachedProposer", "Propose", "ProposalsFromFile", "SelectiveSearch", "SlidingWindow", "build_proposer",
    "count_windows", "image_key", "read_proposals", "write_proposals",
]  # fmt: skip
