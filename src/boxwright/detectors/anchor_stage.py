"""Dense prediction over anchors: with one class a region proposal network, with K classes SSD or RetinaNet.

Vocabulary: N images, A anchors over all levels, a anchors per cell, K classes, C candidates, S slots.
Ren et al. 2015, "Faster R-CNN", section 3.1; Lin et al. 2017, "Focal Loss for Dense Object Detection", section 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from boxwright.assign import ByOverlap
from boxwright.boxes.anchors import AnchorGrid
from boxwright.boxes.codec import DeltaCodec
from boxwright.detectors.select import Select, best, gather
from boxwright.types import Losses, Slots, Target


class Dense(NamedTuple):
    """What the head says of every anchor."""

    logits: Tensor  # (N, A, K)
    deltas: Tensor  # (N, A, 4)
    anchors: Tensor  # (A, 4)
    levels: tuple[int, ...]  # anchors per level; they sum to A


class AnchorHead(nn.Module):
    """Convolutions shared by all levels, then K logits and four deltas for each anchor of a cell.

    shared  one tower for both outputs (RPN) rather than one for each (RetinaNet)
    prior   the probability every anchor starts with (Focal Loss, section 3.3)
    norm    what follows each convolution of the towers, of so many channels: `group_norm`, or nothing (the papers)
    """

    def __init__(
        self,
        channels: int,
        per_cell: int,
        classes: int,
        depth: int,
        shared: bool,
        prior: float = 0.5,
        norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.class_tower = tower(channels, depth, norm)
        self.box_tower = nn.Identity() if shared else tower(channels, depth, norm)
        self.shared, self.classes = shared, classes
        kernel = 1 if shared else 3
        self.logits = nn.Conv2d(channels, per_cell * classes, kernel, padding=kernel // 2)
        self.deltas = nn.Conv2d(channels, per_cell * 4, kernel, padding=kernel // 2)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.constant_(self.logits.bias, -math.log((1 - prior) / prior))  # type: ignore[arg-type]

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps (N, C, h, w) to logits (N, A, K) and deltas (N, A, 4), in the order of `AnchorGrid`."""
        logits, deltas = [], []
        for features in maps:
            for_class = self.class_tower(features)
            for_box = for_class if self.shared else self.box_tower(features)
            logits.append(_per_anchor(self.logits(for_class), self.classes))
            deltas.append(_per_anchor(self.deltas(for_box), 4))
        return torch.cat(logits, 1), torch.cat(deltas, 1)


def tower(channels: int, depth: int, norm: Callable[[int], nn.Module] | None = None) -> nn.Sequential:
    """`depth` times a 3x3 convolution, its norm if any, and ReLU."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers.append(nn.Conv2d(channels, channels, 3, padding=1, bias=norm is None))
        layers.extend([norm(channels)] if norm else [])
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def group_norm(channels: int) -> nn.GroupNorm:
    """Groups of eight channels: 32 of 256, as FCOS and torchvision's RetinaNet v2 have them."""
    return nn.GroupNorm(math.gcd(channels, max(1, channels // 8)), channels)


def _per_anchor(output: Tensor, numbers: int) -> Tensor:
    return output.permute(0, 2, 3, 1).reshape(output.shape[0], -1, numbers).float()  # (N, h * w * a, numbers)


class AnchorStage(nn.Module):
    """Head, anchors, assignment, losses and selection: each a part to be exchanged.

    head          maps to logits and deltas
    anchors       the boxes that deltas refer to
    codec         deltas to boxes
    assign        which anchor learns which object
    sample        which anchors count: `Balanced` (RPN), `everything` (RetinaNet)
    class_loss    (logits, 0 or 1) to a loss per logit
    box_loss      (deltas, anchors, boxes) to a loss per anchor
    select        scored boxes to slots
    by_positives  divide by the number of positives (RetinaNet) rather than of samples (RPN)
    """

    def __init__(
        self,
        head: nn.Module,
        anchors: AnchorGrid,
        codec: DeltaCodec,
        assign: ByOverlap,
        sample: Callable[[Tensor], Tensor],
        class_loss: Callable[[Tensor, Tensor], Tensor],
        box_loss: Callable[[Tensor, Tensor, Tensor], Tensor],
        select: Select,
        by_positives: bool,
    ) -> None:
        super().__init__()
        self.head, self.anchors, self.codec = head, anchors, codec
        self.assign, self.sample, self.class_loss, self.box_loss = assign, sample, class_loss, box_loss
        self.select, self.by_positives = select, by_positives

    def forward(self, maps: list[Tensor]) -> Dense:
        logits, deltas = self.head(maps)
        anchors = self.anchors([(m.shape[2], m.shape[3]) for m in maps], maps[0].device)
        return Dense(logits, deltas, torch.cat(anchors), tuple(len(level) for level in anchors))

    def loss(self, dense: Dense, targets: list[Target]) -> Losses:
        """The class and the box loss. Targets' labels pick the column of the logits."""
        assigned = torch.stack([self.assign(dense.anchors, target) for target in targets])  # (N, A)
        sampled = self.sample(assigned)
        positive = sampled & (assigned >= 0)
        count = (positive if self.by_positives else sampled).sum().clamp(min=1)

        image, anchor = positive.nonzero(as_tuple=True)  # (P,) each
        row = assigned[image, anchor] + _starts(targets)[image]
        labels = torch.cat([target.labels for target in targets])[row]
        boxes = torch.cat([target.boxes for target in targets])[row]
        wanted = torch.zeros_like(dense.logits)
        wanted[image, anchor, labels] = 1.0

        of_class = self.class_loss(dense.logits, wanted) * sampled[..., None]
        of_box = self.box_loss(dense.deltas[image, anchor], dense.anchors[anchor], boxes)
        return {"class": of_class.sum() / count, "box": of_box.sum() / count}

    def detect(self, dense: Dense, sizes: Tensor) -> Slots:
        """The best anchors, moved by their deltas, suppressed."""
        found = best(dense.logits, self.select.candidates, dense.levels)
        found = found._replace(scores=found.scores.sigmoid())  # monotonic, so of the winners only
        boxes = self.codec.decode(gather(dense.deltas, found.rows), dense.anchors[found.rows])  # (N, C, 4)
        return self.select(boxes, found, sizes)


def _starts(targets: list[Target]) -> Tensor:
    """Where each image's objects begin once all are in one row: (N,)."""
    counts = torch.tensor([0] + [len(target) for target in targets[:-1]], device=targets[0].boxes.device)
    return counts.cumsum(0)
