"""Assignment: which candidate learns which object, and which of the assigned candidates count in the loss.

By overlap: Faster R-CNN (Ren et al. 2015, section 3.1.2) and, with `match_best_prior`, SSD (Liu et al. 2016, section
2.2). By position: FCOS (Tian et al. 2019, section 3.2, ICCV; centre sampling: its journal version, PAMI 2020).
By statistics of overlaps: ATSS (Zhang et al. 2020, "Bridging the Gap Between Anchor-based and Anchor-free Detection").
By predictions: TOOD (Feng et al. 2021), which reads the logits and boxes of its `Prediction` too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright import compiled
from boxwright.boxes.geometry import (
    area,
    at_least_float32,
    cxcywh_to_xyxy,
    intersection,
    pairwise_iou,
    xyxy_to_cxcywh,
)
from boxwright.types import Target

BACKGROUND = -1
IGNORED = -2
MANY_PAIRS = 2**17
"""Pairs of an object and a candidate from which on a compiled pass is worth the time that numba takes to load."""


@dataclass(frozen=True)
class Prediction:
    """What an assigner sees of one image, A candidates without gradients.

    candidates  (A, 4) xyxy in pixels of the batch: anchors, points or proposals
    logits      (A, L); None where candidates are assigned before they are classified, as proposals are
    decode      gives `boxes`; None where the candidates are the boxes
    levels      candidates of each feature map; they sum to A
    """

    candidates: Tensor
    logits: Tensor | None = None
    decode: Callable[[], Tensor] | None = None
    levels: tuple[int, ...] = ()

    @cached_property
    def boxes(self) -> Tensor:
        """Predicted boxes (A, 4) xyxy, decoded when they are first read: an assigner by anchors pays nothing.

        Where every class has its own box, it is that of the candidate's most likely class.
        """
        return self.candidates if self.decode is None else self.decode()


Assign = Callable[[Prediction, Target], Tensor]
"""A prediction of A candidates to (A,) int64: the row of the target to learn, `BACKGROUND` or `IGNORED`."""


@torch.no_grad()
def match(
    assign: Assign, predictions: Iterable[Prediction], targets: Sequence[Target]
) -> tuple[Tensor, Tensor, Tensor]:
    """Assignments (N, A), and what they match: labels (N, A) and boxes (N, A, 4)."""
    assigned = [assign(prediction, target) for prediction, target in zip(predictions, targets, strict=True)]
    labels, boxes = zip(*map(matched_labels_and_boxes, assigned, targets), strict=True)
    return torch.stack(assigned), torch.stack(labels), torch.stack(boxes)


def matched_labels_and_boxes(assigned: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """Labels (A,) and boxes (A, 4) of the objects assigned (A,); `BACKGROUND` and zeros where there is none."""
    row = assigned.clamp(min=BACKGROUND)  # -1 reads the last row, which is added for the background
    return F.pad(target.labels, (0, 1), value=BACKGROUND)[row], F.pad(target.boxes, (0, 0, 0, 1))[row]


def rows_of(mask: Tensor, most: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Image, row and a 1 (P,) for each entry that is set in a mask (N, A), `most` of an image if that is known.
    An accelerator gives so many of every image, with 0 for those that are not set: then nothing waits for it."""
    if mask.is_cpu or most is None:
        image, row = mask.nonzero(as_tuple=True)
        return image, row, torch.ones_like(row)
    is_set, row = mask.to(torch.uint8).topk(min(most, mask.shape[1]), dim=1)
    return torch.arange(len(mask), device=mask.device).repeat_interleave(row.shape[1]), row.flatten(), is_set.flatten()


@dataclass(frozen=True)
class MaxIoUAssigner:
    """By overlap with anchors: positive from IoU `high` up, background below `low`, ignored in between.

    allow_low_quality_matches  every object also gets the candidates that overlap it most, however little (Faster
                               R-CNN's rule (i))
    match_best_prior           every object gets its best candidate, even one that overlaps another object more (SSD);
                               of several objects with one best candidate the last gets it, as in torchvision
    crowd                      background of whose area more than this fraction lies in a crowd region is ignored
    """

    high: float = 0.5
    low: float = 0.5
    allow_low_quality_matches: bool = False
    match_best_prior: bool = False
    crowd: float = 0.5

    def __call__(self, prediction: Prediction, target: Target) -> Tensor:
        """(A,) int64: the row of `target` to learn, `BACKGROUND` or `IGNORED`. Without objects all is background."""
        candidates = prediction.candidates
        assigned = torch.full(candidates.shape[:1], BACKGROUND, dtype=torch.int64, device=candidates.device)
        if len(target) and len(candidates):
            best, row, prior, most = _overlaps(target.boxes.masked_fill(target.crowd[:, None], 0), candidates)
            positive = (best >= self.high) | (most & self.allow_low_quality_matches)
            assigned = torch.where(best >= self.low, IGNORED, assigned)
            if self.match_best_prior:
                order = torch.arange(len(target), device=row.device).masked_fill(target.crowd, BACKGROUND)
                forced = torch.full_like(row, BACKGROUND).scatter_reduce(0, prior, order, "amax")
                positive, row = positive | (forced >= 0), torch.where(forced >= 0, forced, row)
            assigned = torch.where(positive, row, assigned)
            if not target.crowd.is_cpu or target.crowd.any():  # reading it would wait for an accelerator
                inside = intersection(candidates[:, None], target.boxes) / area(candidates)[:, None].clamp(min=1e-6)
                crowded = (inside * target.crowd > self.crowd).any(1)
                assigned = assigned.masked_fill(crowded & (assigned == BACKGROUND), IGNORED)
        return assigned


def _overlaps(objects: Tensor, candidates: Tensor) -> tuple[Tensor, ...]:
    """Of objects (G, 4) with candidates (A, 4): what `boxes.scan.overlaps` returns, in one pass or by definition."""
    if len(objects) * len(candidates) >= MANY_PAIRS and (scan := _compiled_scan(objects, candidates)):
        return scan.overlaps(objects, candidates)
    overlaps = pairwise_iou(objects, candidates)  # (G, A)
    return *overlaps.max(0), overlaps.argmax(1), (overlaps >= overlaps.amax(1, keepdim=True).clamp(min=1e-6)).any(0)


def _compiled_scan(*tensors: Tensor) -> ModuleType | None:
    """`boxes.scan` for float32 on the CPU, where numba is installed; None where PyTorch has to compute."""
    if torch.compiler.is_compiling() or not all(t.is_cpu and t.dtype == torch.float32 for t in tensors):
        return None
    if not compiled.is_available():
        return None
    from boxwright.boxes import scan

    return scan


@dataclass(frozen=True)
class CenterAssigner:
    """By position: a point near the centre of an object is positive if its level is for objects of that size.

    Of several objects a point learns the smallest. A candidate stands for its centre, its width for the stride of its
    level.

    radius  how far from the object's centre, in strides along either axis; inf: anywhere inside (the paper at first)
    reach   the farthest side of an object lies up to so many strides away, and farther than the level below reaches;
            the finest level has all that is smaller, the coarsest all that is larger
    """

    radius: float = 1.5
    reach: float = 8.0

    def __call__(self, prediction: Prediction, target: Target) -> Tensor:
        """(A,) int64: the row of `target` to learn, `BACKGROUND` or, in a crowd, `IGNORED`.

        Without objects all is background.
        """
        candidates = prediction.candidates
        assigned = torch.full(candidates.shape[:1], BACKGROUND, dtype=torch.int64, device=candidates.device)
        if not len(target):
            return assigned
        stride = candidates[:, 2] - candidates[:, 0]
        least = torch.where(stride == stride.amin(), 0.0, self.reach / 2 * stride)
        most = torch.where(stride == stride.amax(), torch.inf, self.reach * stride)
        x, y, _, _ = xyxy_to_cxcywh(candidates).unbind(-1)
        return _smallest_around(target, torch.stack((x, y, self.radius * stride, least, most)))


def _smallest_around(target: Target, points: Tensor) -> Tensor:
    """The row of the smallest object around each of A points, on the level for objects of its size.

    points   (5, A): x, y, how near an object's centre has to be, and the least and most distance of its farthest side
    returns  (A,) int64; without an object it is `IGNORED` in a crowd, else `BACKGROUND`

    In one compiled pass (`boxes.scan.smallest_around`), or by definition.
    """
    if len(target) * points.shape[1] >= MANY_PAIRS and (scan := _compiled_scan(target.boxes, points)):
        return scan.smallest_around(target.boxes, target.crowd, points, BACKGROUND, IGNORED)
    x, y, near, least, most = points[..., None].unbind()  # (A, 1) each
    x1, y1, x2, y2 = at_least_float32(target.boxes).unbind(-1)
    sides = torch.stack((x - x1, y - y1, x2 - x, y2 - y), dim=-1)  # (A, G, 4)
    inside, farthest = sides.amin(-1) > 0, sides.amax(-1)
    middle_x, middle_y, _, _ = xyxy_to_cxcywh(at_least_float32(target.boxes)).unbind(-1)
    apart = torch.maximum((x - middle_x).abs(), (y - middle_y).abs())
    eligible = inside & (apart < near) & (farthest >= least) & (farthest <= most) & ~target.crowd  # (A, G)
    smallest, row = torch.where(eligible, area(target.boxes), torch.inf).min(1)
    rest = torch.where((inside & target.crowd).any(1), IGNORED, BACKGROUND)
    return torch.where(smallest < torch.inf, row, rest)


@dataclass(frozen=True)
class ATSSAssigner:
    """By statistics of overlaps: of the candidates nearest to an object, those that overlap it more than most do.

    Of each level the `nearest` candidates of an object are looked at. Positive are those whose centre lies in it and
    whose IoU with it is at least the mean plus the standard deviation of theirs (Zhang et al. 2020, algorithm 1). Of
    several objects a candidate learns the one that it overlaps most.

    nearest  candidates per level: the paper's 9, times the anchors of a cell
    scale    candidates count as so many times as large: 8 for points, whose candidates are their cells
    """

    nearest: int = 9
    scale: float = 1.0

    def __call__(self, prediction: Prediction, target: Target) -> Tensor:
        """(A,) int64: the row of `target` to learn, `BACKGROUND` or, in a crowd, `IGNORED`."""
        x, y, width, height = xyxy_to_cxcywh(prediction.candidates).unbind(-1)
        middle_x, middle_y, _, _ = xyxy_to_cxcywh(at_least_float32(target.boxes))[..., None].unbind(1)  # (G, 1) each
        apart = (x - middle_x) ** 2 + (y - middle_y) ** 2  # (G, A)
        near, start = [], 0
        for count in prediction.levels:
            of_level = apart[:, start : start + count]
            near.append(start + of_level.topk(min(self.nearest, count), largest=False).indices)
            start += count
        chosen = torch.cat(near, 1)  # (G, C)
        anchors = cxcywh_to_xyxy(torch.stack((x, y, self.scale * width, self.scale * height), -1))
        overlap = pairwise_iou(target.boxes, anchors)  # (G, A)
        of_chosen = overlap.gather(1, chosen)
        mean = of_chosen.mean(1, keepdim=True)
        deviation = (of_chosen - mean).square().mean(1, keepdim=True).sqrt()
        eligible = torch.zeros_like(overlap, dtype=torch.bool).scatter_(1, chosen, of_chosen >= mean + deviation)
        return _most_overlapping(overlap, eligible, prediction, target)


@dataclass(frozen=True)
class TaskAlignedAssigner:
    """By predictions: the `top` candidates of each object that classify and place it best (Feng et al. 2021, eq. 4).

    They have their centre in the object, and the greatest p ** `class_power` * IoU ** `box_power`, of the predicted
    probability of its class and the IoU of the predicted box. Of several objects a candidate learns the one that its
    box overlaps most.
    """

    top: int = 13
    class_power: float = 1.0
    box_power: float = 6.0

    def __call__(self, prediction: Prediction, target: Target) -> Tensor:
        """(A,) int64: the row of `target` to learn, `BACKGROUND` or, in a crowd, `IGNORED`."""
        assert prediction.logits is not None
        overlap = pairwise_iou(target.boxes, prediction.boxes)  # (G, A)
        inside = _is_inside(prediction.candidates, target.boxes)
        probability = prediction.logits.T[target.labels].sigmoid()  # (G, A)
        aligned = probability**self.class_power * overlap**self.box_power * inside
        best = aligned.topk(min(self.top, aligned.shape[1]))
        eligible = torch.zeros_like(inside).scatter_(1, best.indices, best.values > 0)
        return _most_overlapping(overlap, eligible, prediction, target)


def _most_overlapping(overlap: Tensor, eligible: Tensor, prediction: Prediction, target: Target) -> Tensor:
    """Of the objects around its centre for which each of A candidates is eligible, the row of that it overlaps most.

    overlap, eligible  (G, A)
    returns            (A,) int64; without an object it is `IGNORED` in a crowd, else `BACKGROUND`
    """
    inside, crowd = _is_inside(prediction.candidates, target.boxes), target.crowd[:, None]
    overlap = torch.where(eligible & inside & ~crowd, overlap, -1.0)
    most, row = F.pad(overlap, (0, 0, 0, 1), value=-1.0).max(0)  # a row more: there may be no object
    rest = torch.where((inside & crowd).any(0), IGNORED, BACKGROUND)
    return torch.where(most >= 0, row, rest)


def _is_inside(candidates: Tensor, objects: Tensor) -> Tensor:
    """Which of A candidates have their centre in each of G objects, as a mask (G, A)."""
    centres, objects = xyxy_to_cxcywh(candidates)[:, :2], objects[:, None]
    return ((centres > objects[..., :2]) & (centres < objects[..., 2:])).all(-1)


def all_valid_anchors(assigned: Tensor, losses: Tensor | None = None) -> Tensor:
    """The mask (..., A) of all assignments (..., A) that are not ignored."""
    return assigned != IGNORED


@dataclass(frozen=True)
class BalancedSampler:
    """`count` candidates of each image at random, at most the fraction `positive` of them positive.

    Background fills the rest (Faster R-CNN, section 3.1.3: 256 at 1/2; Fast R-CNN, section 2.3: 1/4). Where there is
    too little background, fewer are drawn.
    """

    count: int
    positive: float

    def __call__(self, assigned: Tensor, losses: Tensor | None = None) -> Tensor:
        """Assignments (..., A) to a mask (..., A)."""
        noise = torch.rand(assigned.shape, device=assigned.device)
        positives = _draw(assigned >= 0, noise, int(self.count * self.positive))
        free = self.count - positives.sum(-1, keepdim=True)
        return positives | _draw(assigned == BACKGROUND, noise, self.count, free)


@dataclass(frozen=True)
class HardNegativeMining:
    """All positives of an image, and `ratio` times as much background: that of the highest loss (SSD, section 2.2).

    least  the least number of background candidates per image; at 0, as in the paper, an image without objects has no
           loss
    """

    ratio: float = 3.0
    least: int = 3

    def __call__(self, assigned: Tensor, losses: Tensor) -> Tensor:
        """Assignments (..., A) and their class losses (..., A) to a mask (..., A)."""
        positive = assigned >= 0
        count = (self.ratio * positive.sum(-1, keepdim=True)).clamp(min=self.least)
        return positive | _draw(assigned == BACKGROUND, losses, assigned.shape[-1], count)


def _draw(eligible: Tensor, rank: Tensor, most: int, count: Tensor | None = None) -> Tensor:
    """The `most` eligible entries of highest rank, or the first `count` (..., 1) of them, as a mask (..., A).

    No rank is negative.
    """
    top = torch.where(eligible, rank, -1.0).topk(min(most, eligible.shape[-1]), dim=-1)
    drawn = top.values >= 0
    if count is not None:
        drawn = drawn & (torch.arange(drawn.shape[-1], device=drawn.device) < count)
    return torch.zeros_like(eligible).scatter_(-1, top.indices, drawn)
