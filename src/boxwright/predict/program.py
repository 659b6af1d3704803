"""From a batch of images to slots: a detector as it is, or compiled. torch is imported when it is needed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from copy import copy, deepcopy
from typing import TYPE_CHECKING, Any

from boxwright.types import Images, Slots

if TYPE_CHECKING:
    import torch

    from boxwright.detectors.base import Detector
    from boxwright.device import InferencePrecision

Program = Callable[[Images], Slots]
"""A batch of images to slots in pixels of the batch. A `Predictor` runs any of these: an exported graph, a function."""

_MAX_PROGRAMS = 1000  # of torch.compile, one for each detector and shape of input; its own limit is eight
_BELOW = 1e-6  # a selection takes what scores more than its threshold, a predictor also what scores as much
_LARGE = 2**17  # pixels; images of this size are computed one by one on a CPU: the maps of more leave its caches
_PROPOSALS = 100  # the number of proposals of a compiled program is a multiple of this


class Eager:
    """A detector run by PyTorch's interpreter. It is in evaluation mode during a call, in its own mode afterwards.

    packed  on a CPU, convolutions run in their inference form (`layers/packed.py`): boxes within a hundredth of a pixel
            in less time. It holds a further copy of their weights. False: as in training, to the last bit
    precision  "bf16" computes convolutions and linear layers in bfloat16, boxes and scores in float32
    """

    def __init__(self, detector: Detector, packed: bool = True, precision: InferencePrecision = "fp32") -> None:
        import torch

        from boxwright.layers.packed import Packed

        self.detector, self.precision = detector, precision
        self._packed = Packed(torch.bfloat16 if precision == "bf16" else torch.float32) if packed else None

    def __call__(self, images: Images) -> Slots:
        import torch

        training, device = self.detector.training, images.pixels.device.type
        if training:
            self.detector.eval()
        try:
            with ExitStack() as form:
                form.enter_context(torch.inference_mode())
                if self.precision == "bf16":
                    form.enter_context(torch.autocast(device, torch.bfloat16))
                if self._packed is None or device != "cpu":
                    return self.detector.slots(images)
                form.enter_context(self._packed.active())
                if len(images) < 2 or images.pixels.shape[2:].numel() < _LARGE:
                    return self.detector.slots(images)
                return Slots.cat([self.detector.slots(images[i : i + 1]) for i in range(len(images))])
        finally:
            if training:
                self.detector.train()

    def down_to(self, threshold: float) -> Eager:
        """A program of the same weights that also returns detections of scores down to this one, if it is above 0.

        Detections of higher scores stay the same: a box suppresses only those that score less.
        """
        last = self.detector.selection
        if last is None:
            return self
        lower = max(0.0, threshold - _BELOW)
        values = last.score_threshold
        least = tuple(min(value, lower) for value in values) if isinstance(values, tuple) else min(values, lower)
        return self.with_selection(score_threshold=least)

    def with_selection(self, **changes: Any) -> Eager:
        """A program of the same weights whose last `Select` has other numbers, such as `iou_threshold`.

        Raises ValueError for a detector without a `Select`.
        """
        last = self.detector.selection
        if last is None:
            raise ValueError(f"{type(self.detector).__name__} has no Select, so its detections are selected in one way")
        shared = [part for part in self.detector.modules() if all(inner is not last for inner in part.modules())]
        tensors = [*self.detector.parameters(), *self.detector.buffers()]
        kept = {id(part): part for part in (*shared, *tensors, self.detector.propose)}
        detector = deepcopy(self.detector, kept)
        selection = detector.selection
        assert selection is not None
        for name, value in changes.items():
            setattr(selection, name, value)
        program = copy(self)  # with the same packed weights
        program.detector = detector
        return program


class Compiled:
    """A detector compiled from pixels to slots, once for each shape of input: padded size, and images in a batch.

    A single program for all shapes would take minutes to compile. Proposals are padded with zeros to full hundreds.
    The default `backend` of torch.compile needs a C++ compiler.
    """

    def __init__(self, detector: Detector, backend: str | Callable[..., Any] = "inductor") -> None:
        import torch

        from boxwright.detectors.base import Network

        self.detector = detector.eval()
        self.network = torch.compile(Network(detector), fullgraph=True, dynamic=False, backend=backend)
        self.compiled: set[tuple[torch.Size, torch.Size]] = set()

    def __call__(self, images: Images) -> Slots:
        import torch
        from torch.nn.functional import pad

        proposals = pad(images.proposals, (0, 0, 0, -images.proposals.shape[1] % _PROPOSALS))
        inputs, shapes = (images.pixels, images.sizes, proposals), (images.pixels.shape, proposals.shape)
        with torch.inference_mode():
            if shapes in self.compiled:
                return Slots(*self.network(*inputs))
            with torch._dynamo.config.patch(recompile_limit=_MAX_PROGRAMS, accumulated_recompile_limit=_MAX_PROGRAMS):
                slots = Slots(*self.network(*inputs))
        self.compiled.add(shapes)
        return slots


PROGRAMS: dict[str, Callable[[Detector], Program]] = {"eager": Eager, "compiled": Compiled}
"""From a detector on its device to a program, by name; all programs of a detector give the same boxes."""
