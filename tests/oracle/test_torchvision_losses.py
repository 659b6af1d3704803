"""Losses of the stages against torchvision's formulas, from the same outputs, anchors and assignments.

torchvision divides RetinaNet's losses by the positives of each picture and averages, we divide by those of the batch:
one picture at a time they are the same. Its box loss is plain L1; ours has that at beta 0.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import RPNHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.models.detection.rpn import AnchorGenerator, RegionProposalNetwork

from boxwright.assign import Balanced, ByOverlap, everything
from boxwright.boxes.anchors import AnchorGrid
from boxwright.boxes.codec import DeltaCodec
from boxwright.detectors.anchor_stage import AnchorStage, Dense
from boxwright.detectors.region_stage import RegionStage
from boxwright.detectors.select import Select
from boxwright.losses import DeltaLoss, binary_cross_entropy, focal
from boxwright.types import Slots, Target

CLASSES = 5
SHAPES = ((12, 16), (6, 8))
GRID = AnchorGrid(sizes=((32.0,), (64.0,)), ratios=(0.5, 1.0, 2.0), strides=(8, 16))
ANCHORS = torch.cat(GRID(SHAPES))
LEVELS = tuple(height * width * 3 for height, width in SHAPES)
OBJECTS = torch.tensor([[10.0, 20.0, 50.0, 60.0], [60.0, 10.0, 120.0, 80.0], [5.0, 5.0, 40.0, 30.0]])
LABELS = torch.tensor([3, 0, 1])


def outputs(classes: int, images: int = 1) -> tuple[Tensor, Tensor]:
    noise = torch.Generator().manual_seed(0)
    shape = (images, len(ANCHORS))
    return torch.randn(*shape, classes, generator=noise), 0.5 * torch.randn(*shape, 4, generator=noise)


def anchor_stage(rpn: bool) -> AnchorStage:
    return AnchorStage(
        head=nn.Identity(),
        anchors=GRID,
        codec=DeltaCodec(),
        assign=ByOverlap(0.7, 0.3, rescue=True) if rpn else ByOverlap(0.5, 0.4, rescue=True),
        sample=Balanced(10_000, positive=1.0) if rpn else everything,
        class_loss=binary_cross_entropy if rpn else focal,
        box_loss=DeltaLoss(beta=1 / 9 if rpn else 0),
        select=Select(),
        by_positives=not rpn,
    )


def test_retinanet() -> None:
    logits, deltas = (output.requires_grad_() for output in outputs(CLASSES))
    stage = anchor_stage(rpn=False)
    target = Target(OBJECTS, LABELS)
    losses = stage.loss(Dense(logits, deltas, ANCHORS, LEVELS), [target])

    head = RetinaNetHead(8, 3, CLASSES)
    theirs = head.compute_loss(
        [{"boxes": OBJECTS, "labels": LABELS}],
        {"cls_logits": logits, "bbox_regression": deltas},
        [ANCHORS],
        [stage.assign(ANCHORS, target)],  # -1 and -2 mean the same there
    )
    torch.testing.assert_close(losses["class"], theirs["classification"])
    torch.testing.assert_close(losses["box"], theirs["bbox_regression"])
    assert losses["box"] > 0
    ours = torch.autograd.grad(losses["class"] + losses["box"], [logits, deltas])
    other = torch.autograd.grad(theirs["classification"] + theirs["bbox_regression"], [logits, deltas])
    for mine, their in zip(ours, other, strict=True):
        torch.testing.assert_close(mine, their)


@pytest.mark.parametrize("images", [1, 3])
def test_region_proposal_network(images: int) -> None:
    """With all anchors sampled that are not ignored, so that chance has no say."""
    logits, deltas = outputs(1, images)
    targets = [Target(OBJECTS[: 3 - image], torch.zeros(3 - image, dtype=torch.int64)) for image in range(images)]
    losses = anchor_stage(rpn=True).loss(Dense(logits, deltas, ANCHORS, LEVELS), targets)

    generator = AnchorGenerator(((32,), (64,)), ((0.5, 1.0, 2.0),) * 2)
    pre: dict[str, int] = {"training": 100, "testing": 100}
    theirs = RegionProposalNetwork(generator, RPNHead(8, 3), 0.7, 0.3, 10_000, 1.0, pre, pre, 0.7)
    labels, matched = theirs.assign_targets_to_anchors([ANCHORS] * images, [{"boxes": t.boxes} for t in targets])
    wanted = theirs.box_coder.encode(matched, [ANCHORS] * images)
    objectness, box = theirs.compute_loss(logits.flatten(0, 1), deltas.flatten(0, 1), labels, wanted)
    torch.testing.assert_close(losses["class"], objectness)
    torch.testing.assert_close(losses["box"], box)
    assert box > 0


class Fixed(nn.Module):
    """Pool and head in one: says of the regions, in their order, what it was told, and remembers who they were."""

    def __init__(self, logits: Tensor, deltas: Tensor) -> None:
        super().__init__()
        self.logits, self.deltas, self.boxes = logits, deltas, torch.empty(0)

    def forward(self, maps: list[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
        self.boxes = boxes
        return self.logits, self.deltas


class Told(nn.Module):
    def forward(self, told: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return told


def test_region_head() -> None:
    """Every proposal is sampled. torchvision's first class is the background, ours the last column."""
    noise = torch.Generator().manual_seed(1)
    corner = torch.rand(20, 2, generator=noise) * 60
    proposals = torch.cat([OBJECTS + 3, torch.cat([corner, corner + 20], 1)])
    count = len(proposals) + len(OBJECTS)
    logits = torch.randn(count, CLASSES + 1, generator=noise)
    deltas = torch.randn(count, CLASSES, 4, generator=noise)
    codec, told = DeltaCodec((10.0, 10.0, 5.0, 5.0)), Fixed(logits, deltas)
    stage = RegionStage(
        pool=told,
        head=Told(),
        codec=codec,
        assign=ByOverlap(0.5, 0.5),
        sample=Balanced(count, positive=1.0),
        box_loss=DeltaLoss(codec),
        select=Select(),
    )
    valid = torch.ones(1, len(proposals), dtype=torch.bool)
    slots = Slots(proposals[None], valid.float(), valid.long(), valid)
    target = Target(OBJECTS, LABELS)
    losses = stage.loss([], slots, [target])

    (regions,) = told.boxes
    row = stage.assign(regions, target)
    labels = torch.where(row >= 0, LABELS[row.clamp(min=0)] + 1, 0)
    wanted = codec.encode(OBJECTS[row.clamp(min=0)], regions)
    their_deltas = torch.cat([torch.zeros(count, 4), deltas.flatten(1)], 1)
    of_class, of_box = fastrcnn_loss(logits.roll(1, 1), their_deltas, [labels], [wanted])
    assert 6 <= (labels > 0).sum() < count
    torch.testing.assert_close(losses["class"], of_class)
    torch.testing.assert_close(losses["box"], of_box)
