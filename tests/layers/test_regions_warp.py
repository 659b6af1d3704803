"""Warped regions: where context and image end by hand, torch's resize as oracle, padding as if it were not there."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.layers.warp import WarpRegions


def make_image(images: int = 1, height: int = 40, width: int = 60) -> Tensor:
    return torch.rand(images, 3, height, width, generator=torch.Generator().manual_seed(0)) * 255


def box(*edges: float) -> Tensor:
    return torch.tensor([[edges]])


def test_a_region_of_the_size_of_the_output_is_copied() -> None:
    """20 pixels of box between 6 of context each."""
    pixels = make_image()
    torch.testing.assert_close(WarpRegions(32, context=6)([pixels], box(10, 8, 30, 28)), pixels[:, :, 2:34, 4:36])


def test_height_and_width_are_their_own() -> None:
    pixels = make_image()
    warped = WarpRegions((10, 30), context=2)([pixels], box(12, 6, 38, 12))  # 26 and 6 within the context
    torch.testing.assert_close(warped, pixels[:, :, 4:14, 10:40])


def test_the_box_fills_what_the_context_leaves() -> None:
    """Whatever the shape of the box, its edges come to lie 16 pixels from those of the output."""
    pixels = torch.zeros(1, 1, 100, 200)
    pixels[:, :, 30:50, 20:170] = 1
    warped = WarpRegions(64)([pixels], box(20, 30, 170, 50))[0, 0]
    assert (warped[17:47, 17:47] == 1).all()
    assert not warped[:15].any() and not warped[49:].any() and not warped[:, :15].any() and not warped[:, 49:].any()


def test_outside_of_the_image_lies_the_fill() -> None:
    """A box at the upper left corner: its context of 4 pixels is outside."""
    warped = WarpRegions(24, context=4, fill=(1.0, 2.0, 3.0))([make_image()], box(0, 0, 16, 16))
    torch.testing.assert_close(warped[:, :, 4:, 4:], make_image()[:, :, :20, :20])
    for channel, fill in enumerate((1.0, 2.0, 3.0)):
        assert (warped[:, channel, :4] == fill).all() and (warped[:, channel, :, :4] == fill).all()


@pytest.mark.parametrize("times", [2, 3, 5])
def test_enlarges_as_bilinear_interpolation(times: int) -> None:
    """Away from the border of the crop, where interpolation of the crop alone knows no neighbours."""
    pixels = make_image()
    warped = WarpRegions(16 * times, context=0)([pixels], box(20, 10, 36, 26))
    expected = F.interpolate(pixels, scale_factor=times, mode="bilinear", align_corners=False)
    torch.testing.assert_close(
        warped, expected[:, :, 10 * times : 26 * times, 20 * times : 36 * times], rtol=0, atol=5e-3
    )


@pytest.mark.parametrize("times", [2, 3, 4])
def test_reduces_by_averaging(times: int) -> None:
    warped = WarpRegions(8, context=0)([make_image()], box(12, 4, 12 + 8 * times, 4 + 8 * times))
    torch.testing.assert_close(warped, F.avg_pool2d(make_image()[:, :, 4:, 12:], times)[:, :, :8, :8])


def test_padding_of_the_batch_is_as_good_as_none() -> None:
    warp = WarpRegions(20, context=3, fill=120.0)
    single = make_image()
    batch = F.pad(torch.cat([single, single]), (0, 13, 0, 9), value=7.0)
    boxes = torch.tensor([[20.0, 10, 59.3, 39.7], [1, 1, 30, 25], [50, 33, 80, 60]]).repeat(2, 1, 1)
    warped = warp([batch], boxes, torch.tensor([[40, 60], [40, 60]]))
    torch.testing.assert_close(warped, warp([single], boxes[:1]).repeat(2, 1, 1, 1))


def test_regions_belong_to_their_images() -> None:
    flat = torch.tensor([1.0, 2.0])[:, None, None, None].expand(2, 3, 40, 40)
    warped = WarpRegions(8, context=0)([flat], box(5, 5, 30, 20).repeat(2, 3, 1))
    assert warped[:3].unique().tolist() == [1.0] and warped[3:].unique().tolist() == [2.0]


def test_a_box_of_zeros_is_all_fill() -> None:
    assert (WarpRegions(8, context=1, fill=3.0)([make_image()], box(0, 0, 0, 0)) == 3).all()


def test_follows_a_mirrored_image() -> None:
    warp = WarpRegions(24, context=4)
    mirrored = warp([make_image().flip(-1)], box(60 - 33.6, 3, 60 - 10.2, 31))
    torch.testing.assert_close(mirrored.flip(-1), warp([make_image()], box(10.2, 3, 33.6, 31)), rtol=1e-4, atol=1e-2)


def test_no_gradient_flows_to_the_pixels() -> None:
    assert not WarpRegions(8, context=1)([make_image().requires_grad_()], box(1, 2, 20, 20)).requires_grad


@pytest.mark.parametrize("context", [-1, 8, 20])
def test_refuses_a_context_that_leaves_no_box(context: int) -> None:
    with pytest.raises(ValueError, match=f"less than half the size, got {context} of 16"):
        WarpRegions(16, context=context)
