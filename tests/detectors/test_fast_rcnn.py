"""Fast R-CNN: proposals from anybody, a head of each kind, one backward pass through all of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from boxwright.detectors import DETECTORS, FastRCNN, FastRCNNConfig, Network
from boxwright.detectors.proposed import given
from boxwright.layers.regions import RegionAlign, RegionPool
from boxwright.types import Images, Target

SMALL: dict[str, Any] = {"backbone": "mobilenet_v3_small", "channels": 16, "hidden": 16, "region_samples": 8}
SIZES = torch.tensor([[64, 96], [50, 80]])
PIXELS = 255 * torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
BOXES = torch.tensor([[[5.0, 5.0, 40.0, 50.0], [30.0, 10.0, 90.0, 60.0], [0.0, 0.0, 0.0, 0.0]]] * 2)
TARGETS = [Target(torch.tensor([[5.0, 5.0, 42.0, 48.0]]), torch.tensor([1])), Target.empty()]


def small(variant: Any, **options: Any) -> FastRCNNConfig:
    """What the variant does not read is left out."""
    unread = FastRCNNConfig.unread({"variant": variant})
    return FastRCNNConfig(
        **{option: value for option, value in SMALL.items() if option not in unread}, variant=variant, **options
    )


def test_proposals_are_clipped_and_those_without_extent_are_none() -> None:
    """The second image is 80 x 50: a box beyond its right border has nothing left."""
    beyond = torch.tensor([[-5.0, 3.0, 200.0, 20.0], [85.0, 5.0, 95.0, 20.0], [0.0, 0.0, 0.0, 0.0]])
    slots = given(Images(PIXELS, SIZES, torch.stack([beyond, beyond])))
    assert slots.boxes[0, 0].tolist() == [0, 3, 96, 20] and slots.boxes[1, 0].tolist() == [0, 3, 80, 20]
    assert slots.valid.tolist() == [[True, True, False], [True, False, False]]


def test_no_proposals_are_one_empty_slot() -> None:
    slots = given(Images(PIXELS, SIZES))
    assert slots.boxes.shape == (2, 1, 4) and not slots.valid.any()


@pytest.mark.parametrize("name", ["rcnn", "spp_net", "fast_rcnn"])
def test_without_proposals_it_learns_the_objects_and_finds_nothing(name: str) -> None:
    config: Any = DETECTORS[name]
    detector = config(backbone="mobilenet_v3_small", region_samples=8).build(2)
    losses = detector.loss(Images(PIXELS, SIZES), TARGETS)
    assert losses["class"] > 0 and losses["box"].isfinite()
    assert [len(found) for found in detector.eval().detect(Images(PIXELS, SIZES))] == [0, 0]


@pytest.mark.parametrize("name", ["rcnn", "spp_net", "fast_rcnn"])
def test_the_order_of_proposals_changes_nothing(name: str) -> None:
    torch.manual_seed(0)
    config: Any = DETECTORS[name]
    detector = config(backbone="mobilenet_v3_small", max_detections=5).build(2).eval()
    first, second = (detector.detect(Images(PIXELS, SIZES, boxes)) for boxes in (BOXES, BOXES.flip(1)))
    for one, other in zip(first, second, strict=True):
        assert len(one) > 0
        torch.testing.assert_close(one.boxes, other.boxes, atol=1e-3, rtol=0)
        torch.testing.assert_close(one.scores, other.scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("pool", "kind"), [("align", RegionAlign), ("pool", RegionPool)])
@pytest.mark.parametrize(("variant", "strides"), [("fpn", (8, 16, 32)), ("c4", (16,)), ("dc5", (16,))])
def test_variants(variant: Any, strides: tuple[int, ...], pool: Any, kind: type) -> None:
    """Each pools its maps, learns in all its parts, and compiles as one graph."""
    torch.manual_seed(0)
    detector = small(variant, pool=pool, frozen_stages=0).build(2)
    assert isinstance(detector.regions.pool, kind) and detector.regions.pool.strides == strides
    images = Images(PIXELS, SIZES, BOXES)
    torch.stack(list(detector.loss(images, TARGETS).values())).sum().backward()
    assert not [name for name, parameter in detector.named_parameters() if parameter.grad is None]
    if pool == "pool":  # the others are the table's, or much the same
        torch._dynamo.reset()
        network = Network(detector.eval())
        with torch.no_grad():
            compiled = torch.compile(network, fullgraph=True, backend="aot_eager")(PIXELS, SIZES, BOXES)
            for found, expected in zip(compiled, network(PIXELS, SIZES, BOXES), strict=True):
                torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)


def test_fully_connected_layers_of_a_vgg_are_the_head_of_c4() -> None:
    """The paper's network: 7 x 7 cells of conv5 into fc6 and fc7."""
    with torch.device("meta"):
        detector = FastRCNNConfig(backbone="vgg16", variant="c4", pool="pool").build(20)
    shapes = [tuple(layer.weight.shape) for layer in detector.regions.head.modules() if isinstance(layer, nn.Linear)]
    assert shapes == [(4096, 25088), (4096, 4096), (21, 4096), (80, 4096)]
    assert detector.regions.pool.size == 7 and detector.regions.pool.strides == (16,)


def test_the_head_of_c4_learns_at_the_rate_of_the_backbone() -> None:
    """`train.optimize` goes by the name."""
    detector = small("c4").build(2)
    names = [name for name, _ in detector.regions.head.named_parameters()]
    assert [name for name in names if not name.startswith("hidden.backbone.")] == [
        "logits.weight", "logits.bias", "deltas.weight", "deltas.bias"
    ]  # fmt: skip


def test_anybody_may_propose() -> None:
    def propose(image: np.ndarray) -> np.ndarray:
        return np.zeros((1, 4), np.float32)

    config = FastRCNNConfig(**SMALL, proposer="sliding_window", proposals=30)
    detector: Any = config.build(2)
    assert detector.propose(np.zeros((64, 96, 3), np.uint8)).shape == (30, 4)
    detector.propose = propose
    assert FastRCNN(detector.features, detector.regions, propose).propose is detector.propose


def test_what_does_not_exist_is_said() -> None:
    with pytest.raises(ValueError, match="variant is fpn, c4 or dc5, got 'c5'"):
        FastRCNNConfig(**SMALL, variant="c5").build(2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="proposals are one of"):
        FastRCNNConfig(**SMALL, proposer="my_window").build(2)
