"""Views by hand, then any chain of them: there and back, composed, and as pixels move."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from boxwright.boxes.view import View
from boxwright.types import Size, Target

SEEDS = range(60)


def boxes_in(size: Size, rng: np.random.Generator, count: int = 20) -> torch.Tensor:
    """Random boxes inside an image, (count, 4) float32."""
    corners = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1) * (size.width, size.height)
    return torch.from_numpy(corners.reshape(count, 4)).float()


def random_view(source: Size, rng: np.random.Generator) -> View:
    """One of the four kinds, of an image of this size."""
    height, width = source
    kind = rng.integers(4)
    if kind == 0:
        return View.resize(source, Size(*(int(side) for side in rng.integers(20, 1000, 2))))
    if kind == 1:
        left, top = int(rng.integers(0, width // 2)), int(rng.integers(0, height // 2))
        return View.crop(source, (left, top, int(rng.integers(left + 9, width + 1)), height))
    if kind == 2:
        return View.flip(source)
    canvas = Size(height + int(rng.integers(0, 300)), width + int(rng.integers(0, 300)))
    left, top = int(rng.integers(0, canvas.width - width + 1)), int(rng.integers(0, canvas.height - height + 1))
    return View.place(source, canvas, left, top)


def chain(rng: np.random.Generator) -> list[View]:
    """One to six views, each of what the one before gave."""
    views: list[View] = []
    size = Size(*(int(side) for side in rng.integers(40, 1000, 2)))
    for _ in range(rng.integers(1, 7)):
        views.append(random_view(size, rng))
        size = views[-1].output
    return views


def composed(views: list[View]) -> View:
    view = views[0]
    for following in views[1:]:
        view = following @ view
    return view


@pytest.mark.parametrize(
    ("view", "output", "expected"),
    [
        (View.resize(Size(100, 200), Size(50, 50)), (50, 50), [5, 10, 10, 20]),  # a quarter as wide, half as high
        (View.crop(Size(100, 200), (10, 30, 60, 90)), (60, 50), [10, -10, 30, 10]),  # not clipped
        (View.flip(Size(100, 200)), (100, 200), [160, 20, 180, 40]),
        (View.place(Size(100, 200), Size(150, 300), 7, 9), (150, 300), [27, 29, 47, 49]),
    ],
    ids=["resize", "crop", "flip", "place"],
)
def test_every_kind_by_hand(view: View, output: tuple[int, int], expected: list[float]) -> None:
    box = torch.tensor([[20.0, 20.0, 40.0, 40.0]])
    assert view.source == (100, 200) and view.output == output
    assert view.forward(box).tolist() == [expected]
    assert view.back(torch.tensor([expected], dtype=torch.float32)).tolist() == box.tolist()


def test_a_chain_by_hand() -> None:
    """Half as large, mirrored in 100 pixels, and placed at (10, 20): x becomes 110 - x / 2, y becomes 20 + y / 2."""
    half, flip = View.resize(Size(100, 200), Size(50, 100)), View.flip(Size(50, 100))
    view = View.place(Size(50, 100), Size(80, 120), 10, 20) @ flip @ half
    assert view == View(Size(100, 200), Size(80, 120), (-0.5, 0.5), (110, 20))
    assert view.forward(torch.tensor([[0.0, 0.0, 40.0, 60.0]])).tolist() == [[90, 20, 110, 50]]
    target = view.move(Target(torch.tensor([[0.0, 0.0, 40.0, 60.0]]), torch.tensor([3]), area=torch.tensor([1000.0])))
    assert target.area.tolist() == [250] and target.labels.tolist() == [3]
    assert target.boxes.tolist() == [[90, 20, 110, 50]]


def test_a_flip_keeps_the_order_of_corners_and_undoes_itself() -> None:
    flip, box = View.flip(Size(80, 100)), torch.tensor([[10.0, 20.0, 40.0, 60.0]])
    assert flip.forward(box).tolist() == [[60, 20, 90, 60]]
    assert torch.equal(flip.forward(flip.forward(box)), box) and torch.equal(flip.back(flip.forward(box)), box)
    assert (flip @ flip).scale == (1, 1) and (flip @ flip).offset == (0, 0)


def test_a_mirrored_y_axis_exchanges_top_and_bottom() -> None:
    view = View(Size(10, 20), Size(10, 20), (-1, -1), (20, 10))
    assert view.forward(torch.tensor([[1.0, 2.0, 5.0, 4.0]])).tolist() == [[15, 6, 19, 8]]


def test_views_compose_only_where_sizes_agree() -> None:
    with pytest.raises(ValueError, match=r"Size\(height=5, width=6\) came out, Size\(height=6, width=5\) goes in"):
        _ = View.flip(Size(6, 5)) @ View.flip(Size(5, 6))


@pytest.mark.parametrize("seed", SEEDS)
def test_any_chain_leads_there_and_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    view = composed(chain(rng))
    boxes = boxes_in(view.source, rng)
    assert (view.back(view.forward(boxes)) - boxes).abs().max() < 1e-3
    assert (view.forward(view.back(boxes)) - boxes).abs().max() < 1e-3 * max(1, *map(abs, view.scale))
    assert (view.back(view.forward(boxes.double())) - boxes.double()).abs().max() < 1e-9


@pytest.mark.parametrize("seed", SEEDS)
def test_a_composition_is_one_view_after_the_other(seed: int) -> None:
    rng = np.random.default_rng(seed)
    views = chain(rng)
    view = composed(views)
    boxes = boxes_in(views[0].source, rng).double()
    there = boxes
    for step in views:
        there = step.forward(there)
    assert (view.forward(boxes) - there).abs().max() < 1e-9
    assert (view.source, view.output) == (views[0].source, views[-1].output)
    assert (there[:, 2:] >= there[:, :2]).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_areas_grow_with_their_boxes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    view = composed(chain(rng))
    target = Target(boxes_in(view.source, rng), torch.zeros(20, dtype=torch.int64))
    moved = view.move(target)
    sides = moved.boxes[:, 2:] - moved.boxes[:, :2]
    torch.testing.assert_close(moved.area, sides.prod(1), rtol=1e-3, atol=1e-2)
    assert torch.equal(moved.boxes, view.forward(target.boxes))


def test_no_boxes_and_more_dimensions() -> None:
    view = View.flip(Size(10, 20))
    assert view.forward(torch.zeros(0, 4)).shape == view.back(torch.zeros(0, 4)).shape == (0, 4)
    assert view.forward(torch.zeros(2, 3, 4)).tolist() == [[[20, 0, 20, 0]] * 3] * 2
