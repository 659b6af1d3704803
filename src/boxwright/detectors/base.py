"""What every detector is and how it ends: two verbs, `loss` and `slots`; scored boxes to a fixed number of slots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.backbones import Backbone, build_backbone
from boxwright.backbones.features import FeaturePyramid, Features
from boxwright.boxes.geometry import clip
from boxwright.detectors.fields import BackboneFields, Convention, LearningBackbone, ScoreFields, SelectionFields
from boxwright.ops import nms_mask
from boxwright.types import Detections, Images, Losses, Slots, Target


class Detector(nn.Module):
    """A detector is trained with `loss` and predicts with `detect`; the mode is in the call, not in `self.training`.

    A subclass writes `compute_loss` and `slots`. All shapes between pixels and slots depend on the shape of the input
    only, so `slots` compiles and exports (see `Network`); `detect` trims it. Both run as in training; a `Predictor` and
    `predict.program.Eager` run a detector in its inference form, which takes less time on a CPU.

    propose      from an image, uint8 RGB (H, W, 3), to boxes (P, 4) in its pixels, best first, for a detector that
                 takes external proposals: the code that makes the `Images` calls it. None for all other detectors
    num_classes  K, set by the `build` of a config: labels are 0..K-1. None where it is not known, or any label is good
    """

    propose: Callable[[np.ndarray], np.ndarray] | None = None
    num_classes: int | None = None
    _waited = False  # for a device, to check targets that were made there: it is done once

    def loss(self, images: Images, targets: list[Target]) -> Losses:
        """Named scalar losses of the batch, weighted; their sum is minimised. An image may have no objects.

        Raises ValueError for targets that cannot be meant: another number than of images, labels outside of 0..K-1,
        boxes that are not xyxy in pixels. Within torch.compile nothing is checked, as that would break the graph.
        """
        if not torch.compiler.is_compiling():
            check_targets(images, targets, self.num_classes, wait=not self._waited)
            self._waited |= not all(target.has_extremes for target in targets)
        return self.compute_loss(images, targets)

    def compute_loss(self, images: Images, targets: list[Target]) -> Losses:
        """What `loss` returns, of N images and their N targets, which are sound."""
        raise NotImplementedError(f"{type(self).__name__} must define compute_loss(images, targets)")

    def slots(self, images: Images) -> Slots:
        """Slots (N, S): boxes in pixels of the batch, scores from 0 to 1, labels 0..K-1; S depends on no value."""
        raise NotImplementedError(f"{type(self).__name__} must define slots(images)")

    @property
    def selection(self) -> Select | None:
        """The selection of its detections, which is the last one in it; None for a detector without any."""
        return next((part for part in reversed([*self.modules()]) if isinstance(part, Select)), None)

    @torch.inference_mode()
    def detect(self, images: Images) -> list[Detections]:
        """The detections of each of N images, best first, boxes in pixels of the batch."""
        return self.slots(images).trim()

    def forward(self, images: Images, targets: list[Target] | None = None) -> Losses | list[Detections]:
        """What DistributedDataParallel calls: `loss` with targets, `detect` without."""
        return self.detect(images) if targets is None else self.loss(images, targets)


def check_targets(images: Images, targets: Sequence[Target], num_classes: int | None, wait: bool = True) -> None:
    """Raises ValueError for targets that cannot be meant; it names the first of them, and the likely slip.

    num_classes  K; None takes any label from 0 on
    wait         for an accelerator, where targets were made on it; they are not checked otherwise
    """
    if len(targets) != len(images):
        raise ValueError(f"expected a target for each of {len(images)} images, got {len(targets)}")
    checked = {index: t.extremes() for index, t in enumerate(targets) if len(t) and (wait or t.has_extremes)}
    limit = torch.inf if num_classes is None else num_classes
    for index, (low, high, side, reach) in checked.items():
        labels_are_sound = 0 <= low <= high < limit and targets[index].labels.dtype == torch.int64
        if not (labels_are_sound and side >= 0 and reach < torch.inf):
            from_one = high == num_classes and min(extremes.label_min for extremes in checked.values()) >= 1
            raise ValueError(f"targets[{index}]{_mistake(targets[index], num_classes, from_one)}")
    objects = sum(len(targets[index]) for index in checked)
    if objects > 1 and max(extremes.reach for extremes in checked.values()) <= 1 < min(images.pixels.shape[2:]) / 8:
        raise ValueError(
            f"all {objects} boxes of the targets lie in 0..1; expected x1 y1 x2 y2 in pixels of the batch, which has "
            f"{images.pixels.shape[2]} x {images.pixels.shape[3]} of them; multiply shares by the size of their image"
        )


def _mistake(target: Target, num_classes: int | None, from_one: bool) -> str:
    """What is wrong with a target; `from_one`: the labels of the batch are 1 to K."""
    boxes, labels = target.boxes, target.labels
    if labels.dtype != torch.int64:
        return f".labels are {labels.dtype}; expected torch.int64"
    low, high, *_ = target.extremes()
    if low < 0 or (num_classes is not None and high >= num_classes):
        expected = "0 or more" if num_classes is None else f"0 to {num_classes - 1}"
        hint = "; torchvision counts classes from 1, so subtract 1" if from_one else ""
        return f" has label {low if low < 0 else high}; expected {expected}{hint}"
    wrong = ~(boxes[:, 2:] >= boxes[:, :2]).all(1) | ~boxes.isfinite().all(1)
    row = int(wrong.nonzero()[0])
    return (
        f".boxes[{row}] is {boxes[row].tolist()}; expected x1 y1 x2 y2 in pixels, finite, with x1 <= x2 and y1 <= y2; "
        "of x y width height they are made by boxes[:, 2:] += boxes[:, :2]"
    )


class Network(nn.Module):
    """What is compiled or exported of a detector: tensors in, the tensors of `Slots` out.

    torch.compile(Network(detector), fullgraph=True)
    torch.export.export(Network(detector), (pixels, sizes))

    With `dynamic_shapes` the program takes any number of images, of any size. The example needs two images, and two
    cells a side on the coarsest map (stride 128: sides over 128 pixels), as torch takes a 1 for a constant; so do the
    images that the program is given.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(
        self, pixels: Tensor, sizes: Tensor, proposals: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pixels (N, 3, H, W), sizes (N, 2) and, for a detector that takes them, proposals (N, P, 4) to boxes
        (N, S, 4), scores, labels and valid (N, S)."""
        slots = self.detector.slots(Images(pixels, sizes, proposals))
        return slots.boxes, slots.scores, slots.labels, slots.valid


MIN_SIZE = 1e-3
"""Pixels. By default a box narrower or lower than this, once clipped to its image, is dropped."""

Suppress = Callable[[Tensor, Tensor, Tensor, Tensor, float, int], Tensor]
"""Boxes (N, C, 4), scores, groups and valid (N, C), IoU threshold, most to keep: to a mask (N, C) of those kept."""


class Candidates(NamedTuple):
    """The best (row, class) pairs of the images of a batch, (N, C) each."""

    rows: Tensor  # int64: of the anchors or proposals
    labels: Tensor  # int64, 0..K-1
    levels: Tensor  # int64: the feature map of the row, 0 where all rows are ranked together
    scores: Tensor  # 0..1, or logits while only their order matters


def gather(values: Tensor, rows: Tensor) -> Tensor:
    """Rows (N, C) of values (N, M, ...) to (N, C, ...)."""
    index = rows.reshape(*rows.shape, *[1] * (values.ndim - 2)).expand(*rows.shape, *values.shape[2:])
    return values.gather(1, index)


def deltas_of(candidates: Candidates, deltas: Tensor) -> Tensor:
    """The deltas (N, C, 4) of each candidate out of (N, M, B, 4): those of its class, or the only ones where B is 1."""
    boxes = deltas.shape[2]
    return gather(deltas.flatten(1, 2), candidates.rows * boxes + (candidates.labels if boxes > 1 else 0))


def best(scores: Tensor, count: int, levels: Sequence[int] | None = None) -> Candidates:
    """The `count` highest of scores (N, M, K) over rows and classes; of each level, where `levels` has its rows."""
    num_classes, of_levels, start = scores.shape[2], [], 0
    for level, rows in enumerate(levels or [scores.shape[1]]):
        flat = scores[:, start : start + rows].flatten(1)  # (N, rows * K)
        top = flat.topk(min(count, rows * num_classes), dim=1)
        row = start + top.indices // num_classes
        of_levels.append((row, top.indices % num_classes, torch.full_like(row, level), top.values))
        start += rows
    return Candidates(*(torch.cat(column, 1) for column in zip(*of_levels, strict=True)))


def best_of_each_class(scores: Tensor, count: int, levels: Sequence[int] | None = None) -> Candidates:
    """The `count` highest of scores (N, M, K) of each class, all levels together (SSD, section 2.2: "top 200")."""
    top = scores.transpose(1, 2).topk(min(count, scores.shape[1]), dim=2)  # (N, K, count)
    labels = torch.arange(scores.shape[2], device=scores.device)[:, None].expand_as(top.indices)
    rows, labels, values = (column.flatten(1) for column in (top.indices, labels, top.values))
    return Candidates(rows, labels, torch.zeros_like(rows), values)


def least_background(scores: Tensor, count: int, levels: Sequence[int] | None = None) -> Candidates:
    """The `count` rows of scores (N, M, K) that are least likely background, each as its best class alone.

    Their score is the sum over all classes: the probability that there is an object.
    """
    candidates = best(scores.sum(-1, keepdim=True), count)
    return candidates._replace(labels=gather(scores.argmax(-1), candidates.rows))


class Select(nn.Module):
    """Which of the scored boxes become detections, in a fixed number of slots per image.

    score_threshold  a detection scores more than this: one number, or one for each class
    iou_threshold    overlap above which the lower-scored of two boxes is suppressed
    pre_nms_top_k    how many of the best enter suppression (of each level, for a pyramid of anchors)
    slots            how many come out
    within           which boxes suppress each other: those of one class, of one level (as in region proposal
                     networks), or all of the image
    min_size         pixels; a box narrower or lower than this, once clipped to its image, is dropped
    drop_after_nms   small boxes enter suppression and count among the slots; they are dropped from these at the end
                     (Detectron2)
    clip_after_nms   all boxes enter suppression unclipped; those in the slots are clipped, and dropped if small
                     (Detectron2's RetinaNet)
    suppress         the suppression itself
    """

    def __init__(
        self, score_threshold: float | tuple[float, ...] = 0.05, iou_threshold: float = 0.5, pre_nms_top_k: int = 1000,
        slots: int = 100, within: Literal["class", "level", "image"] = "class", min_size: float = MIN_SIZE,
        drop_after_nms: bool = False, clip_after_nms: bool = False, suppress: Suppress = nms_mask,
    ) -> None:  # fmt: skip
        super().__init__()
        if within not in ("class", "level", "image"):
            raise ValueError(f"boxes suppress each other within class, level or image, got {within!r}")
        self.score_threshold, self.iou_threshold, self.within = score_threshold, iou_threshold, within
        self.pre_nms_top_k, self.slots, self.min_size = pre_nms_top_k, slots, min_size
        self.drop_after_nms, self.clip_after_nms, self.suppress = drop_after_nms, clip_after_nms, suppress

    def forward(self, boxes: Tensor, candidates: Candidates, sizes: Tensor, logits: bool = False) -> Slots:
        """Boxes (N, C, 4) of candidates (N, C) and sizes (N, 2) of the images to slots (N, S), best first.

        The boxes that come out are clipped to their image. A slot that is not valid holds zeros.

        logits  the scores of the candidates are logits: they rank where sigmoids are equal (in float32 from 16.7 on)
        """
        ranks, labels, levels = candidates.scores, candidates.labels, candidates.levels
        boxes = boxes if self.clip_after_nms else clip(boxes, sizes)
        groups = {"class": labels, "level": levels, "image": torch.zeros_like(labels)}[self.within]
        drop_after_nms = self.drop_after_nms or self.clip_after_nms
        scores = ranks.sigmoid() if logits else ranks
        valid = (scores > self._thresholds(candidates)) & (drop_after_nms | self._is_large_enough(boxes))
        kept = self.suppress(boxes, ranks, groups, valid, self.iou_threshold, self.slots)

        ranked = torch.where(kept, ranks, -torch.inf)
        ranked = F.pad(ranked, (0, max(0, self.slots - ranked.shape[1])), value=-torch.inf)  # (N, C or S if more)
        top = ranked.topk(self.slots, dim=1)
        valid = top.values > -torch.inf
        rows = top.indices.clamp(max=boxes.shape[1] - 1)
        boxes = gather(boxes, rows)
        if self.clip_after_nms:
            boxes = clip(boxes, sizes)
        if drop_after_nms:
            valid &= self._is_large_enough(boxes)
        boxes = torch.where(valid[..., None], boxes, 0.0)
        scores = torch.where(valid, gather(scores, rows), 0.0)
        labels = torch.where(valid, gather(labels, rows), 0)
        return Slots(boxes, scores, labels, valid)

    def _is_large_enough(self, boxes: Tensor) -> Tensor:
        return (boxes[..., 2:] - boxes[..., :2]).amin(-1) >= self.min_size

    def _thresholds(self, candidates: Candidates) -> float | Tensor:
        if not isinstance(self.score_threshold, tuple):
            return self.score_threshold
        return torch.stack([candidates.scores.new_full((), t) for t in self.score_threshold])[candidates.labels]


def build_features(
    config: LearningBackbone, pretrained: bool, levels: Sequence[int] = (), dilated: bool = False
) -> Features:
    """The maps of these levels of the backbone, () being the config's; dilated, level 5 has stride 16."""
    levels = levels or config.levels
    backbone = build_backbone(config.backbone, levels, pretrained, config.frozen_stages, config.norm, dilated)
    return Features(with_colors(config, backbone))


def build_pyramid(
    config: LearningBackbone, pretrained: bool, channels: int, extra: int, how: Literal["pool", "conv", "conv_c5"]
) -> Features:
    """A feature pyramid over the maps of the backbone, with `extra` coarser levels made as `how` says."""
    backbone = build_features(config, pretrained).backbone
    return Features(backbone, FeaturePyramid(backbone.channels, channels, backbone.strides, extra, how))


def with_colors(config: BackboneFields, backbone: Backbone) -> Backbone:
    """The backbone, with the pixel mean and deviation of the config where that has them."""
    backbone.pixel_mean = config.pixel_mean or backbone.pixel_mean
    backbone.pixel_std = config.pixel_std or backbone.pixel_std
    return backbone


def build_select(
    config: SelectionFields, num_classes: int, min_size: float = Convention.min_size, drop_after_nms: bool = False,
    clip_after_nms: bool = False,
) -> Select:  # fmt: skip
    """The selection of a detector whose config has its numbers; `min_size` in pixels."""
    return Select(
        score_threshold(config, num_classes), config.nms_threshold, config.pre_nms_top_k, config.max_detections,
        min_size=min_size, drop_after_nms=drop_after_nms, clip_after_nms=clip_after_nms,
    )  # fmt: skip


def score_threshold(config: ScoreFields, num_classes: int) -> float | tuple[float, ...]:
    """One number, or one for each class."""
    values = config.score_threshold
    if len(values) not in (1, num_classes):
        raise ValueError(f"score_threshold is one number or one for each of {num_classes} classes, got {len(values)}")
    return values[0] if len(values) == 1 else values
