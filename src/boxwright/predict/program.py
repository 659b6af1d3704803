"""From a batch of images to slots: a detector as it is, compiled, or captured. torch is imported when it is needed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from copy import copy, deepcopy
from typing import TYPE_CHECKING, Any

from boxwright.device import check_inference_precision
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

    packed     on a CPU, convolutions run in their inference form (`layers/packed.py`): boxes within a hundredth of a
               pixel in less time. It holds a further copy of their weights. False: as in training, to the last bit
    precision  "bf16" computes convolutions and linear layers in bfloat16, boxes and scores in float32

    Raises ValueError for another precision.
    """

    def __init__(self, detector: Detector, packed: bool = True, precision: InferencePrecision = "fp32") -> None:
        import torch

        from boxwright.layers.packed import Packed

        check_inference_precision(precision)
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

        images = _in_full_hundreds(images)
        inputs, shapes = (images.pixels, images.sizes, images.proposals), (images.pixels.shape, images.proposals.shape)
        with torch.inference_mode():
            if shapes in self.compiled:
                return Slots(*self.network(*inputs))
            with torch._dynamo.config.patch(recompile_limit=_MAX_PROGRAMS, accumulated_recompile_limit=_MAX_PROGRAMS):
                slots = Slots(*self.network(*inputs))
        self.compiled.add(shapes)
        return slots


class Captured:
    """A detector compiled and captured as a CUDA graph, once for each shape of input, as `Compiled` is.

    The host then copies a batch to where the graph reads it and launches all kernels at once; eager, launching more
    than a thousand of them is what a single image takes. A graph does not look whether suppression has ended
    (`ops.without_waiting`): this does, and where it has not, runs `program`.

    program  what is captured, and run where the graph does not suffice; `Compiled` if not given

    Raises ValueError for a detector that is not on a CUDA device.
    """

    def __init__(self, detector: Detector, program: Program | None = None) -> None:
        device = next((weight.device for weight in detector.parameters()), "cpu")
        if str(device).partition(":")[0] != "cuda":
            raise ValueError(f"a CUDA graph runs on a CUDA device, the detector is on {device}; use eager or compiled")
        self.detector = detector.eval()
        self.program = program or Compiled(detector)
        self.graphs: dict[tuple[object, ...], _Graph] = {}
        self.memory: Any = None  # of all graphs, as no two of them run at once

    def __call__(self, images: Images) -> Slots:
        import torch

        images = _in_full_hundreds(images)
        arithmetic = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
        key = images.pixels.shape, images.proposals.shape, *arithmetic
        graph = self.graphs.get(key)
        if graph is None:
            self.memory = self.memory or torch.cuda.graph_pool_handle()
            graph = self.graphs[key] = _Graph(self.program, images, self.memory)
        return graph.replay(images) or self.program(images)


class _Graph:
    """A program captured for batches of one shape."""

    def __init__(self, program: Program, images: Images, memory: Any) -> None:
        import torch

        from boxwright.ops import without_waiting

        self.images = Images(images.pixels.clone(), images.sizes.clone(), images.proposals.clone())
        self.graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), without_waiting() as unsettled:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # compile, choose kernels and allocate before
                for _ in range(2):
                    program(self.images)
            torch.cuda.current_stream().wait_stream(stream)
            unsettled.clear()
            torch.clear_autocast_cache()  # weights in bfloat16 that would be gone when the graph reads them
            with torch.cuda.graph(self.graph, pool=memory):
                self.slots = program(self.images)
                self.unsettled = torch.stack(unsettled).any() if unsettled else None
            torch.clear_autocast_cache()  # those in the graph's memory

    def replay(self, images: Images) -> Slots | None:
        """The slots of a batch; None where a suppression did not end."""
        for column in ("pixels", "sizes", "proposals"):
            getattr(self.images, column).copy_(getattr(images, column))
        self.graph.replay()
        if self.unsettled is not None and self.unsettled:
            return None
        slots = self.slots
        return Slots(slots.boxes.clone(), slots.scores.clone(), slots.labels.clone(), slots.valid.clone())


def _in_full_hundreds(images: Images) -> Images:
    """Proposals padded by rows of zeros to a multiple of a hundred, so that few programs serve all numbers of them."""
    from torch.nn.functional import pad

    return images.replace(proposals=pad(images.proposals, (0, 0, 0, -images.proposals.shape[1] % _PROPOSALS)))


PROGRAMS: dict[str, Callable[[Detector], Program]] = {"eager": Eager, "compiled": Compiled, "captured": Captured}
"""From a detector on its device to a program, by name; all programs of a detector give the same boxes."""
