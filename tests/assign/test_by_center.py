"""Assignment by position on points whose distances can be counted."""

from __future__ import annotations

import torch
from torch import Tensor

from boxwright.assign import BACKGROUND, IGNORED, CenterAssigner
from boxwright.boxes.anchors import AnchorGrid
from boxwright.types import Target

ANYWHERE = CenterAssigner(radius=float("inf"))


def cells(height: int, width: int) -> Tensor:
    """The cells of a map of stride 8."""
    (level,) = AnchorGrid(((8.0,),), (1.0,), (8,), offset=0.5)([(height, width)])
    return level


def target(*boxes: tuple[float, float, float, float], crowd: tuple[bool, ...] | None = None) -> Target:
    flags = torch.tensor(crowd if crowd is not None else [False] * len(boxes))
    return Target(torch.tensor(boxes), torch.arange(len(boxes)), flags)


def test_a_point_inside_learns_the_object() -> None:
    """Points at 4, 12, 20, 28 of one row."""
    assert ANYWHERE(cells(1, 4), target((10.0, 0.0, 24.0, 8.0))).tolist() == [BACKGROUND, 0, 0, BACKGROUND]


def test_a_point_on_the_border_is_outside() -> None:
    assert ANYWHERE(cells(1, 2), target((4.0, 0.0, 16.0, 8.0))).tolist() == [BACKGROUND, 0]


def test_only_points_near_the_middle() -> None:
    """A centre at 20: at radius 1.5 the points less than 12 pixels away."""
    wide = target((0.0, 0.0, 40.0, 8.0))
    assert ANYWHERE(cells(1, 5), wide).tolist() == [0] * 5
    assert CenterAssigner(radius=1.5)(cells(1, 5), wide).tolist() == [BACKGROUND, 0, 0, 0, BACKGROUND]
    assert CenterAssigner(radius=0.5)(cells(1, 5), wide).tolist() == [BACKGROUND, BACKGROUND, 0, BACKGROUND, BACKGROUND]


def test_of_two_objects_the_smaller() -> None:
    both = target((0.0, 0.0, 40.0, 8.0), (16.0, 0.0, 24.0, 8.0))
    assert ANYWHERE(cells(1, 5), both).tolist() == [0, 0, 1, 0, 0]


def test_levels_are_for_sizes() -> None:
    """Cells of strides 8, 16 and 32 around one point: at reach 2 they learn what ends within 16, 32 and any pixels."""
    middle, by_size = 100.0, CenterAssigner(reach=2.0)
    around = torch.tensor([[middle - half] * 2 + [middle + half] * 2 for half in (4.0, 8.0, 16.0)])
    for half, expected in ((10.0, [0, -1, -1]), (20.0, [-1, 0, -1]), (40.0, [-1, -1, 0]), (16.0, [0, 0, -1])):
        box = (middle - half, middle - half, middle + half, middle + half)
        assert by_size(around, target(box)).tolist() == expected
    assert by_size(around[:1], target((0.0, 0.0, 200.0, 200.0))).tolist() == [0]  # finest and coarsest at once


def test_points_in_a_crowd_are_neither_learnt_nor_background() -> None:
    both = target((0.0, 0.0, 32.0, 8.0), (10.0, 0.0, 24.0, 8.0), crowd=(True, False))
    assert ANYWHERE(cells(1, 5), both).tolist() == [IGNORED, 1, 1, IGNORED, BACKGROUND]


def test_without_objects_everything_is_background() -> None:
    assert CenterAssigner()(cells(2, 2), Target.empty()).tolist() == [BACKGROUND] * 4


def test_an_object_without_extent_is_nobodys() -> None:
    assert CenterAssigner()(cells(1, 2), target((4.0, 4.0, 4.0, 4.0))).tolist() == [BACKGROUND] * 2
