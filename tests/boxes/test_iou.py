"""Overlaps of boxes whose areas one can count, torchvision as oracle, and gradients where there is nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor

from boxwright.boxes.geometry import area, giou, intersection, iou, pairwise_iou

SQUARE = torch.tensor([0.0, 0.0, 2.0, 2.0])
FAMILY = [iou, giou]


def random_boxes(count: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 100
    return torch.cat((corners.amin(1), corners.amax(1) + 1), dim=-1)


def test_area_and_intersection() -> None:
    assert area(torch.tensor([[1.0, 2.0, 4.0, 6.0], [3.0, 3.0, 3.0, 9.0], [5.0, 5.0, 1.0, 9.0]])).tolist() == [12, 0, 0]
    others = torch.tensor([[1.0, 1.0, 3.0, 3.0], [2.0, 0.0, 4.0, 2.0], [5.0, 5.0, 6.0, 6.0], [0.5, 0.5, 1.0, 1.0]])
    assert intersection(SQUARE, others).tolist() == [1, 0, 0, 0.25]


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ((0, 0, 2, 2), {"iou": 1, "giou": 1}),
        # a quarter shared: 1 of 7, hull 9
        ((1, 1, 3, 3), {"iou": 1 / 7, "giou": 1 / 7 - 2 / 9}),
        # side by side: hull 8 = union
        ((2, 0, 4, 2), {"iou": 0, "giou": 0}),
        # a gap of one box: hull 12, union 8
        ((4, 0, 6, 2), {"iou": 0, "giou": -1 / 3}),
    ],
)
def test_by_hand(other: tuple[float, ...], expected: dict[str, float]) -> None:
    found = {measure.__name__: measure(SQUARE, torch.tensor(other)).item() for measure in FAMILY}
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("measure", "oracle"), [(iou, torchvision.ops.box_iou), (giou, torchvision.ops.generalized_box_iou)]
)
def test_agrees_with_torchvision(measure: Callable[[Tensor, Tensor], Tensor], oracle) -> None:
    a, b = random_boxes(40, seed=0), random_boxes(30, seed=1)
    torch.testing.assert_close(measure(a[:, None], b[None]), oracle(a, b), rtol=1e-5, atol=1e-6)


def test_gradient_agrees_with_torchvision() -> None:
    ours, theirs = (random_boxes(40, seed=2, dtype=torch.float64).requires_grad_() for _ in range(2))
    target = random_boxes(40, seed=3, dtype=torch.float64)
    (1 - giou(ours, target)).sum().backward()
    torchvision.ops.generalized_box_iou_loss(theirs, target, reduction="sum").backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


def test_pairwise_shapes_and_values() -> None:
    a, b = random_boxes(12, seed=4), random_boxes(8, seed=5)
    torch.testing.assert_close(pairwise_iou(a, b), torchvision.ops.box_iou(a, b))
    batched = pairwise_iou(a.reshape(2, 6, 4), b.reshape(2, 4, 4))
    assert batched.shape == (2, 6, 4)
    assert torch.equal(batched[1], pairwise_iou(a[6:], b[4:]))
    assert pairwise_iou(torch.zeros(0, 4), b).shape == (0, 8)
    assert pairwise_iou(a, torch.zeros(0, 4)).shape == (12, 0)


DEGENERATE = torch.tensor(
    [[5.0, 5.0, 5.0, 5.0], [5.0, 5.0, 5.0, 9.0], [5.0, 5.0, 9.0, 5.0], [9.0, 9.0, 5.0, 5.0], [1e-20, 0, 2e-20, 1e-20]]
)


@pytest.mark.parametrize("measure", FAMILY)
@pytest.mark.parametrize("other", [DEGENERATE, DEGENERATE.flip(0), torch.tensor([[0.0, 0.0, 10.0, 10.0]])])
def test_degenerate_boxes_have_finite_values_and_gradients(
    measure: Callable[[Tensor, Tensor], Tensor], other: Tensor
) -> None:
    a, b = DEGENERATE.clone().requires_grad_(), other.clone().requires_grad_()
    value = measure(a, b)
    value.sum().backward()
    assert a.grad is not None and b.grad is not None
    assert value.isfinite().all() and a.grad.isfinite().all() and b.grad.isfinite().all()
    assert (iou(a, b) < 1e-30).all()


@pytest.mark.parametrize("measure", FAMILY)
def test_perfect_prediction_is_one_with_finite_gradient(measure: Callable[[Tensor, Tensor], Tensor]) -> None:
    boxes = random_boxes(20, seed=6)
    predicted = boxes.clone().requires_grad_()
    value = measure(predicted, boxes)
    value.sum().backward()
    assert predicted.grad is not None and predicted.grad.isfinite().all()
    torch.testing.assert_close(value, torch.ones(20))


@pytest.mark.parametrize("measure", FAMILY)
def test_symmetric_bounded_and_indifferent_to_place_and_scale(measure: Callable[[Tensor, Tensor], Tensor]) -> None:
    a, b = random_boxes(100, seed=7), random_boxes(100, seed=8)
    value = measure(a, b)
    torch.testing.assert_close(value, measure(b, a))
    torch.testing.assert_close(value, measure(a * 4 + 8, b * 4 + 8), rtol=1e-4, atol=1e-5)
    assert (value <= iou(a, b) + 1e-6).all() and (value > -2).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_narrow_types_are_computed_in_float32(dtype: torch.dtype) -> None:
    large = torch.tensor([0, 0, 1024, 1024], dtype=dtype)  # 2**20 square pixels: more than float16 can hold
    assert area(large).item() == 2**20
    assert [measure(large, large).item() for measure in FAMILY] == [1, 1]
