"""The contract of a backbone: levels, what is dropped, what is frozen, compile and export."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn

from boxwright.backbones import BACKBONES, build_backbone, build_classifier
from boxwright.backbones.base import Stage, cut_stages, pad_same
from boxwright.layers.conv import Conv2dSame

WITH_LEVEL_5 = [name for name in BACKBONES if name != "vgg16_ssd"]
LIGHT = ["efficientnet_lite0", "resnet18", "mobilenet_v2", "mobilenet_v3_small"]


def test_stages_begin_where_a_layer_strides() -> None:
    layers = [("a", 1, 3), ("b", 1, 4), ("c", 2, 5), ("d", 1, 6), ("e", 4, 7)]
    assert cut_stages(layers) == (Stage(0, 1, 4, ("a", "b")), Stage(1, 2, 6, ("c", "d")), Stage(3, 8, 7, ("e",)))


@pytest.mark.parametrize("name", LIGHT)
def test_maps_are_what_channels_and_strides_say(name: str) -> None:
    backbone = build_backbone(name, levels=(2, 3, 5))
    maps = backbone(torch.zeros(2, 3, 64, 96))
    assert backbone.strides == (4, 8, 32)
    assert [tuple(y.shape) for y in maps] == [
        (2, c, 64 // s, 96 // s) for c, s in zip(backbone.channels, backbone.strides, strict=True)
    ]


@pytest.mark.parametrize("name", WITH_LEVEL_5)
def test_channels_are_right_without_running_the_network(name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name, levels=(2, 3, 4, 5))
        maps = backbone(torch.empty(1, 3, 256, 256))
    assert tuple(y.shape[1] for y in maps) == backbone.channels
    assert [tuple(y.shape[2:]) for y in maps] == [(256 // s, 256 // s) for s in (4, 8, 16, 32)]
    assert len(backbone.pixel_mean) == len(backbone.pixel_std) == 3


@pytest.mark.parametrize("name", ["alexnet", "resnet18"])
def test_a_bright_pixel_is_seen_by_the_cells_around_its_own(name: str, middle_of_what_sees: Callable) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(name, levels=(3,)).eval()
    assert middle_of_what_sees(backbone, 128) == 128 / 8


def test_only_layers_that_leave_out_the_border_are_padded() -> None:
    layers = nn.Sequential(
        nn.Conv2d(1, 1, 3, stride=2),  # an Inception's
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(1, 1, 11, stride=4, padding=2),  # AlexNet's
        nn.Conv2d(1, 1, (1, 7), padding=(0, 3)),
        nn.Conv2d(1, 1, 7, stride=4, padding=2),
        nn.Conv2d(1, 1, 4, stride=4),  # patches
        nn.MaxPool2d(2, stride=2),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        nn.Conv2d(1, 1, 3, padding="same"),
        Conv2dSame(1, 1, 3, stride=2),
    )
    pad_same(layers)
    paddings = [layer.padding for layer in layers]
    assert paddings == [(1, 1), (1, 1), (5, 5), (0, 3), (2, 2), (0, 0), (0, 0), 0, "same", (0, 0)]


@pytest.mark.parametrize("name", WITH_LEVEL_5)
def test_a_dilated_last_stage_has_stride_16(name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name, levels=(3, 4, 5), dilated=True)
        plain = build_backbone(name, levels=(3, 4, 5))
        maps = backbone(torch.empty(1, 3, 128, 192))
    assert backbone.strides == (8, 16, 16) and backbone.channels == plain.channels
    assert [tuple(y.shape[2:]) for y in maps] == [(16, 24), (8, 12), (8, 12)]
    assert [(key, value.shape) for key, value in backbone.state_dict().items()] == [
        (key, value.shape) for key, value in plain.state_dict().items()
    ]


@pytest.mark.parametrize(
    ("name", "options", "first"),
    [
        ("resnet18", {}, 0),
        ("resnet50", {}, 0),
        ("resnet50", {"stride_in_1x1": True}, 0),
        ("mobilenet_v2", {}, 0),
        ("efficientnet_lite0", {}, 1),  # TensorFlow pads an even map at its end: strides begin with the second cell
    ],
)
def test_a_dilated_last_stage_has_the_cells_of_the_plain_one_and_new_ones_between(
    name: str, options: dict, first: int
) -> None:
    plain = build_backbone(name, levels=(5,), **options)
    dilated = build_backbone(name, levels=(5,), dilated=True, **options)
    dilated.load_state_dict(plain.state_dict())
    with torch.no_grad():
        x = torch.randn(1, 3, 64, 128)
        (wanted,), (got,) = plain(x), dilated(x)
    assert got.shape[2:] == (4, 8) and dilated.strides == (16,)
    torch.testing.assert_close(got[:, :, first::2, first::2], wanted, rtol=1e-4, atol=1e-4)


def test_a_dilated_vgg_pools_every_cell_with_its_neighbours() -> None:
    with torch.device("meta"):
        pool = build_backbone("vgg11", levels=(5,), dilated=True).get_submodule("body.features.20")
    assert isinstance(pool, nn.MaxPool2d)
    assert (pool.kernel_size, pool.stride, pool.padding) == (3, 1, 1)


def test_nothing_above_the_highest_level_is_kept_and_names_stay() -> None:
    with torch.device("meta"):
        backbone = build_backbone("resnet18", levels=(3,), norm="batch")
        full = build_classifier("resnet18").state_dict()
    kept = {f"body.{key}" for key in full if key.split(".")[0] in ("conv1", "bn1", "layer1", "layer2")}
    assert set(backbone.state_dict()) == kept


def test_a_classifiers_head_is_dropped() -> None:
    with torch.device("meta"):
        names = {key.split(".")[1] for key in build_backbone("efficientnet_lite0").state_dict()}
        vgg = build_backbone("vgg16")
    assert names == {"conv_stem", "bn1", "blocks"}
    assert sum(p.numel() for p in vgg.parameters()) == 14_714_688  # the sixteen layers' thirteen convolutions


@pytest.mark.parametrize(("stages", "first"), [(0, "conv1"), (1, "layer1"), (2, "layer2"), (5, None)])
@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_frozen_stages_have_no_gradient_and_fixed_norms(stages: int, first: str | None, norm: str) -> None:
    backbone = build_backbone("resnet18", frozen_stages=stages, norm=norm).train()
    learning = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    assert [name.split(".")[1] for name in learning[:1]] == ([first] if first else [])
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    maps = backbone(torch.randn(2, 3, 64, 64))
    moved = {key.split(".")[1] for key, value in backbone.state_dict().items() if not torch.equal(value, before[key])}
    layers = ["bn1", "layer1", "layer2", "layer3", "layer4"]
    assert moved == (set(layers[stages:]) if norm == "batch" else set())
    assert maps[0].requires_grad == (stages < 3) and maps[2].requires_grad == (stages < 5)


def test_frozen_norms_are_not_the_optimisers() -> None:
    backbone = build_backbone("efficientnet_lite0")
    assert all(parameter.ndim == 4 for parameter in backbone.parameters())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())


def test_frozen_and_learning_norms_share_their_state_dict() -> None:
    frozen, learning = build_backbone("efficientnet_lite0"), build_backbone("efficientnet_lite0", norm="batch").eval()
    frozen.load_state_dict(learning.state_dict(), strict=True)
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(frozen(x), learning(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "mobilenet_v3_small"])
def test_compiles_whole_and_exports(name: str) -> None:
    torch._dynamo.reset()
    backbone, x = build_backbone(name, frozen_stages=2), torch.randn(2, 3, 64, 64)
    expected = backbone(x)
    torch.testing.assert_close(torch.compile(backbone, fullgraph=True, backend="eager")(x), expected)
    torch.testing.assert_close(torch.export.export(backbone, (x,)).module()(x), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": (3, 6)}, r"among \(1, 2, 3, 4, 5\) for ResNet, got \(3, 6\)"),
        ({"levels": (4, 3)}, r"levels \(--levels\) ascend"),
        ({"levels": ()}, "ascend among"),
        ({"levels": (3,), "frozen_stages": 4}, r"frozen_stages .--frozen-stages. is 0..3, .* got 4"),
        ({"norm": "group"}, "norm must be one of frozen, batch, got 'group'"),
    ],
)
def test_bad_arguments_say_what_was_expected(arguments: dict, message: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        build_backbone("resnet18", **arguments)


def test_building_one_of_ours_and_the_first_box_import_nothing_that_takes_long() -> None:
    code = (
        "import sys, torch; before = set(sys.modules)\n"
        "from boxwright.backbones import build_backbone; build_backbone('mobilenet_v3_small')\n"
        "import boxwright, numpy; boxwright.load(device='cpu')(numpy.zeros((64, 64, 3), numpy.uint8))\n"
        "slow = {'timm', 'torchvision', 'matplotlib', 'torch.utils.data', 'torch._dynamo', 'sympy'}\n"
        "print(slow & (set(sys.modules) - before))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "set()"
