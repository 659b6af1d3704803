"""SPP-net: the features do not learn, whatever the mode; the head does."""

from __future__ import annotations

from typing import Any

import torch

from boxwright.backbones import build_backbone
from boxwright.backbones.features import Features
from boxwright.detectors import SPPNet, SPPNetConfig
from boxwright.detectors.spp_net import ImagePyramid
from boxwright.proposals import SlidingWindow
from boxwright.types import Images, Target

SIZES = torch.tensor([[64, 96]])
PIXELS = 255 * torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
BOXES = torch.tensor([[[5.0, 5.0, 40.0, 50.0], [30.0, 10.0, 90.0, 60.0]]])
TARGET = Target(torch.tensor([[5.0, 5.0, 42.0, 48.0]]), torch.tensor([1]))


def test_only_the_head_learns() -> None:
    parts = SPPNetConfig(backbone="mobilenet_v3_small", hidden=16).build(2)
    features = Features(build_backbone("mobilenet_v3_small", (4,), norm="batch"))
    propose = SlidingWindow(count=20)
    detector = SPPNet(ImagePyramid(features, (2, 1)), parts.regions, propose).train()
    before = {name: value.clone() for name, value in detector.features.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], lr=0.1)
    torch.stack(list(detector.loss(Images(PIXELS, SIZES, BOXES), [TARGET]).values())).sum().backward()
    optimizer.step()
    learning = [name for name, parameter in detector.named_parameters() if parameter.grad is not None]
    assert learning and all(name.startswith("regions.head.") for name in learning)
    for name, value in detector.features.state_dict().items():  # statistics of the norms among them
        assert torch.equal(value, before[name]), name


def test_the_map_is_computed_without_a_graph() -> None:
    detector = SPPNetConfig(backbone="mobilenet_v3_small").build(2)
    assert not any(features.requires_grad for features in detector.features(PIXELS))


def test_regions_are_read_in_every_grid() -> None:
    detector = SPPNetConfig(backbone="mobilenet_v3_small", grids=(4, 1), levels=(3,), zooms=(1,)).build(2)
    assert detector.regions.pool.strides == (8,)
    pooled = detector.regions.pool(detector.features(PIXELS), BOXES)
    assert pooled.shape == (2, detector.features.features.channels[0], 4 * 4 + 1)
    torch.testing.assert_close(pooled[..., :16].amax(-1), pooled[..., 16])  # the single cell is the maximum of all


def test_small_regions_are_read_from_the_magnified_image() -> None:
    """Regions of less than 224 pixels, of a map that is the one of the image at twice its size."""
    detector: Any = SPPNetConfig(backbone="mobilenet_v3_small", zooms=(2, 1)).build(2).eval()
    pool, maps = detector.regions.pool, detector.features(PIXELS)
    assert pool.strides == (8, 16) and [tuple(features.shape[2:]) for features in maps] == [(8, 12), (4, 6)]
    large = torch.nn.functional.interpolate(PIXELS, (128, 192), mode="bilinear")
    assert pool.level(torch.tensor([[0.0, 0.0, 200.0, 200.0], [0.0, 0.0, 300.0, 300.0]])).tolist() == [0, 1]
    torch.testing.assert_close(maps[0], detector.features.features(large)[-1])
