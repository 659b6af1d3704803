"""RoI align: levels by hand, values of maps that can be integrated by hand, torchvision's in value and gradient."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_align

from boxwright.layers.regions import RegionAlign, RegionPool, RegionPooler
from host_waits import HostWaits

STRIDES = (4, 8, 16, 32)
SIZE = (256, 320)


def pyramid(images: int = 2, channels: int = 3, strides: tuple[int, ...] = STRIDES) -> list[Tensor]:
    noise = torch.Generator().manual_seed(0)
    shapes = [(SIZE[0] // stride, SIZE[1] // stride) for stride in strides]
    return [torch.randn(images, channels, *shape, generator=noise) for shape in shapes]


def regions(images: int = 2, count: int = 40) -> Tensor:
    """Sides of 33 to 256 pixels: of every level, and no region narrower than a cell."""
    noise = torch.Generator().manual_seed(1)
    corner = torch.rand(images, count, 2, generator=noise) * 100
    extent = 33 * 2 ** (3 * torch.rand(images, count, 1, generator=noise)) * torch.ones(2)
    return torch.cat([corner, corner + extent], -1)


def squares(*sides: float) -> Tensor:
    return torch.tensor([[0.0, 0.0, side, side] for side in sides])


def test_a_region_of_the_canonical_size_is_read_from_stride_16() -> None:
    pool = RegionAlign(STRIDES)
    assert pool.level(squares(112, 223, 224, 447, 448)).tolist() == [1, 1, 2, 2, 3]


def test_levels_end_where_the_pyramid_does() -> None:
    pool = RegionAlign((8, 16))
    assert pool.level(squares(0, 1, 223, 224, 5000)).tolist() == [0, 0, 0, 1, 1]


def test_another_canonical_size() -> None:
    assert RegionAlign(STRIDES, canonical=160).level(squares(79, 80, 159, 160, 320)).tolist() == [0, 1, 1, 2, 3]


def test_an_inverted_region_is_read_from_the_finest_map() -> None:
    assert RegionAlign(STRIDES).level(torch.tensor([[10.0, 10.0, 5.0, 500.0]])).tolist() == [0]


def test_refuses_strides_with_a_gap() -> None:
    with pytest.raises(ValueError, match="strides that double"):
        RegionAlign((8, 32))


def test_a_map_that_rises_evenly_gives_the_middle_of_each_cell() -> None:
    """A cell of the map holds the position of its own middle: what a region reads is then where its cells are."""
    middles = (torch.arange(20.0) + 0.5) * 8
    ramp = torch.stack([middles.expand(20, 20), middles[:, None].expand(20, 20)])[None]  # x and y
    pooled = RegionAlign((8,), size=2)([ramp], torch.tensor([[[20.0, 40.0, 60.0, 56.0]]]))
    assert pooled.shape == (1, 2, 2, 2)
    torch.testing.assert_close(pooled[0, 0], torch.tensor([[30.0, 50.0], [30.0, 50.0]]))
    torch.testing.assert_close(pooled[0, 1], torch.tensor([[44.0, 44.0], [52.0, 52.0]]))


def test_regions_belong_to_their_images() -> None:
    flat = [torch.tensor([1.0, 2.0])[:, None, None, None].expand(2, 1, 32, 32).contiguous()]
    pooled = RegionAlign((8,))(flat, regions(2, 3))
    assert pooled[:3].unique().tolist() == [1.0] and pooled[3:].unique().tolist() == [2.0]


def test_unaligned_equals_torchvision_in_value_and_gradient() -> None:
    ours, theirs = ([features.requires_grad_() for features in pyramid()] for _ in range(2))
    boxes = regions()
    assert RegionAlign(STRIDES).level(boxes).unique().tolist() == [0, 1, 2]
    pooled = RegionAlign(STRIDES, aligned=False)(ours, boxes)
    names = [str(stride) for stride in STRIDES]
    expected = MultiScaleRoIAlign(names, 7, 2)(dict(zip(names, theirs, strict=True)), list(boxes), [SIZE, SIZE])
    torch.testing.assert_close(pooled, expected)
    weights = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(2))
    (pooled * weights).sum().backward()
    (expected * weights).sum().backward()
    for mine, their in zip(ours[:3], theirs[:3], strict=True):
        torch.testing.assert_close(mine.grad, their.grad)
    assert ours[3].grad is not None and not ours[3].grad.any()  # read by no region; still part of the graph


def test_aligned_equals_torchvision_level_by_level() -> None:
    maps, boxes, pool = pyramid(), regions(), RegionAlign(STRIDES)
    pooled = pool(maps, boxes).unflatten(0, (2, -1))
    for index, (features, stride) in enumerate(zip(maps, STRIDES, strict=True)):
        for image in range(2):
            mine = pool.level(boxes[image]) == index
            expected = roi_align(features[image, None], [boxes[image, mine]], 7, 1 / stride, 2, aligned=True)
            torch.testing.assert_close(pooled[image, mine], expected)


def test_further_maps_are_left_alone() -> None:
    maps = pyramid()
    torch.testing.assert_close(RegionAlign(STRIDES[:2])(maps, regions()), RegionAlign(STRIDES[:2])(maps[:2], regions()))


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling", [0, 1, 2, 3])
@pytest.mark.parametrize("strides", [STRIDES, STRIDES[:1]])
def test_layout_does_not_matter(strides: tuple[int, ...], sampling: int, aligned: bool) -> None:
    """Also for regions beyond the maps, without extent, of a single level, or none."""
    maps = [features.requires_grad_() for features in pyramid()]
    last = [features.detach().to(memory_format=torch.channels_last).requires_grad_() for features in maps]
    odd = torch.tensor([[-500.0, -500, -300, -300], [5000, 5000, 5100, 5100], [0, 0, 0, 0], [-40, -30, 900, 800]])
    pool = RegionAlign(strides, sampling=sampling, aligned=aligned)
    for boxes in (torch.cat([regions(), odd.expand(2, -1, -1)], 1), odd[2:3].expand(2, 1, 4), torch.zeros(2, 0, 4)):
        pooled, expected = pool(last, boxes), pool(maps, boxes)
        assert pooled.isfinite().all()
        assert pooled.is_contiguous(), "as compiled and exported programs expect, whatever the maps are"
        torch.testing.assert_close(pooled, expected)
        for result in (pooled, expected):
            result.square().sum().backward()
    for mine, their in zip(last, maps, strict=True):
        assert (mine.grad is None) == (their.grad is None)
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, their.grad)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("pool", [RegionAlign(STRIDES), RegionAlign(STRIDES[:1]), RegionPool(STRIDES[:1])])
def test_a_box_that_is_not_finite_is_pooled_as_one_of_zeros(pool: RegionPooler, layout: torch.memory_format) -> None:
    """torchvision's kernels crash on it."""
    inf, nan = torch.inf, torch.nan
    boxes = torch.tensor([[[nan, 0, 9, 9], [0, 0, 9, nan], [0, 0, inf, 9], [-inf, -inf, inf, inf], [0, 0, 0, 0]]])
    pooled = pool([features.to(memory_format=layout) for features in pyramid(images=1)], boxes)
    assert pooled.isfinite().all() and pooled[-1].any()
    assert torch.equal(pooled, pooled[-1:].expand_as(pooled))


def test_reads_bfloat16_maps_in_float32() -> None:
    maps = [features.bfloat16() for features in pyramid()]
    expected = RegionAlign(STRIDES)([features.float() for features in maps], regions())
    with torch.autocast("cpu", torch.bfloat16):
        pooled = RegionAlign(STRIDES)(maps, regions())
    assert pooled.dtype == torch.float32 and torch.equal(pooled, expected)


def test_no_regions() -> None:
    maps = [features.requires_grad_() for features in pyramid()]
    pooled = RegionAlign(STRIDES)(maps, torch.zeros(2, 0, 4))
    assert pooled.shape == (0, 3, 7, 7)
    pooled.sum().backward()
    assert all(features.grad is not None and not features.grad.any() for features in maps)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("strides", [(8,), (8, 16)])
def test_operator_is_registered_as_torch_expects(strides: tuple[int, ...], layout: torch.memory_format) -> None:
    maps = [features[..., :6, :6].expand(1, 3, 6, 6) for features in pyramid(1, 1, strides)]
    maps = [features.clone(memory_format=layout).requires_grad_() for features in maps]
    rows = torch.cat([torch.zeros(3, 1), regions(1, 3)[0] / 4], 1)
    level = torch.tensor([0, len(strides) - 1, 0])
    scales = [1 / stride for stride in strides]
    torch.library.opcheck(torch.ops.boxwright.roi_align.default, (maps, rows, level, scales, 2, 2, True))


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling", [1, 2, 3])
def test_the_gradient_as_a_sparse_product_equals_torchvisions(aligned: bool, sampling: int) -> None:
    """Of regions on four levels, partly outside of the maps, and one without extent."""
    pool = RegionAlign(STRIDES, 7, sampling, canonical=112, aligned=aligned)
    boxes = regions() - 40
    boxes[0, 0] = 0
    assert len(pool.level(boxes).unique()) == 4
    gradients = []
    for form in (nullcontext(), HostWaits(pool=True)):  # within it torchvision's kernels run
        maps = [features.to(memory_format=torch.channels_last).requires_grad_() for features in pyramid(channels=8)]
        with form:
            pooled = pool(maps, boxes)
            (pooled * torch.arange(pooled.numel()).sin().view_as(pooled)).sum().backward()
        gradients.append([features.grad for features in maps])
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)
    assert all(gradient is not None and gradient.any() for gradient in gradients[0])
