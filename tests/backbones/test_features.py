"""The feature pyramid by hand and against torchvision's."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from boxwright.backbones.features import FeaturePyramid

CHANNELS, STRIDES = (8, 12, 16), (8, 16, 32)


def maps() -> list[torch.Tensor]:
    """Sizes that do not halve evenly."""
    shapes = ((13, 19), (7, 10), (4, 5))
    return [torch.randn(2, channels, *shape) for channels, shape in zip(CHANNELS, shapes, strict=True)]


def test_a_coarse_cell_lands_on_its_four_fine_cells() -> None:
    pyramid = FeaturePyramid((1, 1), 1, (8, 16))
    for conv in pyramid.lateral:
        nn.init.ones_(conv.weight)  # type: ignore[arg-type]
    for conv in pyramid.output:
        nn.init.dirac_(conv.weight)  # type: ignore[arg-type]
    fine, coarse = torch.zeros(1, 1, 4, 4), torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    fine[0, 0, 0, 0] = 10
    first, second = pyramid([fine, coarse])
    assert first[0, 0].tolist() == [[11, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    assert torch.equal(second, coarse)


def test_pooling_takes_every_second_cell() -> None:
    pyramid = FeaturePyramid((8,), 4, (32,), extra=1)
    last, pooled = pyramid([torch.randn(1, 8, 5, 6)])
    assert torch.equal(pooled, last[:, :, ::2, ::2])


@pytest.mark.parametrize(("how", "extra"), [("pool", 1), ("conv", 2), ("conv_c5", 2)])
def test_equals_torchvision(how: str, extra: int) -> None:
    from torchvision.ops import FeaturePyramidNetwork
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

    block = {"pool": LastLevelMaxPool(), "conv": LastLevelP6P7(6, 6), "conv_c5": LastLevelP6P7(16, 6)}[how]
    theirs = FeaturePyramidNetwork(list(CHANNELS), 6, block)
    ours = FeaturePyramid(CHANNELS, 6, STRIDES, extra, how)  # type: ignore[arg-type]
    convs = [module for module in theirs.modules() if isinstance(module, nn.Conv2d)]
    for conv, other in zip((*ours.lateral, *ours.output, *ours.extra), convs, strict=True):
        conv.load_state_dict(other.state_dict())
    x = maps()
    expected = list(theirs(OrderedDict((str(i), y) for i, y in enumerate(x))).values())
    got = ours(x)
    torch.testing.assert_close(got, expected)
    assert ours.strides == tuple(8 * 2**i for i in range(3 + extra))
    assert ours.channels == (6,) * (3 + extra) == tuple(y.shape[1] for y in got)


def test_incoming_maps_stay_as_they_are() -> None:
    x = maps()
    copies = [y.clone() for y in x]
    FeaturePyramid(CHANNELS, 6, STRIDES, extra=2, how="conv_c5")(x)
    assert len(x) == 3 and all(torch.equal(a, b) for a, b in zip(x, copies, strict=True))


def test_exports_and_compiles() -> None:
    pyramid, x = FeaturePyramid(CHANNELS, 6, STRIDES, extra=2, how="conv"), maps()
    expected = pyramid(x)
    torch.testing.assert_close(torch.export.export(pyramid, (x,)).module()(x), expected)
    torch.testing.assert_close(torch.compile(pyramid, fullgraph=True, backend="eager")(x), expected)


def test_bad_arguments_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match="pool, conv or conv_c5, got 'max'"):
        FeaturePyramid(CHANNELS, 6, STRIDES, how="max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="3 maps came with 2 strides"):
        FeaturePyramid(CHANNELS, 6, (8, 16))
