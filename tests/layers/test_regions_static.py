"""What holds for every pooler: it exports, compiles whole, reads any precision, takes boxes of zeros or none."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from boxwright.layers.regions import (
    PositionSensitiveAlign,
    PositionSensitivePool,
    PyramidPool,
    RegionAlign,
    RegionPool,
)
from boxwright.layers.warp import WarpRegions
from host_waits import HostWaits

PYRAMID = (8, 16)
POOLERS: dict[str, Callable[[tuple[int, ...]], nn.Module]] = {
    "align": lambda strides: RegionAlign(strides, size=3),
    "adaptive align": lambda strides: RegionAlign(strides, size=3, sampling=0),
    "pool": lambda strides: RegionPool(strides, size=3),
    "pyramid pool": lambda strides: PyramidPool(strides, grids=(3, 1)),
    "position-sensitive align": lambda strides: PositionSensitiveAlign(strides, size=3),
    "adaptive position-sensitive align": lambda strides: PositionSensitiveAlign(strides, size=3, sampling=0),
    "position-sensitive pool": lambda strides: PositionSensitivePool(strides, size=3),
}
EVERY = [(name, strides) for name in POOLERS for strides in ((8,), PYRAMID)] + [("warp", (1,))]


def module(name: str, strides: tuple[int, ...]) -> nn.Module:
    return WarpRegions((9, 12), context=2) if name == "warp" else POOLERS[name](strides)


def maps(strides: tuple[int, ...]) -> list[Tensor]:
    noise = torch.Generator().manual_seed(0)
    return [torch.randn(2, 18, 96 // stride, 128 // stride, generator=noise) for stride in strides]


def boxes(count: int = 5) -> Tensor:
    """Of both levels; the last of each image is padding."""
    corner = torch.rand(2, count, 2, generator=torch.Generator().manual_seed(1)) * 40
    extent = torch.linspace(8, 400, count)[:, None] * torch.ones(2)
    result = torch.cat([corner, corner + extent], -1)
    result[:, -1:] = 0
    return result


@pytest.mark.parametrize(("name", "strides"), EVERY)
def test_exports_and_compiles_whole(name: str, strides: tuple[int, ...]) -> None:
    pool, given = module(name, strides), (maps(strides), boxes())
    expected = pool(*given)
    torch.testing.assert_close(torch.export.export(pool, given).module()(*given), expected)
    torch.testing.assert_close(torch.compile(pool, fullgraph=True, backend="aot_eager")(*given), expected)


@pytest.mark.parametrize(("name", "strides"), [(name, strides) for name, strides in EVERY if name != "warp"])
def test_gradient_when_compiled(name: str, strides: tuple[int, ...]) -> None:
    pool, gradients = module(name, strides), []
    for run in (pool, torch.compile(pool, fullgraph=True, backend="aot_eager")):
        given = [features.requires_grad_() for features in maps(strides)]
        run(given, boxes()).square().sum().backward()
        gradients.append([features.grad for features in given])
    assert all(gradient.any() for gradient in gradients[0])
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize(("name", "strides"), [(name, strides) for name, strides in EVERY if name != "warp"])
def test_the_form_for_cuda_gives_the_same_without_waiting(name: str, strides: tuple[int, ...]) -> None:
    pool, results = module(name, strides), []
    for mode in (nullcontext(), HostWaits(pool=True)):
        given = [features.requires_grad_() for features in maps(strides)]
        with mode:
            pooled = pool(given, boxes(9))
            pooled.square().sum().backward()
        results.append([pooled, *(features.grad for features in given)])
        assert not getattr(mode, "places", None)
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)  # the CPU's gradient of RoI align sums in another order


@pytest.mark.parametrize(("name", "strides"), EVERY)
def test_no_regions(name: str, strides: tuple[int, ...]) -> None:
    pool = module(name, strides)
    given = [features.requires_grad_() for features in maps(strides)]
    pooled = pool(given, boxes(0))
    assert pooled.shape == (0, *pool(given, boxes()).shape[1:])
    if name != "warp":
        pooled.sum().backward()
        assert all(features.grad is not None and not features.grad.any() for features in given)


@pytest.mark.parametrize(("name", "strides"), EVERY)
def test_boxes_of_zeros_are_finite_and_change_no_other(name: str, strides: tuple[int, ...]) -> None:
    pool, given = module(name, strides), boxes()
    padded = torch.cat([given, torch.zeros(2, 3, 4)], dim=1)
    pooled = pool(maps(strides), padded).unflatten(0, (2, 8))
    assert pooled.isfinite().all()
    assert torch.equal(pooled[:, :5].flatten(0, 1), pool(maps(strides), given))


@pytest.mark.parametrize(("name", "strides"), EVERY)
def test_reads_bfloat16_maps_in_float32(name: str, strides: tuple[int, ...]) -> None:
    pool, half = module(name, strides), [features.bfloat16() for features in maps(strides)]
    expected = pool([features.float() for features in half], boxes())
    with torch.autocast("cpu", torch.bfloat16):
        pooled = pool(half, boxes())
    assert pooled.dtype == torch.float32 and torch.equal(pooled, expected)


@pytest.mark.parametrize(("name", "strides"), EVERY)
def test_layout_does_not_matter(name: str, strides: tuple[int, ...]) -> None:
    pool, given = module(name, strides), maps(strides)
    last = [features.to(memory_format=torch.channels_last) for features in given]
    torch.testing.assert_close(pool(last, boxes()), pool(given, boxes()))


OPERATORS: dict[str, tuple[object, ...]] = {"roi_pool": (), "ps_roi_align": (2,), "ps_roi_pool": ()}


@pytest.mark.parametrize("strides", [(8,), PYRAMID])
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_registered_as_torch_expects(name: str, strides: tuple[int, ...]) -> None:
    given = [features[:1, :4, :6, :6].clone().requires_grad_() for features in maps(strides)]
    rows = torch.cat([torch.zeros(5, 1), boxes()[0] / 8], dim=1)
    level = torch.arange(5) % len(strides)
    scales = [1 / stride for stride in strides]
    operator = getattr(torch.ops.boxwright, name).default
    torch.library.opcheck(operator, (given, rows, level, scales, 2, *OPERATORS[name]))


def test_warp_is_registered_as_torch_expects() -> None:
    rows = torch.cat([torch.zeros(5, 1), boxes()[0]], dim=1)
    torch.library.opcheck(torch.ops.boxwright.warp.default, (maps((8,))[0][:1], rows, 4, 6))
