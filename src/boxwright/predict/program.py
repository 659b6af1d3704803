"""Ways to run a detector: as it is, or compiled. The boxes are the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from boxwright.detectors.base import Detector, Network
from boxwright.types import Images, Slots

_PROGRAMS = 1000  # that may be compiled, one for each detector and shape of input; torch.compile gives up after eight
_PROPOSALS = 100  # their number is filled up to a multiple of this before a compiled program sees them


class Compiled(Detector):
    """A detector whose way from pixels to slots is a program, compiled at the first look at each shape of input.

    One program for all shapes would be compiled once, but for minutes. Proposals are filled up with rows of zeros to
    full hundreds, for their number differs from image to image.

    backend  of torch.compile; the default one needs a C++ compiler
    """

    def __init__(self, detector: Detector, backend: str | Callable[..., Any] = "inductor") -> None:
        super().__init__()
        self.network = torch.compile(Network(detector), fullgraph=True, dynamic=False, backend=backend)
        self.propose = detector.propose
        self.compiled: set[tuple[torch.Size, torch.Size]] = set()
        self.eval()

    def slots(self, images: Images) -> Slots:
        proposals = F.pad(images.proposals, (0, 0, 0, -images.proposals.shape[1] % _PROPOSALS))
        inputs, shapes = (images.pixels, images.sizes, proposals), (images.pixels.shape, proposals.shape)
        if shapes in self.compiled:
            return Slots(*self.network(*inputs))
        with torch._dynamo.config.patch(recompile_limit=_PROGRAMS, accumulated_recompile_limit=_PROGRAMS):
            slots = Slots(*self.network(*inputs))
        self.compiled.add(shapes)
        return slots


RUNTIMES: dict[str, Callable[[Detector], Detector]] = {"eager": lambda detector: detector, "compiled": Compiled}
"""From a detector in evaluation mode, on its device, to one that gives the same boxes."""
