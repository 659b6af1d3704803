"""Non-maximum suppression: of boxes that overlap too much keep the one with the best score.

`greedy_nms` is the definition, to be read; `nms_mask` is the one detectors use: batched, of static shape, compiled.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from boxwright.boxes.geometry import iou


def greedy_nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Take the best box, drop the others whose IoU with it exceeds the threshold, repeat with what is left.

    boxes (N, 4) xyxy, scores (N,) -> indices of the kept boxes, best first; of equal scores the first comes first.
    """
    _check_threshold(iou_threshold)
    kept = []
    waiting = scores.argsort(descending=True, stable=True)
    while len(waiting):
        best, rest = waiting[0], waiting[1:]
        kept.append(best)
        overlap = iou(boxes[best], boxes[rest]).double()  # float32 would round the threshold too
        waiting = rest[overlap <= iou_threshold]
    return torch.stack(kept) if kept else waiting


def nms_mask(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, iou_threshold: float, most: int | None = None
) -> Tensor:
    """Which boxes of a batch survive greedy suppression among the boxes of their own image and group.

    boxes   (N, K, 4) xyxy, K boxes for each of N images
    scores  (N, K), in any order; of equal scores the first wins
    groups  (N, K) int64: only boxes of one group suppress each other, e.g. their class; all 0 for class-agnostic NMS
    valid   (N, K) bool: the others, and those that are not finite, are neither kept nor suppress anything
    most    of the survivors of an image only so many are wanted, the best: the rest is not looked for, which saves time
    returns (N, K) bool

    Works in eager mode, `torch.compile(fullgraph=True)` and `torch.export`, where it is the opaque operator
    `boxwright::nms_mask`. On an accelerator that operator waits for the device.
    """
    _check_threshold(iou_threshold)
    expected = boxes.shape[:2]
    if boxes.ndim != 3 or boxes.shape[2] != 4 or not scores.shape == groups.shape == valid.shape == expected:
        raise ValueError(
            f"nms_mask takes boxes (N, K, 4) and scores, groups, valid (N, K), got {tuple(boxes.shape)} and "
            f"{tuple(scores.shape)}, {tuple(groups.shape)}, {tuple(valid.shape)}"
        )
    return torch.ops.boxwright.nms_mask(boxes, scores, groups, valid, iou_threshold, most)


@functools.cache
def load_compiled_ops() -> None:
    """Register torchvision's compiled operators, `torch.ops.torchvision.*`, without importing its package.

    `import torchvision` takes seconds (it pulls in torch._dynamo), its library of operators takes milliseconds.
    Calling this again, or importing torchvision before or after, does no harm.

    Raises ImportError when torchvision is missing, has no compiled operators, or was built for another torch.
    """
    if hasattr(torch.ops.torchvision, "nms"):
        return
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("boxwright needs torchvision's compiled operators: pip install torchvision")
    folder = Path(spec.submodule_search_locations[0])
    libraries = sorted(path for path in folder.glob("_C*") if path.suffix in (".so", ".pyd", ".dylib"))
    if not libraries:
        raise ImportError(
            f"expected torchvision's compiled operators as {folder}/_C*.so, found no such file; "
            "reinstall torchvision from a wheel: pip install --force-reinstall torchvision"
        )
    for library in libraries:
        try:
            torch.ops.load_library(library)
        except OSError as error:
            raise ImportError(
                f"torch {torch.__version__} cannot load {library}: {error}; install the torchvision that belongs to it"
            ) from error


def _check_threshold(iou_threshold: float) -> None:
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"an IoU threshold lies in 0..1, got {iou_threshold}")


def _nms_mask(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, iou_threshold: float, most: int | None = None
) -> Tensor:
    load_compiled_ops()
    if boxes.device.type == "mps":  # has no float64
        mask = _nms_mask(boxes.cpu(), scores.cpu(), groups.cpu(), valid.cpu(), iou_threshold, most)
        return mask.to(boxes.device)
    boxes, scores = boxes.double(), scores.double()
    valid = valid & boxes.isfinite().all(-1) & ~scores.isnan()
    keep = torch.zeros_like(valid)
    for image in range(len(boxes)):
        rows = valid[image].nonzero()[:, 0]
        if len(rows):
            rows = rows[scores[image, rows].argsort(descending=True, stable=True)]
            keep[image, _survivors(boxes[image], scores[image], groups[image], rows, iou_threshold, most)] = True
    return keep


def _survivors(
    boxes: Tensor, scores: Tensor, groups: Tensor, rows: Tensor, iou_threshold: float, most: int | None
) -> Tensor:
    """The first `most` of `rows`, best first, that are kept.

    Who survives among the best rows does not depend on later ones: take few, and twice as many while these do not do.
    """
    count = len(rows) if most is None else 2 * most
    while True:
        front = rows[:count]
        apart = _set_groups_apart(boxes[front], groups[front])
        kept = front[torch.ops.torchvision.nms(apart, scores[front], iou_threshold)[:most]]
        if len(kept) == most or count >= len(rows):
            return kept
        count *= 2


def _set_groups_apart(boxes: Tensor, groups: Tensor) -> Tensor:
    """Shift every group to a place of its own, so that boxes of different groups never overlap.

    In float64: in float32 the shift would cost the boxes of the last groups of a large image several bits.
    """
    span = boxes.max() - boxes.min() + 1
    return boxes + (groups * span)[:, None]


# The low-level registration: torch.library.custom_op would import torch._dynamo, seconds, at the first call.
_library = torch.library.Library("boxwright", "FRAGMENT")
_library.define(
    "nms_mask(Tensor boxes, Tensor scores, Tensor groups, Tensor valid, float iou_threshold, int? most=None) -> Tensor"
)
_library.impl("nms_mask", _nms_mask, "CompositeExplicitAutograd")


@torch.library.register_fake("boxwright::nms_mask", lib=_library)
def _nms_mask_shape(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, iou_threshold: float, most: int | None = None
) -> Tensor:
    return torch.empty_like(valid)
