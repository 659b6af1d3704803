"""Anchors of a grid small enough to write down, and torchvision's generator as oracle."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from boxwright.boxes.anchors import AnchorGrid, DefaultBoxes, anchor_sizes
from boxwright.boxes.geometry import area, xyxy_to_cxcywh


def test_grid_by_hand() -> None:
    (anchors,) = AnchorGrid(sizes=((4,),), ratios=(0.25, 4), strides=(8,))([(1, 2)])
    assert anchors.tolist() == [
        [-4, -1, 4, 1],  # cell (0, 0), lying
        [-1, -4, 1, 4],  # standing
        [4, -1, 12, 1],  # cell (0, 1): a stride to the right
        [7, -4, 9, 4],
    ]


def test_order_is_row_column_ratio_size() -> None:
    grid = AnchorGrid(sizes=((8, 16),), ratios=(1, 4), strides=(10,))
    assert grid.per_cell == 4
    (anchors,) = grid([(2, 3)])
    anchors = xyxy_to_cxcywh(anchors).reshape(2, 3, 4, 4)
    assert anchors[1, 2, :, :2].tolist() == [[20, 10]] * 4
    assert anchors[0, 0, :, 2:].tolist() == [[8, 8], [16, 16], [4, 16], [8, 32]]


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_centres_lie_at_the_offset_in_their_cell(offset: float) -> None:
    shapes = [(3, 5), (2, 3)]
    grid = AnchorGrid(sizes=((32,), (64,)), ratios=(0.5, 1, 2), strides=(8, 16), offset=offset)
    for (height, width), stride, anchors in zip(shapes, grid.strides, grid(shapes), strict=True):
        centres = xyxy_to_cxcywh(anchors)[:, :2].reshape(height, width, 3, 2)
        for i in range(height):
            for j in range(width):
                expected = torch.tensor([(j + offset) * stride, (i + offset) * stride]).expand(3, 2)
                torch.testing.assert_close(centres[i, j], expected)


def test_every_ratio_has_the_same_area() -> None:
    (anchors,) = AnchorGrid(sizes=((32, 100),), ratios=(0.2, 0.5, 1, 3), strides=(16,))([(1, 1)])
    torch.testing.assert_close(area(anchors), torch.tensor([32.0**2, 100.0**2] * 4))
    _, _, width, height = xyxy_to_cxcywh(anchors).unbind(-1)
    torch.testing.assert_close(height / width, torch.tensor([0.2, 0.2, 0.5, 0.5, 1, 1, 3, 3]))


@pytest.mark.parametrize(
    "sizes",
    [
        ((32,), (64,), (128,)),
        tuple((s, s * 2 ** (1 / 3), s * 2 ** (2 / 3)) for s in (32, 64, 128)),
        ((25,), (5,), (9,)),
    ],
)
def test_agrees_with_torchvision(sizes: tuple[tuple[float, ...], ...]) -> None:
    ratios, strides = (0.5, 1.0, 2.0), (8, 16, 32)
    height, width = 96, 160
    shapes = [(height // s, width // s) for s in strides]
    theirs = AnchorGenerator(sizes, (ratios,) * 3)(
        ImageList(torch.zeros(1, 3, height, width), [(height, width)]), [torch.zeros(1, 1, *shape) for shape in shapes]
    )
    ours = AnchorGrid(sizes, ratios, strides, rounded=True)
    assert [ours.per_cell] * 3 == AnchorGenerator(sizes, (ratios,) * 3).num_anchors_per_location()
    assert torch.equal(torch.cat(ours(shapes)), theirs[0])


def test_fitted_anchors_agree_with_torchvision() -> None:
    """Of 5 cells of stride 32, every second is taken: 3, of 160 // 3 = 53 pixels each rather than 64."""
    sizes, ratios, strides = ((32,), (64,)), (0.5, 1.0, 2.0), (32, 64)
    theirs = AnchorGenerator(sizes, (ratios,) * 2)(
        ImageList(torch.zeros(1, 3, 160, 96), [(160, 96)]), [torch.zeros(1, 1, 5, 3), torch.zeros(1, 1, 3, 2)]
    )
    ours = AnchorGrid(sizes, ratios, strides, rounded=True, stride_from_feature_map=True)([(5, 3), (3, 2)])
    assert torch.equal(torch.cat(ours), theirs[0])
    assert xyxy_to_cxcywh(ours[1])[-1, :2].tolist() == [48, 106]


def test_fitted_default_boxes_agree_with_torchvision() -> None:
    """Those of SSDlite320: of 5 cells come 3, of 160 / 3 pixels each."""
    scales, ratios = [0.2, 0.5, 0.8], ((2.0, 3.0), (2.0, 3.0))
    theirs = DefaultBoxGenerator([[2, 3], [2, 3]], scales=scales, clip=False)
    (expected,) = theirs(
        ImageList(torch.zeros(1, 3, 160, 160), [(160, 160)]), [torch.zeros(1, 1, 5, 5), torch.zeros(1, 1, 3, 3)]
    )
    ours = DefaultBoxes(tuple(160 * scale for scale in scales), ratios, (32, 64), stride_from_feature_map=True)(
        [(5, 5), (3, 3)]
    )
    torch.testing.assert_close(torch.cat(ours), expected, atol=1e-4, rtol=0)


def test_sizes_in_pixels_come_level_by_level() -> None:
    assert anchor_sizes((8, 16), (2.0, 4.0)) == ((16, 32), (32, 64))
    assert anchor_sizes((8, 16), (2.0,), (10, 12, 20, 24)) == ((10, 12), (20, 24))
    with pytest.raises(ValueError, match="equally many for each of 2 levels, got 3"):
        anchor_sizes((8, 16), (2.0,), (10, 12, 20))


def test_default_boxes_by_hand() -> None:
    """Two levels of one cell each: squares of 4 and 9, so the larger square of the first has a side of 6."""
    grid = DefaultBoxes(sizes=(4, 9, 16), ratios=((4.0,), ()), strides=(8, 16))
    assert grid.per_cell == (4, 2)
    fine, coarse = grid([(1, 1), (1, 1)])
    assert xyxy_to_cxcywh(fine).tolist() == [[4, 4, 4, 4], [4, 4, 6, 6], [4, 4, 8, 2], [4, 4, 2, 8]]
    assert xyxy_to_cxcywh(coarse).tolist() == [[8, 8, 9, 9], [8, 8, 12, 12]]


def test_default_boxes_agree_with_torchvision() -> None:
    """Those of SSD300, whose last are cut to the image, although 315 lies beyond it."""
    ratios, strides, side = ((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,)), (8, 16, 32, 64, 100, 300), 300
    scales = [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05]
    theirs = DefaultBoxGenerator(
        [[int(ratio) for ratio in level] for level in ratios], scales=scales, steps=list(strides)
    )
    shapes = [(38, 38), (19, 19), (10, 10), (5, 5), (3, 3), (1, 1)]
    (expected,) = theirs(
        ImageList(torch.zeros(1, 3, side, side), [(side, side)]), [torch.zeros(1, 1, *shape) for shape in shapes]
    )
    ours = DefaultBoxes(tuple(side * scale for scale in scales), ratios, strides, limit=side)
    assert list(ours.per_cell) == theirs.num_anchors_per_location()
    boxes = torch.cat(ours(shapes))
    assert len(boxes) == 8732  # the paper's number
    torch.testing.assert_close(boxes, expected, atol=1e-4, rtol=0)


class _OverFeatures(torch.nn.Module):
    grid = AnchorGrid(sizes=((32,), (64,)), ratios=(0.5, 1, 2), strides=(8, 16))

    def forward(self, fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        return torch.cat(self.grid([f.shape[-2:] for f in (fine, coarse)], fine.device))


def test_export_carries_no_constant_that_would_be_copied_to_the_device() -> None:
    features = torch.zeros(1, 1, 4, 6), torch.zeros(1, 1, 2, 3)
    program = torch.export.export(_OverFeatures(), features)
    assert not program.constants
    assert torch.equal(program.module()(*features), _OverFeatures()(*features))


def test_export_for_any_size() -> None:
    h, w = torch.export.Dim("h", max=64), torch.export.Dim("w", max=64)
    features = torch.zeros(1, 1, 4, 6), torch.zeros(1, 1, 2, 3)
    shapes = ({2: 2 * h, 3: 2 * w}, {2: h, 3: w})
    program = torch.export.export(_OverFeatures(), features, dynamic_shapes=shapes)
    other = torch.zeros(1, 1, 10, 8), torch.zeros(1, 1, 5, 4)
    assert torch.equal(program.module()(*other), _OverFeatures()(*other))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sizes": ((32,), (64,)), "strides": (8,)}, "2 tuples of sizes and 1 strides"),
        ({"sizes": (), "strides": ()}, "0 tuples of sizes"),
        ({"sizes": ((32,), (64, 80)), "strides": (8, 16)}, "equally many sizes"),
        ({"sizes": ((-32,),), "strides": (8,)}, "all positive"),
        ({"sizes": ((),), "strides": (8,)}, "at least one size"),
        ({"sizes": ((32,),), "strides": (8,), "ratios": ()}, "one ratio"),
    ],
)
def test_refuses_inconsistent_numbers(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnchorGrid(**{"ratios": (1.0,), **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sizes": (8.0, 16.0)}, "got 2 sizes, 2 tuples of ratios and 2 strides"),
        ({"ratios": ((2.0,),)}, "got 3 sizes, 1 tuples"),
        ({"strides": (), "sizes": (1.0,), "ratios": ()}, "0 strides"),
        ({"ratios": ((), (-2.0,))}, "positive"),
    ],
)
def test_default_boxes_refuse_inconsistent_numbers(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DefaultBoxes(**{"sizes": (8.0, 16.0, 32.0), "ratios": ((), (2.0,)), "strides": (8, 16), **arguments})


def test_refuses_another_number_of_levels() -> None:
    with pytest.raises(ValueError, match="has 1 levels, got 2 feature maps"):
        AnchorGrid(((32,),), (1.0,), (8,))([(2, 2), (1, 1)])
