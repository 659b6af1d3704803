"""Our networks against torchvision's: the same names, the same numbers."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from boxwright.backbones import BACKBONES, build_classifier
from boxwright.backbones.base import StagedBackbone, pad_same

torchvision = pytest.importorskip("torchvision")

NAMES = [name for name in BACKBONES if not name.startswith("efficientnet_lite") and name != "vgg16_ssd"]
LIGHT = [
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_large_fpn",
    "mobilenet_v3_large_ssdlite",
    "mobilenet_v3_small",
]

# torchvision's module whose output is our level 1 to 5
LEVELS = {
    "resnet": {1: "relu", 2: "layer1", 3: "layer2", 4: "layer3", 5: "layer4"},
    "mobilenet_v2": {1: "features.1", 2: "features.3", 3: "features.6", 4: "features.13", 5: "features.17"},
    "mobilenet_v3_large": {1: "features.1", 2: "features.3", 3: "features.6", 4: "features.12", 5: "features.15"},
    "vgg16": {0: "features.3", 1: "features.8", 2: "features.15", 3: "features.22", 4: "features.29", 5: "features.30"},
    "vgg16_bn": {1: "features.12", 3: "features.32", 4: "features.42", 5: "features.43"},
    "alexnet": {2: "features.1", 3: "features.4", 4: "features.11", 5: "features.12"},
}


def live_in(network: nn.Module) -> nn.Module:
    """Norms with other than initial numbers, so that each of them matters; biases too."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
            module.weight.data.uniform_(0.5, 1.0)
            module.bias.data.normal_(0, 0.1)
    return network.eval()


def slim(network: nn.Module) -> nn.Module:
    """VGG and AlexNet without their 60 million hidden weights, which cost seconds to draw and prove nothing here."""
    network.classifier = nn.Identity()
    return network


def torchvisions(name: str, **options: Any) -> nn.Module:
    """The network that ours of this name is, as a classification network."""
    if name == "mobilenet_v3_large_ssdlite":
        options["reduced_tail"] = True
    return getattr(torchvision.models, re.sub("_(msra|fpn|ssdlite)$", "", name))(**options)


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_has_torchvisions_names_and_shapes_in_its_order(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = build_classifier(name), torchvisions(name)
    assert [(k, v.shape) for k, v in ours.state_dict().items()] == [
        (k, v.shape) for k, v in theirs.state_dict().items()
    ]


@pytest.mark.parametrize("name", LIGHT)
def test_class_scores_equal_torchvisions(name: str) -> None:
    theirs = live_in(torchvisions(name, num_classes=10))
    ours = build_classifier(name, num_classes=10).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    with torch.no_grad():
        x = torch.randn(2, 3, 64, 96)
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["alexnet", "vgg11_bn"])
def test_class_scores_equal_torchvisions_with_hidden_layers(name: str) -> None:
    with torch.device("meta"):
        theirs, ours = getattr(torchvision.models, name)(num_classes=10), build_classifier(name, num_classes=10)
    theirs.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for value in theirs.state_dict().values():
        if value.is_floating_point():
            value.copy_((torch.rand(value.shape, generator=generator) - 0.3) / max(1, value[0].numel()) ** 0.5 + 1e-3)
            value.abs_()
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    with torch.no_grad():
        x = torch.rand(1, 3, 70, 90)
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-4, atol=1e-5)


def named_outputs(network: nn.Module, names: list[str], x: Tensor) -> list[Tensor]:
    """What the named modules give the first time each of them runs."""
    seen: dict[str, Tensor] = {}

    def keep(_module: nn.Module, _inputs: Any, output: Tensor, name: str) -> None:
        seen.setdefault(name, output.clone())

    hooks = [network.get_submodule(name).register_forward_hook(partial(keep, name=name)) for name in names]
    network(x)
    for hook in hooks:
        hook.remove()
    return [seen[name] for name in names]


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_large", "vgg16", "vgg16_bn", "alexnet"]
)
@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_levels_are_torchvisions_intermediate_maps(name: str, norm: str) -> None:
    levels = LEVELS.get(name) or LEVELS["resnet"]
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)()
        ours = build_classifier(name)
    if hasattr(theirs, "features") and "mobilenet" not in name:
        theirs, ours = slim(theirs), slim(ours)
    theirs.to_empty(device="cpu")
    for module in theirs.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            module.reset_parameters()
    ours.load_state_dict(live_in(theirs).state_dict(), strict=True, assign=True)
    if name == "alexnet":
        pad_same(theirs)
    backbone = StagedBackbone(ours, list(levels), norm=norm).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        x = torch.randn(1, 3, 64, 96)
        torch.testing.assert_close(backbone(x), named_outputs(theirs, list(levels.values()), x), rtol=1e-4, atol=1e-4)


def test_dilated_last_stage_equals_torchvisions() -> None:
    theirs = live_in(torchvision.models.resnet50(num_classes=10, replace_stride_with_dilation=[False, False, True]))
    ours = build_classifier("resnet50", num_classes=10)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    backbone = StagedBackbone(ours, (3, 5), dilated=True).eval()
    assert backbone.channels == (512, 2048) and backbone.strides == (8, 16)
    with torch.no_grad():
        x = torch.randn(1, 3, 64, 64)
        expected = named_outputs(theirs, ["layer2", "layer4"], x)
        torch.testing.assert_close(backbone(x), expected, rtol=1e-4, atol=1e-4)
        assert expected[1].shape == (1, 2048, 4, 4)


def test_detectron2s_option_moves_the_stride_and_with_it_the_dilation() -> None:
    with torch.device("meta"):
        network = build_classifier("resnet50_msra")
        assert [network.get_submodule(f"layer2.0.conv{i}").stride for i in (1, 2, 3)] == [(2, 2), (1, 1), (1, 1)]
        body = StagedBackbone(network, (5,), dilated=True).body
    assert [body.get_submodule(f"layer4.{i}.conv2").dilation for i in range(3)] == [(2, 2)] * 3
    assert [body.get_submodule(f"layer4.0.conv{i}").stride for i in (1, 2, 3)] == [(1, 1)] * 3


def test_impossible_options_say_so() -> None:
    with pytest.raises(ValueError, match="need bottlenecks"):
        build_classifier("resnet18", stride_in_1x1=True)
    with pytest.raises(ValueError, match="cut must be classifier, pyramid or ssd, got 'fpn'"):
        build_classifier("mobilenet_v3_small", cut="fpn")
