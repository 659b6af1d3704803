"""What no detector may stumble over: each case has finite losses and gradients, and an answer."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from boxwright.boxes.geometry import clip
from boxwright.detectors import DETECTORS, Detector
from boxwright.types import Images, Size, Target


class Case(NamedTuple):
    """One image of noise: its objects, its size, and its proposals for detectors that take them; None: random ones."""

    objects: Tensor
    size: Size = Size(64, 96)
    classes: int = 2
    label: int = 0
    crowd: bool = False
    proposals: Tensor | None = None


OBJECT = torch.tensor([[10.0, 5.0, 60.0, 45.0]])


def anywhere(count: int, size: Size) -> Tensor:
    """So many boxes (count, 4) inside an image."""
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(0)).sort(dim=1).values
    return (corners * torch.tensor([size.width, size.height])).flatten(1)


CASES = {
    "no proposal": Case(OBJECT, proposals=torch.zeros(20, 4)),
    "no place for proposals": Case(OBJECT, proposals=torch.zeros(0, 4)),
    "no proposal and nothing": Case(torch.zeros(0, 4), proposals=torch.zeros(20, 4)),
    "20 x 30 pixels": Case(torch.tensor([[2.0, 2.0, 25.0, 18.0]]), Size(20, 30)),
    "an image of a pixel": Case(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), Size(1, 1)),
    "a strip lower than any window": Case(torch.tensor([[3.0, 1.0, 300.0, 7.0]]), Size(8, 400)),
    "one class": Case(OBJECT, classes=1),
    "two hundred classes": Case(OBJECT, classes=200, label=199),
    "500 objects": Case(anywhere(500, Size(64, 96))),
    "only a crowd": Case(OBJECT, crowd=True),
    "a box without extent": Case(torch.tensor([[20.0, 20.0, 20.0, 20.0]])),
    "a box without width beside an object": Case(torch.cat([torch.tensor([[20.0, 5.0, 20.0, 50.0]]), OBJECT])),
    "a box beyond the image": Case(torch.tensor([[-500.0, 10.0, 2000.0, 900.0]])),
}


@pytest.fixture(scope="module")
def build(small_configs: dict[str, Any]) -> Callable[[str, int], Detector]:
    """From a name and a number of classes to the small detector, built once."""
    return cache(lambda name, classes: small_configs[name].build(classes))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("name", DETECTORS)
def test_learns_and_answers(name: str, case: Case, build: Callable[[str, int], Detector]) -> None:
    torch.manual_seed(0)
    detector, (height, width) = build(name, case.classes), case.size
    proposals = anywhere(20, case.size) if case.proposals is None else case.proposals
    images = Images(torch.rand(1, 3, height, width) * 255, torch.tensor([[height, width]]), proposals[None])
    count = len(case.objects)
    target = Target(case.objects, torch.full((count,), case.label), torch.full((count,), case.crowd))

    detector.zero_grad(set_to_none=True)
    loss = torch.stack(list(detector.loss(images, [target]).values())).sum()
    loss.backward()
    assert loss.isfinite() and loss >= 0
    gradients = [parameter.grad for parameter in detector.parameters() if parameter.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)

    (found,) = detector.detect(images)
    assert torch.equal(found.boxes, clip(found.boxes, case.size))
    assert found.scores.isfinite().all() and torch.equal(found.labels, found.labels.clamp(0, case.classes - 1))
