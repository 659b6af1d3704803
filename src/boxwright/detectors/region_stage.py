"""Regions: pool each proposal, classify it, refine its box. All of R-CNN, SPP-net and Fast R-CNN; others' second stage.

They differ in what is pooled (pixels or maps), in the pooling, and in what is trained (Girshick et al. 2014; He et al.
2014; Girshick 2015; Ren et al. 2015; Dai et al. 2016). A `Cascade` has several of them in a row.

Vocabulary: N images, P proposals each, S of them sampled for the loss, R regions in all, C candidates, K classes, B box
predictions a region: K, or 1 when class-agnostic. The softmax has K + 1 columns; the last is background.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.assign import (
    BACKGROUND,
    IGNORED,
    Assign,
    BalancedSampler,
    MaxIoUAssigner,
    Prediction,
    matched_labels_and_boxes,
    rows_of,
)
from boxwright.backbones import build_tail
from boxwright.backbones.features import Features
from boxwright.boxes.anchors import DeltaCodec
from boxwright.boxes.geometry import at_least_float32
from boxwright.detectors.anchor_stage import tower
from boxwright.detectors.base import (
    Candidates,
    Select,
    best,
    build_features,
    build_pyramid,
    build_select,
    deltas_of,
    gather,
)
from boxwright.detectors.fields import CONVENTIONS, RegionFields, SharedFields
from boxwright.layers.regions import RegionAlign, RegionPool
from boxwright.losses import BOX_LOSSES
from boxwright.types import Losses, Slots, Target

if TYPE_CHECKING:
    from boxwright.detectors.config import FasterRCNNConfig, FastRCNNConfig


class RegionHead(nn.Module):
    """Layers that run on each region, then K + 1 class logits and four deltas, per class or once.

    hidden  pooled regions (R, ...) to (R, width): `mlp_head` layers, or a network (`GlobalAveragePool`)
    """

    def __init__(self, hidden: nn.Module, width: int, num_classes: int, class_agnostic: bool) -> None:
        super().__init__()
        self.hidden = hidden
        self.logits = nn.Linear(width, num_classes + 1)
        self.deltas = nn.Linear(width, 4 * (1 if class_agnostic else num_classes))
        for layer, std in ((self.logits, 0.01), (self.deltas, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled regions (R, ...) to logits (R, K + 1) and deltas (R, B, 4)."""
        hidden = self.hidden(pooled)
        logits, deltas = at_least_float32(self.logits(hidden)), at_least_float32(self.deltas(hidden))
        return logits, deltas.unflatten(1, (-1, 4))


def mlp_head(numbers: int, width: int, layers: int = 2) -> nn.Sequential:
    """Fully connected layers, each with a ReLU: regions (R, ...) of so many numbers to (R, width)."""
    widths = [numbers, *[width] * layers]
    return nn.Sequential(nn.Flatten(), *(part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())))


class GlobalAveragePool(nn.Module):
    """The mean over the last map of a network, or of a part of one, that runs on every region."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, regions: Tensor) -> Tensor:
        """(R, C, h, w) to (R, width)."""
        maps = self.backbone(regions)
        return (maps if isinstance(maps, Tensor) else maps[-1]).mean((2, 3))


class RegionStage(nn.Module):
    """Pooling, head, assignment, sampling, losses and selection over proposals, each an exchangeable part.

    pool        maps and boxes (N, P, 4) to pooled regions (N * P, ...)
    head        pooled regions (R, ...) to logits (R, K + 1) and deltas (R, B, 4)
    codec       deltas to boxes
    assign      which proposal learns which object; it sees boxes only, as proposals are assigned before they are pooled
    sample      which proposals count
    box_loss    (deltas, proposals, boxes), each (P, 4), to a loss per proposal
    select      scored boxes to slots
    choose      which (proposal, class) pairs of scores (N, P, K) enter the selection: `best` or `least_background`
    box_weight  of the box loss against the class loss (Fast R-CNN, eq. 1)
    chunk       proposals of an image that are pooled at once, for heads that need much memory; None: all
    """

    def __init__(
        self, pool: nn.Module, head: nn.Module, codec: DeltaCodec, assign: Assign, sample: BalancedSampler,
        box_loss: Callable[[Tensor, Tensor, Tensor], Tensor], select: Select,
        choose: Callable[[Tensor, int], Candidates] = best, box_weight: float = 1.0, chunk: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.pool, self.head, self.codec = pool, head, codec
        self.assign, self.sample, self.box_loss, self.select = assign, sample, box_loss, select
        self.choose, self.box_weight, self.chunk = choose, box_weight, chunk

    def forward(self, maps: list[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Proposals (N, P, 4) to logits (N, P, K + 1) and deltas (N, P, B, 4)."""
        outputs = []
        for chunk in boxes.split(self.chunk or max(1, boxes.shape[1]), dim=1):
            outputs.append([output.unflatten(0, chunk.shape[:2]) for output in self.head(self.pool(maps, chunk))])
        logits, deltas = (torch.cat(chunks, dim=1) for chunks in zip(*outputs, strict=True))
        return logits, deltas

    def loss(self, maps: list[Tensor], proposals: Slots, targets: list[Target]) -> Losses:
        """The scalars `class` and `box` over sampled proposals, to which the objects themselves are added."""
        return self.learn(maps, proposals, targets)[0]

    def learn(self, maps: list[Tensor], proposals: Slots, targets: list[Target]) -> tuple[Losses, *tuple[Tensor, ...]]:
        """`loss`; and of the sampled proposals the boxes (N, S, 4), their deltas (N, S, B, 4), which count (N, S)."""
        drawn = [self._draw(p, v, t) for p, v, t in zip(proposals.boxes, proposals.valid, targets, strict=True)]
        boxes, counts, labels, objects = (torch.stack(column) for column in zip(*drawn, strict=True))
        logits, deltas = self(maps, boxes)  # (N, S, K + 1), (N, S, B, 4)

        positive = counts & (labels != BACKGROUND)
        labels = torch.where(labels == BACKGROUND, logits.shape[-1] - 1, labels)
        class_loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none") * counts.flatten()
        image, row, learns = rows_of(positive, positive.shape[1])
        column = labels[image, row].clamp(max=deltas.shape[2] - 1) if deltas.shape[2] > 1 else 0
        box_loss = self.box_loss(deltas[image, row, column], boxes[image, row], objects[image, row])
        box_loss = box_loss if learns.is_cpu else box_loss * learns  # a product by 1 rounds the gradient on a CPU
        count = counts.sum().clamp(min=1)
        losses = {"class": class_loss.sum() / count, "box": box_loss.sum() / count * self.box_weight}
        return losses, boxes, deltas, counts

    @torch.no_grad()
    def _draw(self, proposals: Tensor, valid: Tensor, target: Target) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """S = `sample.count` proposals of one image: boxes (S, 4), which count (S,), labels (S,), true boxes (S, 4).
        If the image has fewer than S, the rest does not count."""
        candidates = torch.cat([proposals, target.boxes])
        real = torch.cat([valid, ~target.crowd])
        assigned = self.assign(Prediction(candidates), target).masked_fill(~real, IGNORED)
        chosen = self.sample(assigned)
        order = chosen.to(torch.int8).argsort(descending=True, stable=True)
        order = F.pad(order, (0, max(0, self.sample.count - len(order))))[: self.sample.count]
        counts = torch.arange(len(order), device=order.device) < chosen.sum()
        return candidates[order], counts, *matched_labels_and_boxes(assigned[order], target)

    def detect(self, maps: list[Tensor], proposals: Slots, sizes: Tensor) -> Slots:
        """Proposals (N, P), classified and refined, to slots (N, S); sizes (N, 2) of the images."""
        logits, deltas = self(maps, proposals.boxes)
        scores = logits.softmax(-1)[..., :-1].masked_fill(~proposals.valid[..., None], 0.0)  # (N, P, K)
        candidates = self.choose(scores, self.select.pre_nms_top_k)  # (N, C) each
        boxes = self.codec.decode(deltas_of(candidates, deltas), gather(proposals.boxes, candidates.rows))  # (N, C, 4)
        return self.select(boxes, candidates, sizes)


class Cascade(RegionStage):
    """A region stage that others precede: each refines the boxes of the one before, and learns to be more exact (Cai &
    Vasconcelos 2018, "Cascade R-CNN").

    The loss of a stage counts half of that of the one before, as in the authors' code. A detection has the last stage's
    box, and the mean of the probabilities that all stages give it. Boxes are class-agnostic.
    """

    def __init__(self, *before: RegionStage, last: RegionStage) -> None:
        super().__init__(
            last.pool, last.head, last.codec, last.assign, last.sample, last.box_loss, last.select, last.choose,
            last.box_weight, last.chunk,
        )  # fmt: skip
        self.before = nn.ModuleList(before)

    @property
    def stages(self) -> list[RegionStage]:
        """Those before, and this one."""
        return [stage for stage in (*self.before, self) if isinstance(stage, RegionStage)]

    def loss(self, maps: list[Tensor], proposals: Slots, targets: list[Target]) -> Losses:
        """The scalars `class1` and `box1` of the first stage, and so on."""
        losses: Losses = {}
        for number, stage in enumerate(self.stages):
            of_stage, boxes, deltas, counts = stage.learn(maps, proposals, targets)
            losses |= {f"{name}{number + 1}": loss * 0.5**number for name, loss in of_stage.items()}
            boxes = stage.codec.decode(deltas[:, :, 0].detach(), boxes)
            proposals = Slots(boxes, counts.float(), torch.zeros_like(counts, dtype=torch.int64), counts)
        return losses

    def detect(self, maps: list[Tensor], proposals: Slots, sizes: Tensor) -> Slots:
        """As of `RegionStage`."""
        boxes, probabilities = proposals.boxes, []
        for stage in self.stages:
            logits, deltas = stage(maps, boxes)
            boxes = stage.codec.decode(deltas[:, :, 0], boxes)  # (N, P, 4)
            probabilities.append(logits.softmax(-1)[..., :-1])
        scores = torch.stack(probabilities).mean(0).masked_fill(~proposals.valid[..., None], 0.0)  # (N, P, K)
        candidates = self.choose(scores, self.select.pre_nms_top_k)
        return self.select(gather(boxes, candidates.rows), candidates, sizes)


def build_region_stage(
    config: RegionFields, pool: nn.Module, head: nn.Module, select: Select,
    choose: Callable[[Tensor, int], Candidates] = best, chunk: int | None = None, iou: float = 0.5, scale: float = 1.0,
) -> RegionStage:  # fmt: skip
    """The region stage of a config. A proposal of this `iou` is positive; `scale` multiplies the usual deltas."""
    codec = DeltaCodec(weights=(10.0 * scale, 10.0 * scale, 5.0 * scale, 5.0 * scale))
    box_loss = BOX_LOSSES[config.box_loss](codec)
    assign, sample = MaxIoUAssigner(high=iou, low=iou), BalancedSampler(config.region_samples, positive=0.25)
    return RegionStage(pool, head, codec, assign, sample, box_loss, select, choose, config.box_weight, chunk)


def build_cascade(
    config: FastRCNNConfig | FasterRCNNConfig, pool: nn.Module, head: nn.Module, select: Select
) -> Cascade:
    """The stages of `config.cascade`, the heads of which begin alike. The deltas grow with the stage, as in the
    paper's: the boxes that come in are nearer to the objects."""
    *before, last = (
        build_region_stage(config, pool, deepcopy(head), select, iou=iou, scale=scale)
        for scale, iou in enumerate(config.cascade, 1)
    )
    return Cascade(*before, last=last)


def build_shared(config: SharedFields, pretrained: bool) -> Features:
    """What the regions of an image share: a pyramid, or one map."""
    if config.variant == "fpn":
        return build_pyramid(config, pretrained, config.channels, extra=1, how="pool")
    if config.variant == "c4":
        return build_features(config, pretrained, levels=(4,))
    return build_features(config, pretrained, levels=(5,), dilated=True)


def build_regions(
    config: FastRCNNConfig | FasterRCNNConfig, features: Features, num_classes: int, pretrained: bool
) -> RegionStage:
    """Pooling from what is shared, and the head: fully connected layers, or the last stage of the backbone."""
    if config.variant == "c4":
        tail = build_tail(config.backbone, pretrained, config.norm)
        size, width, hidden = tail.size, tail.channels, GlobalAveragePool(tail)
    else:
        size, width, channels = 7, config.hidden, features.channels[0]
        hidden = mlp_head(channels * size * size, width, config.head_layers)
        if config.head_convs:
            hidden = nn.Sequential(tower(channels, config.head_convs), hidden)
    strides, convention = strides_read(config, features), CONVENTIONS[config.convention]
    if config.pool == "align":
        pool = RegionAlign(strides, size, convention.sampling_ratio, config.canonical_size, convention.aligned)
    else:
        pool = RegionPool(strides, size, config.canonical_size)
    head = RegionHead(hidden, width, num_classes, config.class_agnostic or bool(config.cascade))
    select = build_select(config, num_classes, convention.min_region_size, convention.drop_after_nms)
    return (build_cascade if config.cascade else build_region_stage)(config, pool, head, select)


def strides_read(config: SharedFields, features: Features) -> tuple[int, ...]:
    """Strides of the maps that regions are pooled from: the backbone's, of two alike the first."""
    return tuple(dict.fromkeys(features.strides[: len(config.levels)]))
