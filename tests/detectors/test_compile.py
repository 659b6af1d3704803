"""From pixels to slots all shapes are static: detectors compile as one graph and export, and give what eager gives."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.detectors import DETECTORS, Network
from boxwright.types import Size

CANVAS = Size(64, 96)
VALUES_READ = ("nonzero", "_local_scalar_dense", "masked_select", "unique", "is_nonzero")
"""Operators whose shape or result on the host depends on values."""


def network(name: str, small_configs: dict[str, Any]) -> Network:
    """With few layers to trace, and logits that differ, so that many boxes come out."""
    torch.manual_seed(0)
    settings = vars(small_configs[name]) | {"backbone": "vgg11"}
    detector = DETECTORS[name](**settings).build(3).eval()
    for module in detector.modules():
        if isinstance(logits := getattr(module, "logits", None), nn.Module):
            nn.init.normal_(logits.weight, std=0.3)  # type: ignore[arg-type]
            nn.init.zeros_(logits.bias)  # type: ignore[arg-type]
    return Network(detector)


def batch(images: int, proposes: bool = False, size: Size = CANVAS) -> tuple[Tensor, ...]:
    """Noise, the last image smaller than its canvas; where somebody proposes, boxes anywhere, the last one none."""
    noise = torch.Generator().manual_seed(images)
    height, width = size
    pixels = 255 * torch.rand(images, 3, height, width, generator=noise)
    sizes = torch.tensor([size] * (images - 1) + [(height - 4, width - 16)])
    corners = (torch.rand(images, 20, 2, 2, generator=noise) * (sizes[-1].flip(0))).sort(dim=2).values
    proposals = F.pad(corners.flatten(2), (0, 0, 0, 1))
    return (pixels, sizes, proposals) if proposes else (pixels, sizes)


def assert_equal(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    assert expected[-1].float().mean() > 0.5, "the test should compare boxes, not padding"
    for tensor, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(tensor, reference, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("name", DETECTORS)
def test_exports_for_any_batch_and_size(name: str, small_configs: dict[str, Any]) -> None:
    """The coarsest map of the example has two cells a side: torch would take one for a constant."""
    eager = network(name, small_configs)
    proposes = eager.detector.propose is not None
    step = 32 if name == "sliding_window" else 1  # sizes are multiples of it: it resizes to rounded ones
    least = 160 if name in ("ssd", "retinanet", "fcos") else 96  # their coarsest map has stride 128

    def canvas(height: int, width: int) -> Size:
        return Size(height - height % -step, width - width % -step)

    def side(name: str) -> Any:
        return step * torch.export.Dim(name, min=least // step, max=1024 // step)

    example, images = batch(2, proposes, canvas(least, least + 32)), torch.export.Dim("images", min=1, max=16)
    shapes = ({0: images, 2: side("height"), 3: side("width")}, *[{0: images}] * (len(example) - 1))
    program = torch.export.export(eager, example, dynamic_shapes=shapes)
    targets = [str(node.target) for node in program.graph.nodes]
    assert not [target for target in targets if any(reader in target for reader in VALUES_READ)]
    exported = program.module()
    with torch.no_grad():
        for count, height, width in ((2, least, least + 32), (1, least + 70, least + 1), (1, least + 10, least + 90)):
            inputs = batch(count, proposes, canvas(height, width))
            assert_equal(exported(*inputs), eager(*inputs))


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("images", [1, 4])
def test_compiles_as_one_graph(name: str, images: int, small_configs: dict[str, Any]) -> None:
    eager = network(name, small_configs)
    inputs = batch(images, eager.detector.propose is not None)
    torch._dynamo.reset()
    compiled = torch.compile(eager, fullgraph=True, dynamic=False, backend="aot_eager")
    with torch.no_grad():
        assert_equal(compiled(*inputs), eager(*inputs))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch's inductor compiles with g++, which is not here")
def test_inductor_compiles_all_that_follows_the_backbone(small_configs: dict[str, Any]) -> None:
    """Both stages of Faster R-CNN, with the operators that split over levels and suppress."""
    detector = small_configs["faster_rcnn"].build(3).eval()
    maps = [torch.randn(2, 32, 64 // stride, 96 // stride) for stride in (8, 16, 32, 64)]
    sizes = torch.tensor([[64, 96], [60, 80]])

    def stages(maps: list[Tensor]) -> tuple[Tensor, ...]:
        proposals = detector.proposer.detect(detector.proposer(maps), sizes)
        slots = detector.regions.detect(maps, proposals, sizes)
        return slots.boxes, slots.scores, slots.labels, slots.valid

    torch._dynamo.reset()
    with torch.no_grad():
        assert_equal(torch.compile(stages, fullgraph=True, dynamic=False)(maps), stages(maps))
