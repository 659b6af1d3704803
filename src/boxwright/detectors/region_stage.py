"""The second stage: pool each proposal, name it, refine its box (Girshick 2015, "Fast R-CNN").

Vocabulary: N images, P proposals each, S of them sampled to learn, C candidates, K classes, B box predictions a
proposal: K, or 1 when class-agnostic. The softmax has K + 1 columns; the last is background.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.assign import BACKGROUND, IGNORED, Balanced, ByOverlap
from boxwright.boxes.codec import DeltaCodec
from boxwright.detectors.select import Select, best, gather
from boxwright.types import Losses, Slots, Target


class RegionHead(nn.Module):
    """Two fully connected layers, then K + 1 class logits and four deltas, per class or once."""

    def __init__(self, channels: int, size: int, hidden: int, classes: int, agnostic: bool) -> None:
        super().__init__()
        self.hidden = nn.Sequential(
            nn.Flatten(), nn.Linear(channels * size * size, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
        )
        self.logits = nn.Linear(hidden, classes + 1)
        self.deltas = nn.Linear(hidden, 4 * (1 if agnostic else classes))
        nn.init.normal_(self.logits.weight, std=0.01)
        nn.init.normal_(self.deltas.weight, std=0.001)
        nn.init.zeros_(self.logits.bias)
        nn.init.zeros_(self.deltas.bias)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """(R, C, size, size) to logits (R, K + 1) and deltas (R, B, 4)."""
        hidden = self.hidden(pooled)
        return self.logits(hidden).float(), self.deltas(hidden).float().unflatten(1, (-1, 4))


class RegionStage(nn.Module):
    """Pooling, head, assignment, sampling, losses and selection over proposals: each a part to be exchanged."""

    def __init__(
        self,
        pool: nn.Module,
        head: nn.Module,
        codec: DeltaCodec,
        assign: ByOverlap,
        sample: Balanced,
        box_loss: Callable[[Tensor, Tensor, Tensor], Tensor],
        select: Select,
    ) -> None:
        super().__init__()
        self.pool, self.head, self.codec = pool, head, codec
        self.assign, self.sample, self.box_loss, self.select = assign, sample, box_loss, select

    def forward(self, maps: list[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Proposals (N, P, 4) to logits (N, P, K + 1) and deltas (N, P, B, 4)."""
        logits, deltas = self.head(self.pool(maps, boxes))
        return logits.unflatten(0, boxes.shape[:2]), deltas.unflatten(0, boxes.shape[:2])

    def loss(self, maps: list[Tensor], proposals: Slots, targets: list[Target]) -> Losses:
        """The class and the box loss over sampled proposals; the objects themselves join the proposals."""
        drawn = [self._draw(p, v, t) for p, v, t in zip(proposals.boxes, proposals.valid, targets, strict=True)]
        boxes, counts, labels, objects = (torch.stack(column) for column in zip(*drawn, strict=True))
        logits, deltas = self(maps, boxes)  # (N, S, K + 1), (N, S, B, 4)

        positive = counts & (labels != BACKGROUND)
        labels = torch.where(labels == BACKGROUND, logits.shape[-1] - 1, labels)
        of_class = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none") * counts.flatten()
        image, row = positive.nonzero(as_tuple=True)
        column = labels[image, row] if deltas.shape[2] > 1 else 0
        of_box = self.box_loss(deltas[image, row, column], boxes[image, row], objects[image, row])
        count = counts.sum().clamp(min=1)
        return {"class": of_class.sum() / count, "box": of_box.sum() / count}

    @torch.no_grad()
    def _draw(self, proposals: Tensor, valid: Tensor, target: Target) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """S = `sample.count` proposals of one image: boxes (S, 4), who counts (S,), labels (S,), true boxes (S, 4).

        Where the image has fewer than S, the rest does not count.
        """
        candidates = torch.cat([proposals, target.boxes])
        real = torch.cat([valid, ~target.crowd])
        assigned = self.assign(candidates, target).masked_fill(~real, IGNORED)
        chosen = self.sample(assigned)
        order = chosen.to(torch.int8).argsort(descending=True, stable=True)
        order = F.pad(order, (0, max(0, self.sample.count - len(order))))[: self.sample.count]
        counts = torch.arange(len(order), device=order.device) < chosen.sum()
        row = assigned[order].clamp(min=BACKGROUND)  # -1 reads the last row, which is added for the background
        labels = F.pad(target.labels, (0, 1), value=BACKGROUND)[row]
        objects = F.pad(target.boxes, (0, 0, 0, 1))[row]
        return candidates[order], counts, labels, objects

    def detect(self, maps: list[Tensor], proposals: Slots, sizes: Tensor) -> Slots:
        """Proposals, classified and refined, to slots."""
        logits, deltas = self(maps, proposals.boxes)
        scores = logits.softmax(-1)[..., :-1].masked_fill(~proposals.valid[..., None], 0.0)  # (N, P, K)
        found = best(scores, self.select.candidates)
        columns = found.labels if deltas.shape[2] > 1 else torch.zeros_like(found.labels)
        deltas = gather(deltas.flatten(1, 2), found.rows * deltas.shape[2] + columns)  # (N, C, 4)
        boxes = self.codec.decode(deltas, gather(proposals.boxes, found.rows))
        return self.select(boxes, found, sizes)
