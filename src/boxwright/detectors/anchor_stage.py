"""Dense prediction over anchors: with one class a region proposal network, with K classes SSD, RetinaNet or FCOS.

Vocabulary: N images, A anchors over all levels, a anchors per cell, K classes, L logits an anchor (K, or K + 1 where
the last is background), B boxes an anchor (1, or K where each class has its own), P positive anchors, C candidates.
Ren et al. 2015, "Faster R-CNN", section 3.1; Lin et al. 2017, "Focal Loss for Dense Object Detection", section 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from boxwright.assign import Assign, Prediction, match, rows_of
from boxwright.boxes.anchors import Codec
from boxwright.boxes.geometry import at_least_float32, iou
from boxwright.detectors.base import Candidates, Detector, Select, best, deltas_of
from boxwright.layers.conv import ConvSequential, conv_norm
from boxwright.types import Images, Losses, Slots, Target

Norm = Callable[[int], nn.Module] | None
"""A normalisation layer for so many channels, or none."""


class Dense(NamedTuple):
    """The predictions of a batch, one for every anchor."""

    logits: Tensor  # (N, A, L)
    deltas: Tensor  # (N, A, B, 4)
    anchors: Tensor  # (A, 4) xyxy in pixels of the batch
    levels: tuple[int, ...]  # anchors per level; they sum to A
    quality: Tensor | None = None  # (N, A): logit of how well the anchor is placed, such as FCOS's centre-ness


class AnchorHead(nn.Module):
    """Convolutions shared by all levels, then L logits and B times four deltas for each anchor of a cell.

    depth   convolutions in a tower
    shared  one tower for both outputs (RPN) rather than one for each (RetinaNet)
    prior   the initial probability of every class of every anchor (Focal Loss, section 3.3)
    norm    normalisation after each convolution of the towers: `group_norms`, or none (the papers)
    boxes   box predictions an anchor: 1, or one per class
    lite    depthwise convolutions in the towers, 1x1 outputs (SSDlite)
    bias    convolutions of the towers have a bias even if a norm follows (FCOS)
    """

    def __init__(
        self, channels: int, per_cell: int, logits: int, depth: int, shared: bool, prior: float = 0.5,
        norm: Norm = None, boxes: int = 1, lite: bool = False, bias: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.class_tower = tower(channels, depth, norm, lite, bias)
        self.box_tower = nn.Identity() if shared else tower(channels, depth, norm, lite, bias)
        self.shared, self.columns, self.boxes = shared, logits, boxes
        kernel = 1 if shared or lite else 3
        self.logits = nn.Conv2d(channels, per_cell * logits, kernel, padding=kernel // 2)
        self.deltas = nn.Conv2d(channels, per_cell * boxes * 4, kernel, padding=kernel // 2)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.constant_(self.logits.bias, -math.log((1 - prior) / prior))  # type: ignore[arg-type]

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps (N, C, h, w) to logits (N, A, L) and deltas (N, A, B, 4), in the order of `AnchorGrid`."""
        logits, deltas = [], []
        for features in maps:
            class_features = self.class_tower(features)
            box_features = class_features if self.shared else self.box_tower(features)
            logits.append(per_anchor(conv_norm(class_features, self.logits), self.columns))
            deltas.append(per_anchor(conv_norm(box_features, self.deltas), self.boxes, 4))
        return torch.cat(logits, 1), torch.cat(deltas, 1)


def tower(channels: int, depth: int, norm: Norm = None, lite: bool = False, bias: bool = False) -> ConvSequential:
    """`depth` times a 3x3 convolution, its norm if any, and ReLU."""
    layers = (layer for _ in range(depth) for layer in unit(channels, channels, 3, norm, lite, bias=bias))
    return ConvSequential(*layers)


def unit(
    channels: int, out: int, kernel: int, norm: Norm = None, lite: bool = False, stride: int = 1, padded: bool = True,
    bias: bool = False,
) -> list[nn.Module]:  # fmt: skip
    """A convolution (lite: depthwise, unless 1x1), its norm if any, and ReLU (lite: ReLU6).

    bias  the convolution has a bias even if a norm follows
    """
    groups, padding = channels if lite and kernel > 1 else 1, kernel // 2 if padded else 0
    conv = nn.Conv2d(channels, out, kernel, stride, padding, groups=groups, bias=bias or norm is None)
    return [conv, *([norm(out)] if norm else []), nn.ReLU6() if lite else nn.ReLU()]


def group_norms(size: int) -> Norm:
    """Group norms whose groups have `size` channels, or more where the number of channels is no multiple of it."""
    return lambda channels: nn.GroupNorm(math.gcd(channels, max(1, channels // size)), channels)


def per_anchor(output: Tensor, *numbers: int) -> Tensor:
    """A convolution's (N, a * numbers, h, w) to (N, h * w * a, *numbers), in float32 at least."""
    return at_least_float32(output.permute(0, 2, 3, 1).reshape(output.shape[0], -1, *numbers))


class AnchorStage(nn.Module):
    """Head, anchors, assignment, losses and selection, each an exchangeable part.

    head          maps to logits (N, A, L), deltas (N, A, B, 4) and, in FCOS, quality (N, A)
    anchors       shapes of the maps to the boxes (A, 4) that deltas refer to, level by level
    codec         deltas to boxes
    assign        which anchor learns which object; it sees the predictions of one image
    sample        which anchors count, from assignments and class losses (N, A): `BalancedSampler` (RPN),
                  `HardNegativeMining` (SSD), `all_valid_anchors` (RetinaNet). Its `count`, if it has one, is the most
                  that it takes of an image: on an accelerator box losses then get so many rows, of which some count 0
    class_loss    logits (N, A, L) and labels (N, A), `BACKGROUND` where there is no object, to a loss per anchor
    box_loss      (deltas, anchors, boxes), each (P, 4), to a loss per positive anchor
    select        scored boxes to slots
    divide_by     what the sums of losses are divided by: the "samples" of the batch (RPN), its "positives" (RetinaNet),
                  or "own_positives", of each image by itself, then the mean over images (torchvision's RetinaNet)
    softmax       scores are a softmax whose last column is background (SSD), rather than a sigmoid per class
    quality_loss  (quality, anchors, boxes) of the positives to a loss for each (FCOS); the score is then the geometric
                  mean of the probabilities of the class and of the quality
    choose        which (anchor, class) pairs of scores (N, A, K) enter the selection: `best` or `best_of_each_class`
    iou_targets   class_loss has a third argument, the IoU (N, A) of the predicted boxes with the true ones
    """

    def __init__(
        self, head: nn.Module, anchors: Callable[[Sequence[Sequence[int]], torch.device], list[Tensor]], codec: Codec,
        assign: Assign, sample: Callable[[Tensor, Tensor], Tensor], class_loss: Callable[..., Tensor],
        box_loss: Callable[[Tensor, Tensor, Tensor], Tensor], select: Select,
        divide_by: Literal["samples", "positives", "own_positives"] = "positives", softmax: bool = False,
        quality_loss: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
        choose: Callable[[Tensor, int, Sequence[int]], Candidates] = best, iou_targets: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if divide_by not in ("samples", "positives", "own_positives"):
            raise ValueError(f"losses are divided by samples, positives or own_positives, got {divide_by!r}")
        self.head, self.anchors, self.codec = head, anchors, codec
        self.assign, self.sample, self.select = assign, sample, select
        self.class_loss, self.box_loss, self.quality_loss = class_loss, box_loss, quality_loss
        self.divide_by, self.softmax, self.choose, self.iou_targets = divide_by, softmax, choose, iou_targets

    def forward(self, maps: list[Tensor]) -> Dense:
        """Maps (N, C, h, w), one per level, to the predictions of all A anchors."""
        logits, deltas, *quality = self.head(maps)
        anchors = self.anchors([(m.shape[2], m.shape[3]) for m in maps], maps[0].device)
        return Dense(logits, deltas, torch.cat(anchors), tuple(level.shape[0] for level in anchors), *quality)

    def loss(self, dense: Dense, targets: list[Target]) -> Losses:
        """The scalars `class`, `box` and, with a quality, `quality`; targets are one per image."""
        assigned, labels, boxes = match(self.assign, self.predictions(dense), targets)  # (N, A), (N, A), (N, A, 4)
        overlaps = (self.overlaps(dense, labels, boxes),) if self.iou_targets else ()
        class_loss = self.class_loss(dense.logits, labels, *overlaps)  # (N, A)
        sampled = self.sample(assigned, class_loss.detach())  # (N, A)
        positive = sampled & (assigned >= 0)
        count = self._count(sampled, positive)  # (N,)
        losses = {"class": ((class_loss * sampled).sum(1) / count).sum()}

        image, anchor, counts = rows_of(positive, getattr(self.sample, "count", None))  # (P,) each
        column = labels[image, anchor].clamp(min=0) if dense.deltas.shape[2] > 1 else 0
        anchors, boxes = dense.anchors[anchor], boxes[image, anchor]
        box_loss = self.box_loss(dense.deltas[image, anchor, column], anchors, boxes)  # (P,)
        losses["box"] = (box_loss / count[image] * counts).sum()
        if self.quality_loss is not None and dense.quality is not None:
            quality_loss = self.quality_loss(dense.quality[image, anchor], anchors, boxes)  # (P,)
            losses["quality"] = (quality_loss / count[image] * counts).sum()
        return losses

    def predictions(self, dense: Dense) -> list[Prediction]:
        """What assignment sees of each of the N images."""
        logits, boxes = dense.logits.detach(), self.likeliest_boxes
        return [
            Prediction(dense.anchors, logits[i], partial(boxes, dense, i), dense.levels) for i in range(len(logits))
        ]

    def likeliest_boxes(self, dense: Dense, image: int) -> Tensor:
        """The boxes (A, 4) that the anchors of an image predict, each for its most likely class."""
        deltas = dense.deltas[image]
        return self._boxes(dense.logits[image, :, : deltas.shape[1]].argmax(1), deltas, dense.anchors)

    def overlaps(self, dense: Dense, labels: Tensor, boxes: Tensor) -> Tensor:
        """The IoU (N, A) of the boxes that anchors predict for their labels (N, A) with the true ones (N, A, 4)."""
        return iou(self._boxes(labels, dense.deltas, dense.anchors), boxes)

    def _boxes(self, labels: Tensor, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Labels (..., A) and deltas (..., A, B, 4) to the boxes (..., A, 4) of these classes, without gradients."""
        columns = labels.clamp(0, deltas.shape[-2] - 1)[..., None, None]  # 0 where all classes share a box
        return self.codec.decode(deltas.detach().take_along_dim(columns, -2).squeeze(-2), anchors)

    def _count(self, sampled: Tensor, positive: Tensor) -> Tensor:
        """The divisor of each image's losses, (N,), from masks (N, A)."""
        counts = (sampled if self.divide_by == "samples" else positive).sum(1)
        if self.divide_by == "own_positives":
            return counts.clamp(min=1) * len(counts)
        return counts.sum().clamp(min=1).expand(len(counts))

    def detect(self, dense: Dense, sizes: Tensor) -> Slots:
        """The best anchors, moved by their deltas and suppressed: N images of sizes (N, 2) to slots (N, S)."""
        by_logits = not self.softmax and dense.quality is None  # a sigmoid keeps the order: only the best need it
        scores = dense.logits if by_logits else self.scores(dense)
        candidates = self.choose(scores, self.select.pre_nms_top_k, dense.levels)  # (N, C) each
        boxes = self.codec.decode(deltas_of(candidates, dense.deltas), dense.anchors[candidates.rows])  # (N, C, 4)
        return self.select(boxes, candidates, sizes, by_logits)

    def scores(self, dense: Dense) -> Tensor:
        """The probability of every class at every anchor, (N, A, K)."""
        scores = dense.logits.softmax(-1)[..., :-1] if self.softmax else dense.logits.sigmoid()
        return scores if dense.quality is None else (scores * dense.quality.sigmoid()[..., None]).sqrt()


class SingleStage(Detector):
    """features -> AnchorStage, with the losses of the stage: SSD, RetinaNet and FCOS are this with other parts."""

    def __init__(self, features: nn.Module, anchors: AnchorStage) -> None:
        super().__init__()
        self.features, self.anchors = features, anchors

    def compute_loss(self, images: Images, targets: list[Target]) -> Losses:
        """The scalars `class`, `box` and, in FCOS, `quality`."""
        return self.anchors.loss(self.anchors(self.features(images.pixels)), targets)

    def slots(self, images: Images) -> Slots:
        """Detections (N, S) of N images, boxes in pixels of the batch."""
        return self.anchors.detect(self.anchors(self.features(images.pixels)), images.sizes)
