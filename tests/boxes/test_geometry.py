"""Conventions convert into each other; clipping, mirroring and scaling move corners where they should."""

from __future__ import annotations

import pytest
import torch
import torchvision

from boxwright.boxes.geometry import clip, cxcywh_to_xyxy, xyxy_to_cxcywh, xyxy_to_xywh
from boxwright.types import Size

CORNERS = torch.tensor([[10.0, 20.0, 40.0, 60.0]])


def test_one_box_in_three_conventions() -> None:
    assert xyxy_to_xywh(CORNERS).tolist() == [[10, 20, 30, 40]]
    assert xyxy_to_cxcywh(CORNERS).tolist() == [[25, 40, 30, 40]]
    assert cxcywh_to_xyxy(torch.tensor([[25.0, 40.0, 30.0, 40.0]])).tolist() == CORNERS.tolist()


def test_conversions_agree_with_torchvision() -> None:
    boxes = torch.rand(50, 4, generator=torch.Generator().manual_seed(0)) * 100
    for convention, convert in (("xywh", xyxy_to_xywh), ("cxcywh", xyxy_to_cxcywh)):
        torch.testing.assert_close(convert(boxes), torchvision.ops.box_convert(boxes, "xyxy", convention))
    torch.testing.assert_close(cxcywh_to_xyxy(boxes), torchvision.ops.box_convert(boxes, "cxcywh", "xyxy"))
    torch.testing.assert_close(cxcywh_to_xyxy(xyxy_to_cxcywh(boxes)), boxes)


def test_clip_to_one_size() -> None:
    boxes = torch.tensor([[-5.0, -5.0, 5.0, 5.0], [90.0, 40.0, 120.0, 60.0], [110.0, 60.0, 130.0, 70.0]])
    clipped = clip(boxes, Size(height=50, width=100))
    assert clipped.tolist() == [[0, 0, 5, 5], [90, 40, 100, 50], [100, 50, 100, 50]]


@pytest.mark.parametrize("shape", [(2, 2), (2, 1, 2)])
def test_clip_to_the_size_of_each_image(shape: tuple[int, ...]) -> None:
    sizes = torch.tensor([[50, 100], [100, 50]])
    boxes = torch.tensor([-10.0, -10.0, 200.0, 200.0]).expand(2, 3, 4)  # as many boxes as would fit no size
    clipped = clip(boxes, sizes.reshape(shape))
    assert clipped[0].tolist() == [[0, 0, 100, 50]] * 3
    assert clipped[1].tolist() == [[0, 0, 50, 100]] * 3


def test_clip_takes_an_image_of_any_size_per_box() -> None:
    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 9.0]])
    assert clip(boxes, torch.tensor([[4, 5], [6, 7]])).tolist() == [[0, 0, 5, 4], [0, 0, 7, 6]]
    assert clip(boxes, torch.tensor([4, 5])).tolist() == [[0, 0, 5, 4]] * 2


@pytest.mark.parametrize("sizes", [torch.zeros(2, 1, 1, 2), torch.zeros(2, 4)])
def test_clip_refuses_sizes_that_cannot_belong(sizes: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"clip takes sizes \(\.\.\., 2\)"):
        clip(torch.zeros(2, 3, 4), sizes)


def test_no_boxes_stay_no_boxes() -> None:
    assert clip(torch.zeros(0, 4), Size(5, 5)).shape == (0, 4)
