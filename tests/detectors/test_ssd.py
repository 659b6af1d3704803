"""What only SSD has: levels behind the backbone's, a head for each, default boxes, and its light variant."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from boxwright.detectors import SSD, SSDConfig
from boxwright.detectors.ssd import ExtraLevels


def neck(ssd: SSD) -> ExtraLevels:
    assert isinstance(ssd.features.neck, ExtraLevels)
    return ssd.features.neck


def small(**options: Any) -> SSD:
    return SSDConfig(**({"backbone": "mobilenet_v3_small", "frozen_stages": 0, "extra": (32, 16)} | options)).build(2)


@pytest.mark.parametrize("lite", [False, True])
def test_levels_halve_behind_the_backbone(lite: bool) -> None:
    ssd = small(lite=lite)
    maps = ssd.features(torch.zeros(1, 3, 100, 160))
    assert [tuple(x.shape[2:]) for x in maps] == [(13, 20), (7, 10), (4, 5), (2, 3), (1, 2)]
    assert ssd.features.strides == (8, 16, 32, 64, 128)
    assert tuple(x.shape[1] for x in maps) == ssd.features.channels
    per_cell = (4, 6, 6, 4, 4)
    dense = ssd.anchors(maps)
    assert dense.levels == tuple(x.shape[2] * x.shape[3] * a for x, a in zip(maps, per_cell, strict=True))
    assert dense.logits.shape == (1, len(dense.anchors), 3) and dense.deltas.shape == (1, len(dense.anchors), 1, 4)


def test_the_backbones_maps_have_the_lengths_they_are_given() -> None:
    """The first two by scaling, the third as it comes; the levels behind read the backbone's map unscaled."""
    ssd = small(lengths=(20.0, 5.0))
    pixels = 255 * torch.rand(1, 3, 64, 64)
    maps = ssd.features(pixels)
    for x, length in zip(maps, (20.0, 5.0), strict=False):
        torch.testing.assert_close(x.norm(dim=1), torch.full_like(x[:, 0], length))
    plain = small(lengths=())
    plain.load_state_dict({name: value for name, value in ssd.state_dict().items() if "lengths" not in name})
    for x, y in zip(maps[2:], plain.features(pixels)[2:], strict=True):
        assert torch.equal(x, y)


def test_default_boxes_are_in_strides_or_in_pixels() -> None:
    assert small(box_scale=3.0).anchors.anchors.sizes == (24, 48, 96, 192, 384, 768)
    pixels = (20.0, 40.0, 60.0, 80.0, 100.0, 120.0)
    grid = small(box_sizes=pixels).anchors.anchors
    assert grid.sizes == pixels and grid.strides == (8, 16, 32, 64, 128)
    with pytest.raises(ValueError, match="got 2 sizes, 5 tuples of ratios and 5 strides"):
        small(box_sizes=(20.0, 40.0))


def test_lite_has_fewer_weights() -> None:
    def weights(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    plain, lite = small(), small(lite=True, widen=0)
    assert weights(lite.anchors.head) < weights(plain.anchors.head) / 3
    assert weights(neck(lite).extra) < weights(neck(plain).extra)


def test_narrow_maps_are_widened_before_the_heads_of_lite() -> None:
    def channels(**options: Any) -> list[int]:
        return [x.shape[1] for x in small(**options).features(torch.zeros(1, 3, 64, 64))]

    assert channels() == channels(lite=True, widen=0) == [24, 48, 96, 32, 16]
    assert channels(lite=True) == [256] * 5
    assert channels(widen=40) == [40, 48, 96, 40, 40]


@pytest.mark.parametrize("norm", ["group", "batch", "none"])
def test_norms(norm: str) -> None:
    kinds = {"group": torch.nn.GroupNorm, "batch": torch.nn.BatchNorm2d}
    ssd = small(head_norm=norm, lite=True)
    found = [module for part in (neck(ssd), ssd.anchors.head) for module in part.modules()]
    assert sum(isinstance(module, tuple(kinds.values())) for module in found) == (
        0 if norm == "none" else 2 * 3 + 5 + 5 * 2  # further levels, widened maps, two towers of each head
    )
    assert norm == "none" or any(isinstance(module, kinds[norm]) for module in found)


def test_a_class_may_have_boxes_of_its_own() -> None:
    ssd = small(class_agnostic=False)
    dense = ssd.anchors(ssd.features(torch.zeros(1, 3, 64, 64)))
    assert dense.deltas.shape[2:] == (2, 4) and dense.logits.shape[2] == 3
