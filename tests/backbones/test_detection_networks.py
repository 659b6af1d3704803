"""Networks as torchvision's detectors cut them: their maps, from their weights under our names."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from boxwright.backbones import build_backbone
from boxwright.backbones.layouts import fold_epsilon
from boxwright.backbones.vgg import SSDVGG16, reduce_fc

detection = pytest.importorskip("torchvision.models.detection")

Renames = list[tuple[str, str]]
SSD300: Renames = [
    (r"^extra\.0\.7\.1\.", "fc6."),
    (r"^extra\.0\.7\.3\.", "fc7."),
    *((rf"^extra\.0\.{index}\.", f"features.{23 + index}.") for index in range(7)),
]
SSDLITE: Renames = [
    (r"^features\.0\.13\.", "features.13.block.0."),
    (r"^features\.1\.0\.", "features.13.block."),
    *((rf"^features\.1\.{index}\.", f"features.{13 + index}.") for index in range(1, 4)),
    (r"^features\.0\.", "features."),
]


def alive(network: nn.Module) -> nn.Module:
    """Random norms, biases and weights that keep the maps near 1."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
            module.weight.data.uniform_(0.5, 1.0)
            module.bias.data.normal_(0, 0.1)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, 0, 0.1)
    return network.eval()


def under_our_names(body: nn.Module, backbone: nn.Module, renames: Renames) -> dict[str, Tensor]:
    """The weights of their body that ours has, each found under exactly one name."""
    weights: dict[str, Tensor] = {}
    for key, value in body.state_dict().items():
        for pattern, name in renames:
            key, changes = re.subn(pattern, name, key)
            if changes:
                break
        assert f"body.{key}" not in weights
        weights[f"body.{key}"] = value
    return {key: weights[key] for key in backbone.state_dict()}


def maps(backbone: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return backbone.eval()(x)


def test_ssd300s_vgg() -> None:
    with torch.device("meta"):  # where a VGG's 120 million hidden weights are not drawn
        theirs = detection.ssd300_vgg16(weights=None, weights_backbone=None).backbone
        backbone = build_backbone("vgg16_ssd", (3, 4))
        assert [y.shape[2:] for y in backbone(torch.empty(1, 3, 300, 300))] == [(38, 38), (19, 19)]
    alive(theirs.to_empty(device="cpu"))
    backbone.load_state_dict(under_our_names(theirs, backbone, SSD300), strict=True, assign=True)
    x = torch.randn(1, 3, 100, 140)
    with torch.no_grad():
        level3 = theirs.get_submodule("features")(x)  # before SSD's norm over the channels
        level4 = theirs.get_submodule("extra.0")(level3)
    ours = maps(backbone, x)
    torch.testing.assert_close(ours, [level3, level4], rtol=1e-5, atol=1e-5)
    assert [tuple(y.shape[1:]) for y in ours] == [(512, 13, 18), (1024, 6, 9)]
    assert backbone.channels == (512, 1024) and backbone.strides == (8, 16)


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_ssdlites_mobilenet(norm: str) -> None:
    theirs = alive(detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).backbone)
    backbone = build_backbone("mobilenet_v3_large_ssdlite", (4, 5), norm=norm)
    backbone.load_state_dict(under_our_names(theirs, backbone, SSDLITE), strict=True)
    x = torch.randn(1, 3, 128, 160)
    expected = list(maps(theirs, x).values())[:2]  # type: ignore[attr-defined]
    ours = maps(backbone, x)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    assert [tuple(y.shape[1:]) for y in ours] == [(672, 8, 10), (480, 4, 5)]
    assert backbone.channels == (672, 480) and backbone.strides == (16, 32)


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_faster_rcnns_mobilenet_has_two_maps_of_stride_32(norm: str) -> None:
    theirs = alive(detection.fasterrcnn_mobilenet_v3_large_fpn(weights=None, weights_backbone=None).backbone.body)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            module.running_var.mul_(0.02)  # so that 1e-3 in place of their 1e-5 would be seen
            module.weight.data.mul_(0.1)
    backbone = build_backbone("mobilenet_v3_large_fpn", (5, 6), norm=norm)
    weights = under_our_names(theirs, backbone, [(r"^", "features.")])
    x = torch.randn(1, 3, 128, 160)
    expected = list(maps(theirs, x).values())  # type: ignore[attr-defined]
    backbone.load_state_dict(fold_epsilon(weights, backbone, 1e-5), strict=True)
    ours = maps(backbone, x)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    assert [tuple(y.shape[1:]) for y in ours] == [(160, 4, 5), (960, 4, 5)]
    assert backbone.channels == (160, 960) and backbone.strides == (32, 32)
    backbone.load_state_dict(weights, strict=True)
    assert (maps(backbone, x)[0] - expected[0]).abs().max() > 1e-3


def test_two_maps_of_one_stride_dilated_and_frozen() -> None:
    plain = build_backbone("mobilenet_v3_large_fpn", (4, 5, 6))
    dilated = build_backbone("mobilenet_v3_large_fpn", (4, 5, 6), frozen_stages=5, dilated=True)
    assert plain.strides == (16, 32, 32) and dilated.strides == (16, 16, 16)
    ours = maps(dilated, torch.randn(1, 3, 64, 96))
    assert [tuple(y.shape[1:]) for y in ours] == [(112, 4, 6), (160, 4, 6), (960, 4, 6)]
    depthwise: Any = dilated.get_submodule("body.features.14.block.1.0")  # in the stage behind the strided one
    assert depthwise.dilation == (2, 2) and depthwise.padding == (4, 4)
    learning = {key.split(".")[2] for key, value in dilated.named_parameters() if value.requires_grad}
    assert learning == {"14", "15", "16"}  # level 6, behind the stages of levels 1 to 5
    with pytest.raises(ValueError, match=r"among \(1, 2, 3, 4, 5, 6\) for MobileNetV3"):
        build_backbone("mobilenet_v3_large_fpn", (5, 7))


def test_ssds_vgg_ends_at_stride_16_dilated_or_not() -> None:
    with torch.device("meta"):
        backbone = build_backbone("vgg16_ssd", (3, 4), frozen_stages=5, dilated=True)
        assert backbone.strides == (8, 16)
        assert not any(parameter.requires_grad for parameter in backbone.parameters())
        assert SSDVGG16(num_classes=7)(torch.empty(2, 3, 64, 64)).shape == (2, 7)
        with pytest.raises(ValueError, match=r"among \(0, 1, 2, 3, 4\) for SSDVGG16, got \(4, 5\)"):
            build_backbone("vgg16_ssd", (4, 5))


def test_fc6_and_fc7_by_decimation() -> None:
    """A plain fc6 whose only weights are at cells that stay is fc6 dilated by 3; at twice the cells, by 6."""
    fc6 = torch.arange(4096.0)[:, None].expand(-1, 25088).contiguous()
    fc6[8] = torch.arange(25088.0)
    fc7 = torch.arange(4096.0)[:, None] + torch.arange(4096.0) / 4096
    small6, small7 = reduce_fc(fc6, fc7)
    assert small6.shape == (1024, 512, 3, 3) and small7.shape == (1024, 1024, 1, 1)
    assert small6[3].unique().tolist() == [12]
    assert small6[2, 1].tolist() == [[49, 52, 55], [70, 73, 76], [91, 94, 97]]  # rows of 7 cells, 49 to a channel
    assert small7[3, 2].item() == 12 + 8 / 4096
    biases = reduce_fc(torch.arange(4096.0), -torch.arange(4096.0))
    assert [bias[:3].tolist() for bias in biases] == [[0, 4, 8], [0, -4, -8]]
    with pytest.raises(ValueError, match=r"must be \(4096, 25088\) and \(4096, 4096\) .* got \(9, 9\) and \(4096,\)"):
        reduce_fc(torch.zeros(9, 9), torch.zeros(4096))
