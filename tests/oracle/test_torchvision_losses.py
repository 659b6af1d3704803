"""Losses of the stages against torchvision's formulas, from the same outputs, anchors and assignments.

torchvision divides RetinaNet's losses by the positives of each image and averages: our "own_positives". Its box loss
is plain L1; ours has that at beta 0.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.faster_rcnn import RPNHead
from torchvision.models.detection.fcos import FCOS, FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from boxwright.assign import (
    BalancedSampler,
    CenterAssigner,
    HardNegativeMining,
    MaxIoUAssigner,
    Prediction,
    all_valid_anchors,
)
from boxwright.boxes.anchors import AnchorGrid, DeltaCodec, DistanceCodec
from boxwright.detectors.anchor_stage import AnchorStage, Dense
from boxwright.detectors.base import Select
from boxwright.detectors.region_stage import RegionStage
from boxwright.losses import DeltaLoss, GIoULoss, binary_cross_entropy, centerness_loss, cross_entropy, focal
from boxwright.types import Losses, Slots, Target

CLASSES = 5
SHAPES = ((12, 16), (6, 8))
GRID = AnchorGrid(sizes=((32.0,), (64.0,)), ratios=(0.5, 1.0, 2.0), strides=(8, 16))
ANCHORS = torch.cat(GRID(SHAPES))
LEVELS = tuple(height * width * 3 for height, width in SHAPES)
OBJECTS = torch.tensor([[10.0, 20.0, 50.0, 60.0], [60.0, 10.0, 120.0, 80.0], [5.0, 5.0, 40.0, 30.0]])
LABELS = torch.tensor([3, 0, 1])


def outputs(columns: int, images: int = 1) -> tuple[Tensor, Tensor]:
    """Logits (N, A, columns) and deltas (N, A, 1, 4) to be differentiated."""
    noise = torch.Generator().manual_seed(0)
    shape = (images, len(ANCHORS))
    logits, deltas = torch.randn(*shape, columns, generator=noise), torch.randn(*shape, 1, 4, generator=noise)
    return logits.requires_grad_(), deltas.mul_(0.5).requires_grad_()


def make_images(images: int) -> list[Target]:
    """The first has all objects, each further one an object less."""
    return [Target(OBJECTS[: len(OBJECTS) - image], LABELS[: len(LABELS) - image]) for image in range(images)]


def as_theirs(targets: list[Target], first: int = 0) -> list[dict[str, Tensor]]:
    """Dictionaries, labels counted from `first`."""
    return [{"boxes": target.boxes, "labels": target.labels + first} for target in targets]


def assert_same(ours: Losses, theirs: dict[str, Tensor], names: dict[str, str], inputs: list[Tensor]) -> None:
    """The same losses, none of them 0, and the same gradients of their sum."""
    assert set(names) == set(ours) and set(names.values()) == set(theirs)
    for mine, other in names.items():
        torch.testing.assert_close(ours[mine], theirs[other])
        assert ours[mine] > 0
    sums = (torch.stack(list(losses.values())).sum() for losses in (ours, theirs))
    gradients = [torch.autograd.grad(total, inputs) for total in sums]
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other)


def anchor_stage(**parts: Any) -> AnchorStage:
    defaults = {
        "head": nn.Identity(),
        "anchors": GRID,
        "codec": DeltaCodec(),
        "sample": all_valid_anchors,
        "select": Select(),
    }
    return AnchorStage(**(defaults | parts))


RPN = anchor_stage(
    assign=MaxIoUAssigner(0.7, 0.3, allow_low_quality_matches=True),
    sample=BalancedSampler(10_000, positive=1.0),
    class_loss=binary_cross_entropy,
    box_loss=DeltaLoss(),
    divide_by="samples",
)
RETINANET = anchor_stage(
    assign=MaxIoUAssigner(0.5, 0.4, allow_low_quality_matches=True),
    class_loss=focal,
    box_loss=DeltaLoss(beta=0),
    divide_by="own_positives",
)


class Backbone(nn.Module):
    """What torchvision's detectors ask for before they are built."""

    out_channels = 8


@pytest.mark.parametrize("images", [1, 3])
def test_region_proposal_network(images: int) -> None:
    """With all anchors sampled that are not ignored, so that chance has no say."""
    logits, deltas = outputs(1, images)
    targets = [target.replace(labels=torch.zeros_like(target.labels)) for target in make_images(images)]
    ours = RPN.loss(Dense(logits, deltas, ANCHORS, LEVELS), targets)

    generator = AnchorGenerator(((32,), (64,)), ((0.5, 1.0, 2.0),) * 2)
    pre: dict[str, int] = {"training": 100, "testing": 100}
    theirs = RegionProposalNetwork(generator, RPNHead(8, 3), 0.7, 0.3, 10_000, 1.0, pre, pre, 0.7)
    labels, matched = theirs.assign_targets_to_anchors([ANCHORS] * images, as_theirs(targets))
    wanted = theirs.box_coder.encode(matched, [ANCHORS] * images)
    objectness, box = theirs.compute_loss(logits.flatten(0, 1), deltas.flatten(0, 2), labels, wanted)
    assert_same(ours, {"class": objectness, "box": box}, {"class": "class", "box": "box"}, [logits, deltas])


@pytest.mark.parametrize("images", [1, 3])
def test_ssd(images: int) -> None:
    """Hard negatives included. torchvision's first class is the background, our last column."""
    logits, deltas = outputs(CLASSES + 1, images)
    codec, targets = DeltaCodec((10.0, 10.0, 5.0, 5.0)), make_images(images)
    stage = anchor_stage(
        codec=codec,
        assign=MaxIoUAssigner(0.5, 0.5, match_best_prior=True),
        sample=HardNegativeMining(least=0),
        class_loss=cross_entropy,
        box_loss=DeltaLoss(codec, beta=1.0),
        softmax=True,
    )
    ours = stage.loss(Dense(logits, deltas, ANCHORS, LEVELS), targets)

    theirs = SSD(Backbone(), DefaultBoxGenerator([[2], [2]]), (96, 128), CLASSES + 1, head=nn.Identity())
    matched = [theirs.proposal_matcher(box_iou(target.boxes, ANCHORS)) for target in targets]
    said = {"cls_logits": logits.roll(1, -1), "bbox_regression": deltas.squeeze(2)}
    expected = theirs.compute_loss(as_theirs(targets, first=1), said, [ANCHORS] * images, matched)
    assert_same(ours, expected, {"class": "classification", "box": "bbox_regression"}, [logits, deltas])


@pytest.mark.parametrize("images", [1, 3])
def test_retinanet(images: int) -> None:
    logits, deltas = outputs(CLASSES, images)
    targets = make_images(images)
    ours = RETINANET.loss(Dense(logits, deltas, ANCHORS, LEVELS), targets)

    head = RetinaNetHead(8, 3, CLASSES)
    matched = [RETINANET.assign(Prediction(ANCHORS), target) for target in targets]  # -1 and -2 mean the same there
    said = {"cls_logits": logits, "bbox_regression": deltas.squeeze(2)}
    expected = head.compute_loss(as_theirs(targets), said, [ANCHORS] * images, matched)
    assert_same(ours, expected, {"class": "classification", "box": "bbox_regression"}, [logits, deltas])


@pytest.mark.parametrize("images", [1, 3])
def test_fcos(images: int) -> None:
    """torchvision's assignment and centre-ness too; its head has made distances positive before the loss."""
    shapes, strides = ((12, 16), (6, 8), (3, 4)), (8, 16, 32)
    points = AnchorGrid(((8.0,), (16.0,), (32.0,)), (1.0,), strides)
    cells, levels = torch.cat(points(shapes)), [192, 48, 12]
    logits, sides = (output[:, : len(cells)].detach().requires_grad_() for output in outputs(CLASSES, images))
    middle = torch.randn(images, len(cells), generator=torch.Generator().manual_seed(2)).requires_grad_()
    codec, large = DistanceCodec("relu"), Target(torch.tensor([[3.5, 2.0, 126.0, 95.0]]), torch.tensor([2]))
    targets = [*make_images(images)[1:], large]
    stage = anchor_stage(
        anchors=points,
        codec=codec,
        assign=CenterAssigner(),
        class_loss=focal,
        box_loss=GIoULoss(codec),
        quality_loss=centerness_loss,
    )
    ours = stage.loss(Dense(logits, sides, cells, tuple(levels), middle), targets)

    theirs = FCOS(Backbone(), CLASSES, head=FCOSHead(32, 1, CLASSES))
    said = {"cls_logits": logits, "bbox_regression": sides.squeeze(2).relu(), "bbox_ctrness": middle[..., None]}
    expected = theirs.compute_loss(as_theirs(targets), said, [cells] * images, levels)
    names = {"class": "classification", "box": "bbox_regression", "quality": "bbox_ctrness"}
    assert_same(ours, expected, names, [logits, sides, middle])


class Fixed(nn.Module):
    """Pool and head in one: the given logits and deltas of the regions in their order, whose boxes it keeps."""

    def __init__(self, logits: Tensor, deltas: Tensor) -> None:
        super().__init__()
        self.logits, self.deltas, self.boxes = logits, deltas, torch.empty(0)

    def forward(self, maps: list[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
        self.boxes = boxes
        return self.logits, self.deltas


class PassThrough(nn.Module):
    def forward(self, outputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return outputs


def test_region_head() -> None:
    """Every proposal is sampled. torchvision's first class is the background, ours the last column."""
    noise = torch.Generator().manual_seed(1)
    corner = torch.rand(20, 2, generator=noise) * 60
    proposals = torch.cat([OBJECTS + 3, torch.cat([corner, corner + 20], 1)])
    count = len(proposals) + len(OBJECTS)
    logits = torch.randn(count, CLASSES + 1, generator=noise)
    deltas = torch.randn(count, CLASSES, 4, generator=noise)
    codec, fixed = DeltaCodec((10.0, 10.0, 5.0, 5.0)), Fixed(logits, deltas)
    stage = RegionStage(
        pool=fixed,
        head=PassThrough(),
        codec=codec,
        assign=MaxIoUAssigner(0.5, 0.5),
        sample=BalancedSampler(count, positive=1.0),
        box_loss=DeltaLoss(codec),
        select=Select(),
    )
    valid = torch.ones(1, len(proposals), dtype=torch.bool)
    slots = Slots(proposals[None], valid.float(), valid.long(), valid)
    target = Target(OBJECTS, LABELS)
    losses = stage.loss([], slots, [target])

    (regions,) = fixed.boxes
    row = stage.assign(Prediction(regions), target)
    labels = torch.where(row >= 0, LABELS[row.clamp(min=0)] + 1, 0)
    wanted = codec.encode(OBJECTS[row.clamp(min=0)], regions)
    their_deltas = torch.cat([torch.zeros(count, 4), deltas.flatten(1)], 1)
    of_class, of_box = fastrcnn_loss(logits.roll(1, 1), their_deltas, [labels], [wanted])
    assert 6 <= (labels > 0).sum() < count
    torch.testing.assert_close(losses["class"], of_class)
    torch.testing.assert_close(losses["box"], of_box)
