"""Deltas whose effect one can see, the exact way back, and no infinities."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder, BoxLinearCoder

from boxwright.boxes.anchors import DeltaCodec, DistanceCodec, distances

PROPOSAL = torch.tensor([[10.0, 20.0, 40.0, 60.0]])  # 30 wide, 40 high, centre (25, 40)


def random_boxes(count: int, seed: int) -> torch.Tensor:
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed)) * 500
    return torch.cat((corners.amin(1), corners.amax(1) + 8), dim=-1)


@pytest.mark.parametrize(
    ("delta", "box"),
    [
        ((0, 0, 0, 0), (10, 20, 40, 60)),  # leaves the proposal alone
        ((1, 0, 0, 0), (40, 20, 70, 60)),  # moves it by its own width
        ((0, -0.5, 0, 0), (10, 0, 40, 40)),  # up by half its height
        ((0, 0, math.log(2), 0), (-5, 20, 55, 60)),  # twice as wide about its centre
        ((0, 0, 0, -math.log(2)), (10, 30, 40, 50)),  # half as high
    ],
)
def test_by_hand(delta: tuple[float, ...], box: tuple[float, ...]) -> None:
    codec = DeltaCodec()
    torch.testing.assert_close(codec.decode(torch.tensor([delta]), PROPOSAL), torch.tensor([box]).float())
    torch.testing.assert_close(codec.encode(torch.tensor([box]).float(), PROPOSAL), torch.tensor([delta]).float())


def test_weights_multiply_the_targets() -> None:
    box = torch.tensor([[40.0, 20.0, 70.0, 60.0]])
    codec = DeltaCodec(weights=(10, 10, 5, 5))
    assert codec.encode(box, PROPOSAL).tolist() == [[10, 0, 0, 0]]
    assert codec.decode(torch.tensor([[10.0, 0.0, 0.0, 0.0]]), PROPOSAL).tolist() == box.tolist()


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_agrees_with_torchvision(weights: tuple[float, float, float, float]) -> None:
    boxes, references = random_boxes(200, seed=0), random_boxes(200, seed=1)
    ours, theirs = DeltaCodec(weights), BoxCoder(weights)
    deltas = ours.encode(boxes, references)
    torch.testing.assert_close(deltas, theirs.encode_single(boxes, references), rtol=1e-4, atol=1e-5)
    wild = torch.randn(200, 4, generator=torch.Generator().manual_seed(2)) * 4  # some beyond the clamp
    torch.testing.assert_close(
        ours.decode(wild, references), theirs.decode_single(wild, references), rtol=1e-5, atol=1e-3
    )


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_decode_undoes_encode(weights: tuple[float, float, float, float]) -> None:
    boxes, references = random_boxes(500, seed=3), random_boxes(500, seed=4)
    codec = DeltaCodec(weights, clamp=math.inf)
    torch.testing.assert_close(codec.decode(codec.encode(boxes, references), references), boxes, rtol=1e-4, atol=1e-3)
    exact = boxes.double(), references.double()
    torch.testing.assert_close(codec.decode(codec.encode(*exact), exact[1]), exact[0])


def test_leading_dimensions_broadcast() -> None:
    codec = DeltaCodec()
    anchors, deltas = random_boxes(6, seed=5), torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(6))
    boxes = codec.decode(deltas, anchors)
    assert boxes.shape == (2, 6, 4)
    assert torch.equal(boxes[1], codec.decode(deltas[1], anchors))
    assert codec.encode(boxes, anchors).shape == (2, 6, 4)
    assert codec.decode(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0, 4)


def test_growth_is_clamped_and_shrinking_is_not() -> None:
    grown = DeltaCodec().decode(torch.tensor([[0.0, 0.0, 1000.0, -1000.0]]), PROPOSAL)
    assert (grown[0, 2] - grown[0, 0]).item() == pytest.approx(30 * 62.5)
    assert (grown[0, 3] - grown[0, 1]).item() == 0


def test_targets_are_finite_without_extent() -> None:
    point, line = torch.tensor([[5.0, 5.0, 5.0, 5.0]]), torch.tensor([[0.0, 5.0, 100.0, 5.0]])
    cases = [(point, point), (point, PROPOSAL), (PROPOSAL, point), (line, PROPOSAL), (PROPOSAL, line)]
    targets = torch.stack([DeltaCodec().encode(*case) for case in cases])
    assert targets.isfinite().all()
    assert targets[0].tolist() == [[0, 0, 0, 0]]


def test_half_precision_deltas_give_float32_boxes() -> None:
    references = random_boxes(50, seed=7) + 1000  # bfloat16 would move these by whole pixels
    deltas = (torch.randn(50, 4, generator=torch.Generator().manual_seed(8)) * 0.2).bfloat16()
    codec = DeltaCodec()
    with torch.autocast("cpu", torch.bfloat16):
        boxes, targets = codec.decode(deltas, references), codec.encode(references + 1, references)
    assert boxes.dtype == targets.dtype == torch.float32
    assert torch.equal(boxes, codec.decode(deltas.float(), references))


def test_gradient_reaches_the_deltas() -> None:
    deltas = torch.randn(10, 4, generator=torch.Generator().manual_seed(9), dtype=torch.float64).requires_grad_()
    references = random_boxes(10, seed=10).double()
    assert torch.autograd.gradcheck(lambda d: DeltaCodec((10, 10, 5, 5)).decode(d, references), deltas)


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 1, 0, 1)])
def test_refuses_weights_it_cannot_invert(weights: tuple) -> None:
    with pytest.raises(ValueError, match="four positive weights"):
        DeltaCodec(weights)


def test_distances_by_hand() -> None:
    """From the centre (25, 40); beyond a side they are negative."""
    box = torch.tensor([[5.0, 30.0, 30.0, 90.0]])
    assert distances(PROPOSAL, box).tolist() == [[20, 10, 5, 50]]
    assert distances(PROPOSAL, box + 25).tolist() == [[-5, -15, 30, 75]]


@pytest.mark.parametrize("positive", ["exp", "relu"])
def test_distances_are_in_extents_of_the_reference(positive: str) -> None:
    """30 wide, 40 high: a width to the left, half a height up, a third of a width right, a height and a half down."""
    codec = DistanceCodec(positive)  # type: ignore[arg-type]
    box, numbers = torch.tensor([[-5.0, 20.0, 35.0, 100.0]]), torch.tensor([[1, 1 / 2, 1 / 3, 3 / 2]])
    numbers = numbers.log() if positive == "exp" else numbers
    torch.testing.assert_close(codec.encode(box, PROPOSAL), numbers)
    torch.testing.assert_close(codec.decode(numbers, PROPOSAL), box)


def test_relu_has_no_negative_distances() -> None:
    box = DistanceCodec("relu").decode(torch.tensor([[-1.0, -2.0, 1.0, 0.5]]), PROPOSAL)
    assert box.tolist() == [[25, 40, 55, 60]]


def test_distances_equal_torchvision() -> None:
    references, boxes = random_boxes(50, 1), random_boxes(50, 2)
    theirs = BoxLinearCoder()
    numbers = 3 * torch.rand(50, 4, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(DistanceCodec("relu").encode(boxes, references), theirs.encode(references, boxes))
    torch.testing.assert_close(DistanceCodec("relu").decode(numbers, references), theirs.decode(numbers, references))


def test_distances_are_finite_whatever_is_said() -> None:
    codec = DistanceCodec()
    assert codec.decode(torch.full((1, 4), 1e4), PROPOSAL).isfinite().all()
    assert codec.encode(PROPOSAL + 100, PROPOSAL).isfinite().all()  # the centre lies outside
    half = codec.decode(torch.zeros(1, 4, dtype=torch.bfloat16), PROPOSAL)
    assert half.dtype == torch.float32


def test_distances_become_positive_in_two_ways_only() -> None:
    with pytest.raises(ValueError, match="exp or relu, got 'abs'"):
        DistanceCodec("abs")  # type: ignore[arg-type]
