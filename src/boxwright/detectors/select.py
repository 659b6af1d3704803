"""From scored boxes to detections: the best candidates, non-max suppression, a fixed number of slots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.boxes.geometry import clip
from boxwright.boxes.nms import nms_mask
from boxwright.types import Slots

SMALLEST = 1e-3
"""Pixels. What is narrower or lower than this once clipped to its image is no box, if nobody says otherwise."""

Suppress = Callable[[Tensor, Tensor, Tensor, Tensor, float, int], Tensor]
"""Boxes (N, C, 4), scores, groups and valid (N, C), IoU threshold, number wanted: to a mask (N, C) of who stays."""


class Candidates(NamedTuple):
    """The best (row, class) pairs of a batch, all (N, C): where they stand and how good they are."""

    rows: Tensor
    labels: Tensor
    levels: Tensor
    scores: Tensor


def gather(values: Tensor, rows: Tensor) -> Tensor:
    """Rows (N, C) of values (N, M, ...) to (N, C, ...)."""
    index = rows.reshape(*rows.shape, *[1] * (values.ndim - 2)).expand(*rows.shape, *values.shape[2:])
    return values.gather(1, index)


def deltas_of(found: Candidates, deltas: Tensor) -> Tensor:
    """What deltas (N, M, B, 4) say of each candidate, (N, C, 4): its class's, or the only ones where B is 1."""
    boxes = deltas.shape[2]
    return gather(deltas.flatten(1, 2), found.rows * boxes + (found.labels if boxes > 1 else 0))


def best(scores: Tensor, count: int, levels: Sequence[int] | None = None) -> Candidates:
    """The `count` highest of scores (N, M, K) over rows and classes, of each level where `levels` has its rows."""
    classes, found, start = scores.shape[2], [], 0
    for level, rows in enumerate(levels or [scores.shape[1]]):
        flat = scores[:, start : start + rows].flatten(1)  # (N, rows * K)
        top = flat.topk(min(count, rows * classes), dim=1)
        row = start + top.indices // classes
        found.append((row, top.indices % classes, torch.full_like(row, level), top.values))
        start += rows
    return Candidates(*(torch.cat(column, 1) for column in zip(*found, strict=True)))


def best_of_each_class(scores: Tensor, count: int, levels: Sequence[int] | None = None) -> Candidates:
    """The `count` highest of scores (N, M, K) of each class, all levels together (SSD, section 2.2: "top 200")."""
    top = scores.transpose(1, 2).topk(min(count, scores.shape[1]), dim=2)  # (N, K, count)
    labels = torch.arange(scores.shape[2], device=scores.device)[:, None].expand_as(top.indices)
    rows, labels, values = (each.flatten(1) for each in (top.indices, labels, top.values))
    return Candidates(rows, labels, torch.zeros_like(rows), values)


def least_background(scores: Tensor, count: int, levels: Sequence[int] | None = None) -> Candidates:
    """The `count` rows of scores (N, M, K) that are least likely background, each as its best class alone.

    Their score is that of all classes together: how surely an object is there.
    """
    found = best(scores.sum(-1, keepdim=True), count)
    return found._replace(labels=gather(scores.argmax(-1), found.rows))


@dataclass(frozen=True)
class Select:
    """What survives, and how many.

    score       a detection scores more than this: one number, or one for each class
    iou         overlap above which the lower-scored of two boxes goes
    candidates  how many of the best enter suppression (of each level, for a pyramid of anchors)
    slots       how many come out
    within      who competes with whom: boxes of one class, of one level (as in region proposal networks), or all
    smallest    pixels; what is narrower or lower once clipped to its image is no box
    late        only what survives suppression is clipped and measured, in place of all that enters it (Detectron2's
                RetinaNet)
    suppress    the suppression itself
    """

    score: float | tuple[float, ...] = 0.05
    iou: float = 0.5
    pre_nms_top_k: int = 1000
    slots: int = 100
    within: Literal["class", "level", "image"] = "class"
    smallest: float = SMALLEST
    clip_after_nms: bool = False
    suppress: Suppress = nms_mask

    def __post_init__(self) -> None:
        if self.within not in ("class", "level", "image"):
            raise ValueError(f"boxes compete within class, level or image, got {self.within!r}")

    def __call__(self, boxes: Tensor, found: Candidates, sizes: Tensor) -> Slots:
        """Boxes (N, C, 4) of candidates (N, C), clipped to sizes (N, 2), to slots (N, S); all 0 where not valid."""
        boxes = boxes if self.clip_after_nms else clip(boxes, sizes)
        groups = {"class": found.labels, "level": found.levels, "image": torch.zeros_like(found.labels)}[self.within]
        valid = (found.scores > self._threshold(found)) & (self.clip_after_nms | self._has_extent(boxes))
        stays = self.suppress(boxes, found.scores, groups, valid, self.iou, self.slots)

        ranked = torch.where(stays, found.scores, -1.0)
        ranked = F.pad(ranked, (0, max(0, self.slots - ranked.shape[1])), value=-1.0)  # (N, C or S if that is more)
        top = ranked.topk(self.slots, dim=1)
        valid = top.values >= 0
        rows = top.indices.clamp(max=boxes.shape[1] - 1)
        boxes = gather(boxes, rows)
        if self.clip_after_nms:
            boxes = clip(boxes, sizes)
            valid &= self._has_extent(boxes)
        boxes = torch.where(valid[..., None], boxes, 0.0)
        labels = torch.where(valid, gather(found.labels, rows), 0)
        return Slots(boxes, torch.where(valid, top.values, 0.0), labels, valid)

    def _has_extent(self, boxes: Tensor) -> Tensor:
        return (boxes[..., 2:] - boxes[..., :2]).amin(-1) >= self.smallest

    def _threshold(self, found: Candidates) -> float | Tensor:
        if not isinstance(self.score, tuple):
            return self.score
        return found.scores.new_tensor(self.score)[found.labels]  # (N, C)
