"""Faster R-CNN: its variants, and how many proposals the second stage gets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from boxwright.boxes.geometry import pairwise_iou
from boxwright.detectors import FasterRCNNConfig, Network
from boxwright.types import Images, Target

SMALL: dict[str, Any] = {
    "backbone": "mobilenet_v3_small",
    "channels": 16,
    "hidden": 16,
    "rpn_samples": 32,
    "region_samples": 8,
    "frozen_stages": 0,
}
SIZES = torch.tensor([[64, 96], [50, 80]])
PIXELS = 255 * torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
TARGETS = [Target(torch.tensor([[5.0, 5.0, 42.0, 48.0]]), torch.tensor([1])), Target.empty()]


def small(variant: Any, **options: Any) -> FasterRCNNConfig:
    """What the variant does not read is left out."""
    unread = FasterRCNNConfig.unread({"variant": variant})
    return FasterRCNNConfig(
        **{option: value for option, value in SMALL.items() if option not in unread}, variant=variant, **options
    )


@pytest.mark.parametrize(
    ("variant", "strides", "per_cell"), [("fpn", (8, 16, 32, 64), 6), ("c4", (16,), 15), ("dc5", (16,), 15)]
)
def test_variants(variant: Any, strides: tuple[int, ...], per_cell: int) -> None:
    """Each has the anchors of its maps, and learns in all its parts; those beside the default compile as one graph."""
    torch.manual_seed(0)
    detector = small(variant, proposals=20).build(2)
    assert detector.features.strides == strides and detector.proposer.anchors.per_cell == per_cell
    torch.stack(list(detector.loss(Images(PIXELS, SIZES), TARGETS).values())).sum().backward()
    assert not [name for name, parameter in detector.named_parameters() if parameter.grad is None]
    if variant != "fpn":  # the others are the table's, or much the same
        torch._dynamo.reset()
        network = Network(detector.eval())
        with torch.no_grad():
            compiled = torch.compile(network, fullgraph=True, backend="aot_eager")(PIXELS, SIZES)
            for found, expected in zip(compiled, network(PIXELS, SIZES), strict=True):
                torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)


def test_one_map_has_the_papers_anchors() -> None:
    """15 at every cell: 32 to 512 pixels across, in three shapes."""
    grid: Any = small("c4").build(2).proposer.anchors
    (anchors,) = grid([(1, 1)])
    sides = (anchors[:, 2] - anchors[:, 0]) * (anchors[:, 3] - anchors[:, 1])
    assert sorted({round(side.item() ** 0.5) for side in sides}) == [32, 64, 128, 256, 512]


def test_the_head_of_c4_is_the_last_stage_of_its_backbone() -> None:
    with torch.device("meta"):
        detector: Any = FasterRCNNConfig(backbone="resnet50", variant="c4").build(20)
    assert detector.features.channels == (1024,) and detector.regions.pool.size == 14
    assert detector.regions.head.logits.in_features == 2048
    assert {name.split(".")[0] for name in detector.regions.head.hidden.backbone.body.state_dict()} == {"layer4"}


@pytest.mark.parametrize("variant", ["fpn", "c4"])
def test_fewer_proposals_at_test_time_are_the_best_of_more(variant: Any) -> None:
    """The RPN ranks as it did, so ten proposals are the first ten of a thousand; shapes stay fixed."""
    torch.manual_seed(0)
    detector: Any = small(variant).build(2).eval()
    nn.init.normal_(detector.proposer.head.logits.weight, std=1.0)  # so that no two scores are equal
    images = Images(PIXELS, SIZES)
    assert detector.proposals == 300
    found = {}
    with torch.no_grad():
        maps = detector.features(PIXELS)
        for count in (10, 100, 1000):
            detector.proposals = count
            found[count] = detector.proposer.detect(detector.proposer(maps), SIZES)
            assert found[count].boxes.shape == (2, count, 4)
            assert detector.slots(images).boxes.shape == (2, 100, 4)
    for few, many in ((10, 100), (100, 1000)):
        assert found[few].valid[:, :5].all()
        assert torch.equal(found[few].boxes, found[many].boxes[:, :few])
        assert torch.equal(found[few].scores, found[many].scores[:, :few])


def test_detections_come_from_the_proposals_there_are() -> None:
    """With one proposal an image there is one box for each class at most, and it lies near that proposal."""
    torch.manual_seed(0)
    detector = FasterRCNNConfig(**SMALL).build(2).eval()
    detector.proposals = 1
    with torch.no_grad():
        (proposals,) = detector.proposer.detect(detector.proposer(detector.features(PIXELS[:1])), SIZES[:1]).boxes
    (found,) = detector.detect(Images(PIXELS[:1], SIZES[:1]))
    assert 1 <= len(found) <= 2
    assert pairwise_iou(found.boxes, proposals).min() > 0.5


def test_no_proposal_is_no_faster_rcnn() -> None:
    with pytest.raises(ValueError, match="one proposal per image at least, got 0"):
        FasterRCNNConfig(**SMALL).build(2).proposals = 0
