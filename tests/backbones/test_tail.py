"""What comes behind level 4: with the backbone before it, the whole network again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from boxwright.backbones import BACKBONES, build_backbone, build_classifier, build_tail
from boxwright.backbones.tail import StagedTail


@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "vgg16_ssd"])
def test_a_tail_takes_level_4_and_says_what_it_gives(name: str) -> None:
    with torch.device("meta"):
        tail, backbone = build_tail(name), build_backbone(name, levels=(4,))
        out = tail(torch.empty(3, tail.in_channels, tail.size, tail.size))
    assert (tail.in_channels,) == backbone.channels
    if name.startswith(("vgg", "alexnet")):
        assert tail.size == (6 if name == "alexnet" else 7) and out.shape == (3, 4096, 1, 1)
    else:
        assert tail.size == 14 and out.shape == (3, tail.channels, 7, 7)
    assert all(key.startswith("body.") for key in tail.state_dict())


def test_widths_of_tails() -> None:
    widths = {"resnet18": 512, "resnet50": 2048, "mobilenet_v2": 1280, "mobilenet_v3_large": 960, "alexnet": 4096}
    widths |= {"mobilenet_v3_large_fpn": 960, "mobilenet_v3_large_ssdlite": 480}
    with torch.device("meta"):
        assert {name: build_tail(name).channels for name in widths} == widths


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_lite0"])
@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_backbone_then_tail_then_classifier_is_the_network(name: str, norm: str, tmp_path: Path) -> None:
    network = build_classifier(name).eval()
    path = tmp_path / "network.safetensors"
    save_file(network.state_dict(), path)
    backbone = build_backbone(name, levels=(4,), pretrained=path, norm=norm).eval()
    tail = build_tail(name, pretrained=path, norm=norm).eval()
    assert any(isinstance(module, nn.BatchNorm2d) for module in tail.modules()) == (norm == "batch")
    with torch.no_grad():
        x = torch.randn(2, 3, 64, 96)
        scores = network.get_submodule("fc" if name == "resnet18" else "classifier")(tail(backbone(x)[0]).mean((2, 3)))
        torch.testing.assert_close(scores, network(x), rtol=1e-4, atol=1e-4)


def test_fully_connected_layers_follow_the_pooled_map() -> None:
    network = build_classifier("alexnet", num_classes=5).eval()
    with torch.no_grad():
        x = torch.randn(2, 3, 224, 224)
        expected = network(x)
        regions = network.last_map(x)  # (2, 256, 6, 6)
        last = network.get_submodule("classifier.6")
        tail = StagedTail(network).eval()
        torch.testing.assert_close(last(tail(regions).flatten(1)), expected, rtol=1e-4, atol=1e-5)
    assert {key.rsplit(".", 1)[0] for key in tail.state_dict()} == {"body.classifier.1", "body.classifier.4"}


def test_weights_without_the_layers_of_a_tail_are_refused(tmp_path: Path) -> None:
    with torch.device("meta"):
        weights = build_classifier("alexnet").state_dict()
    weights = {key: torch.zeros(value.shape) for key, value in weights.items() if key.startswith("features")}
    save_file(weights, tmp_path / "features.safetensors")
    assert build_backbone("alexnet", levels=(4,), pretrained=tmp_path / "features.safetensors").channels == (256,)
    with pytest.raises(ValueError, match=r"4 parameters are missing \(first: classifier.1.weight\)"):
        build_tail("alexnet", pretrained=tmp_path / "features.safetensors")


def test_regions_of_another_size_are_refused() -> None:
    with torch.device("meta"), pytest.raises(ValueError, match="of VGG take regions of 7x7 cells, got 14x14"):
        build_tail("vgg16")(torch.empty(1, 512, 14, 14))


def test_bad_arguments_say_what_was_expected() -> None:
    with torch.device("meta"):
        with pytest.raises(ValueError, match="norm must be one of frozen, batch, got 'group'"):
            build_tail("resnet18", norm="group")
        with pytest.raises(ValueError, match="pass pretrained=PATH"):
            build_tail("resnet18", pretrained=True)
        with pytest.raises(ValueError, match="SSDVGG16 ends at level 4"):
            build_tail("vgg16_ssd")


def test_a_tail_learns() -> None:
    tail = build_tail("mobilenet_v3_small", norm="batch")
    tail(torch.randn(2, tail.in_channels, 14, 14)).sum().backward()
    assert all(parameter.grad is not None for parameter in tail.parameters())
