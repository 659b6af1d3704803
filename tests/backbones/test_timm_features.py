"""Networks of timm as backbones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from boxwright.backbones import build_backbone

timm = pytest.importorskip("timm")


@pytest.mark.parametrize(
    ("name", "levels", "channels"),
    [
        ("timm:resnet18", (3, 4, 5), (128, 256, 512)),
        ("timm:efficientnet_b0", (2, 3), (24, 40)),
        ("convnext_atto", (3, 4, 5), (80, 160, 320)),
        ("vit_tiny_patch16_224", (4,), (192,)),
    ],
)
def test_any_timm_network_keeps_the_contract(name: str, levels: tuple[int, ...], channels: tuple[int, ...]) -> None:
    torch._dynamo.reset()
    backbone, x = build_backbone(name, levels), torch.randn(1, 3, 224, 224)
    maps = backbone(x)
    assert backbone.channels == channels and backbone.strides == tuple(2**level for level in levels)
    assert [tuple(y.shape) for y in maps] == [
        (1, c, 224 // s, 224 // s) for c, s in zip(channels, backbone.strides, strict=True)
    ]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    torch.testing.assert_close(torch.export.export(backbone, (x,)).module()(x), maps)


def test_a_swin_transformers_maps_come_channels_first() -> None:
    backbone = build_backbone("swin_tiny_patch4_window7_224", (2,), img_size=56, embed_dim=24, num_heads=(3, 6, 12, 24))
    assert [tuple(y.shape) for y in backbone(torch.randn(1, 3, 56, 56))] == [(1, 24, 14, 14)]
    assert backbone.channels == (24,)


def test_local_weights_make_timms_resnet_ours(tmp_path: Path) -> None:
    path = tmp_path / "resnet18.pth"
    torch.save(timm.create_model("resnet18").state_dict(), path)
    ours, theirs = build_backbone("resnet18", pretrained=path), build_backbone("timm:resnet18", pretrained=path)
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    assert ours.pixel_mean == pytest.approx(theirs.pixel_mean) and ours.pixel_std == pytest.approx(theirs.pixel_std)
    with pytest.raises(ValueError, match="Missing key"):
        build_backbone("timm:resnet26", pretrained=path)


@pytest.mark.parametrize(("stages", "first"), [(0, "conv1"), (1, "layer1"), (2, "layer2")])
def test_frozen_stages(stages: int, first: str) -> None:
    backbone = build_backbone("timm:resnet18", frozen_stages=stages, norm="batch").train()
    learning = [name.split(".")[1] for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    norms = [name.split(".")[1] for name, module in backbone.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert learning[0] == first
    assert norms[0] == ("bn1" if stages == 0 else first)


def test_levels_that_a_network_has_not_are_refused() -> None:
    with pytest.raises(ValueError, match=r"among \(4,\) for timm's vit_tiny_patch16_224"):
        build_backbone("vit_tiny_patch16_224")


def test_an_unknown_name_is_met_with_close_ones() -> None:
    with pytest.raises(ValueError, match="no backbone 'effcientnet_lite0'.*did you mean efficientnet_lite0 or"):
        build_backbone("effcientnet_lite0")


def test_nothing_is_downloaded_unasked() -> None:
    with pytest.raises(ValueError, match="nothing is downloaded unasked; pass pretrained=PATH"):
        build_backbone("timm:resnet18", pretrained=True)
