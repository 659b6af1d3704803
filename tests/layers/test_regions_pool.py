"""RoI pool, pyramid pooling, position-sensitive pooling: numbers by hand, torchvision's in value and gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.ops import ps_roi_align, ps_roi_pool, roi_pool

from boxwright.layers.regions import (
    PositionSensitiveAlign,
    PositionSensitivePool,
    PyramidPool,
    RegionAlign,
    RegionPool,
    RegionPooler,
)

STRIDES = (4, 8, 16)
SIZE = (128, 160)


def pyramid(channels: int, images: int = 2, strides: tuple[int, ...] = STRIDES) -> list[Tensor]:
    noise = torch.Generator().manual_seed(0)
    shapes = [(SIZE[0] // stride, SIZE[1] // stride) for stride in strides]
    return [torch.randn(images, channels, *shape, generator=noise) for shape in shapes]


def regions(images: int = 2, count: int = 30) -> Tensor:
    """Sides of 10 to 160 pixels, some over the edges; the last two of each image: nothing, and outside."""
    noise = torch.Generator().manual_seed(1)
    corner = torch.rand(images, count, 2, generator=noise) * 120 - 20
    extent = 10 * 2 ** (4 * torch.rand(images, count, 2, generator=noise))
    boxes = torch.cat([corner, corner + extent], -1)
    boxes[:, -2] = 0
    boxes[:, -1] = torch.tensor([300.0, 300.0, 340.0, 330.0])
    return boxes


def counted(channels: int, height: int, width: int) -> list[Tensor]:
    """Channel c counts its features row by row from 100 * c."""
    features = torch.arange(float(height * width)).view(height, width)
    return [(features + 100 * torch.arange(channels)[:, None, None])[None]]


def box(*edges: float) -> Tensor:
    return torch.tensor([[edges]])


def test_pool_takes_the_maximum_of_snapped_cells() -> None:
    """Features 1.1 .. 3.8 by 0 .. 2.9 snap to 1 .. 4 by 0 .. 3, in cells of two by two."""
    pooled = RegionPool((8,), size=2)(counted(2, 5, 6), box(9, 0, 30, 23))
    assert pooled.tolist() == [[[[8.0, 10.0], [20.0, 22.0]], [[108.0, 110.0], [120.0, 122.0]]]]


def test_pyramid_is_grids_one_after_another() -> None:
    """Two by two features: each its own cell in the grid of two, the last of them the maximum of all."""
    pool = PyramidPool((8,), grids=(2, 1))
    assert pool.cells == 5
    assert pool(counted(2, 2, 2), box(0, 0, 8, 8)).tolist() == [[[0, 1, 2, 3, 3], [100, 101, 102, 103, 103]]]


def test_pyramid_of_the_paper_has_fifty_cells() -> None:
    pooled = PyramidPool(STRIDES)(pyramid(3), regions())
    assert PyramidPool(STRIDES).cells == 50 and pooled.shape == (60, 3, 50)
    for size, cells in zip((6, 3, 2, 1), pooled.split([36, 9, 4, 1], -1), strict=True):
        assert torch.equal(cells.unflatten(-1, (size, size)), RegionPool(STRIDES, size)(pyramid(3), regions()))


def test_each_cell_reads_channels_of_its_own() -> None:
    """Channels that are constant tell which was read: two classes of two by two cells are eight channels, in order."""
    maps = [torch.arange(8.0)[None, :, None, None].expand(1, 8, 4, 4).contiguous()]
    for pool in (PositionSensitiveAlign((8,), size=2), PositionSensitivePool((8,), size=2)):
        assert pool(maps, box(0, 0, 32, 32)).tolist() == [[[[0, 1], [2, 3]], [[4, 5], [6, 7]]]]


def test_position_sensitive_pool_means_whole_features() -> None:
    """Edges at features 0 and 4 by 0 and 2 after rounding: cells of two features across and one down."""
    pooled = PositionSensitivePool((8,), size=2)(counted(4, 4, 6), box(3, 1, 31, 17))
    assert pooled.tolist() == [[[[0.5, 102.5], [206.5, 308.5]]]]


@pytest.mark.parametrize("sampling", [0, 2])
def test_position_sensitive_align_is_the_diagonal_of_align(sampling: int) -> None:
    maps, size = pyramid(5 * 9), 3
    every = RegionAlign(STRIDES, size, sampling)(maps, regions()).unflatten(1, (5, size, size))
    pooled = PositionSensitiveAlign(STRIDES, size, sampling)(maps, regions())
    torch.testing.assert_close(pooled, torch.einsum("rkijij->rkij", every))


Operator = Callable[[Tensor, Tensor, float], Tensor]
ORACLES: dict[str, tuple[type[RegionPooler], dict[str, int], Operator]] = {
    "pool": (RegionPool, {"size": 4}, lambda f, b, scale: roi_pool(f, b, 4, scale)),
    "pyramid": (
        PyramidPool,
        {},
        lambda f, b, scale: torch.cat([roi_pool(f, b, size, scale).flatten(2) for size in (6, 3, 2, 1)], -1),
    ),
    "position-sensitive pool": (PositionSensitivePool, {"size": 3}, lambda f, b, scale: ps_roi_pool(f, b, 3, scale)),
    "position-sensitive align": (
        PositionSensitiveAlign,
        {"size": 3},
        lambda f, b, scale: ps_roi_align(f, b, 3, scale, sampling_ratio=2),
    ),
}


@pytest.mark.parametrize("strides", [(8,), STRIDES])
@pytest.mark.parametrize("oracle", ORACLES)
def test_equals_torchvision_level_by_level(oracle: str, strides: tuple[int, ...]) -> None:
    module, options, operator = ORACLES[oracle]
    pool = module(strides, **options, canonical=112)
    mine, theirs = ([features.requires_grad_() for features in pyramid(18, strides=strides)] for _ in range(2))
    boxes = regions()
    pooled = pool(mine, boxes)
    weights = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(2))
    (pooled * weights).sum().backward()

    level = pool.level(boxes).flatten()
    rows = torch.cat([torch.arange(2.0).repeat_interleave(30)[:, None], boxes.flatten(0, 1)], dim=1)
    assert level.unique().tolist() == list(range(len(strides)))
    for index, (features, stride) in enumerate(zip(theirs, strides, strict=True)):
        mask = level == index
        expected = operator(features, rows[mask], 1 / stride)
        torch.testing.assert_close(pooled[mask], expected)
        (expected * weights[mask]).sum().backward()
        assert features.grad is not None and features.grad.any()
        torch.testing.assert_close(mine[index].grad, features.grad)


def test_refuses_channels_that_do_not_divide() -> None:
    for pool in (PositionSensitiveAlign((8,), size=3), PositionSensitivePool((8,), size=3)):
        with pytest.raises(ValueError, match="a multiple of 9; got 10"):
            pool([torch.zeros(1, 10, 4, 4)], regions(1))


def test_refuses_fewer_maps_than_strides() -> None:
    with pytest.raises(ValueError, match=r"RegionPool reads a map for each stride of \(4, 8, 16\), got 2"):
        RegionPool(STRIDES)(pyramid(1)[:2], regions())


def test_refuses_strides_with_a_gap_in_its_own_name() -> None:
    with pytest.raises(ValueError, match="PyramidPool takes strides that double"):
        PyramidPool((8, 32))
