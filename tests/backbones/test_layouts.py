"""Classification weights of timm's networks in ours, and a plain VGG-16's in SSD's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from boxwright.backbones import BACKBONES, build_backbone, build_classifier, build_tail
from boxwright.backbones.layouts import as_own

timm = pytest.importorskip("timm")

TIMM = {
    "mobilenet_v2": "mobilenetv2_100",
    "mobilenet_v3_large": "mobilenetv3_large_100",
    "mobilenet_v3_large_fpn": "mobilenetv3_large_100",
    "mobilenet_v3_small": "mobilenetv3_small_100",
    "efficientnet_lite0": "tf_efficientnet_lite0",
    "efficientnet_lite1": "tf_efficientnet_lite1",
    "efficientnet_lite2": "tf_efficientnet_lite2",
    "resnet50_msra": "resnet50",
    "resnet101_msra": "resnet101",
}
NOT_TIMMS = {"alexnet", "mobilenet_v3_large_ssdlite", "vgg16_ssd"}
NAMES = {name: TIMM.get(name, name) for name in BACKBONES if name not in NOT_TIMMS}
LIGHT = [*TIMM][:5] + ["resnet18", "resnext50_32x4d"]


def lived_in(name: str) -> nn.Module:
    """timm's network with random statistics, scales, shifts and biases."""
    network = timm.create_model(NAMES[name], pretrained=False, num_classes=10)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.05, 0.2)  # small, so that another epsilon would be seen
            module.weight.data.uniform_(0.2, 0.4)
            module.bias.data.normal_(0, 0.1)
        elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.normal_(module.bias, 0, 0.1)
    return network.eval()


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_of_timms_network_has_its_place(name: str) -> None:
    with torch.device("meta"):
        ours, weights = build_classifier(name), timm.create_model(NAMES[name]).state_dict()
        got = as_own(weights, ours)
    assert {key: value.shape for key, value in got.items()} == {
        key: value.shape for key, value in ours.state_dict().items()
    }


@pytest.mark.parametrize("name", LIGHT)
def test_class_scores_equal_timms(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs, path = lived_in(name), tmp_path / "net.safetensors"
    save_file(theirs.state_dict(), path)  # which keeps no order
    ours = build_classifier(name, pretrained=path, num_classes=10).eval()
    with torch.no_grad():
        x = torch.randn(2, 3, 64, 96)
        expected = theirs(x)
        torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-5)
    assert expected.abs().max() > 0.1 and (expected[0] - expected[1]).abs().max() > 1e-3


def test_class_scores_equal_timms_with_hidden_layers() -> None:
    with torch.device("meta"):
        theirs, ours = timm.create_model("vgg11_bn", num_classes=10), build_classifier("vgg11_bn", num_classes=10)
    theirs.to_empty(device="cpu")
    for value in theirs.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0, 2).div_(max(1, value[0].numel()))
    ours.load_state_dict(as_own(theirs.state_dict(), ours), strict=True, assign=True)
    with torch.no_grad():
        x = torch.rand(1, 3, 224, 224)  # timm's fc6 is a convolution, which pools behind itself where the map is larger
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-5, atol=1e-5)


def test_a_tail_of_timms_mobilenet_and_a_head_of_other_classes(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    weights = lived_in("mobilenet_v3_small").state_dict()
    save_file(weights, path)
    tail = build_tail("mobilenet_v3_small", pretrained=path)
    assert torch.equal(tail.state_dict()["body.features.12.0.weight"], weights["blocks.5.0.conv.weight"])
    network = build_classifier("mobilenet_v3_small", pretrained=path, num_classes=3)
    assert torch.equal(network.state_dict()["classifier.0.weight"], weights["conv_head.weight"].flatten(1))
    save_file({key: value for key, value in weights.items() if key.split(".")[0] != "classifier"}, path)
    network = build_classifier("mobilenet_v3_small", pretrained=path)
    assert torch.equal(network.state_dict()["classifier.0.weight"], weights["conv_head.weight"].flatten(1))


@pytest.mark.parametrize(
    ("name", "foreign", "message"),
    [
        ("mobilenet_v3_small", "mobilenetv3_large_100", "have another shape"),
        ("mobilenet_v2", "mobilenetv3_small_100", "have another shape"),
        ("mobilenet_v3_large_ssdlite", "mobilenetv3_large_100", "have another shape"),
        ("mobilenet_v2", "mnasnet_050", "have another shape"),
        ("mobilenet_v2", "mobilenetv4_conv_small_035", "are not known"),
        ("resnet18", "mobilenetv2_100", r"are not known \(first: conv_stem.weight\)"),
        ("mobilenet_v2", "resnet18", r"are not known \(first: conv1.weight\)"),
    ],
)
def test_another_network_of_timms_is_refused(name: str, foreign: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save(timm.create_model(foreign).state_dict(), path)
    with pytest.raises(ValueError, match=rf"net.pth: these are not the weights of {name}: .*{message}.* or timm's"):
        build_classifier(name, pretrained=path)


@pytest.fixture(scope="module")
def vgg() -> dict[str, Tensor]:
    """timm's VGG-16: weights of zeros, so that they cost nothing, but for one in every array."""
    with torch.device("meta"):
        weights = timm.create_model("vgg16").state_dict()
    weights = {key: torch.zeros(value.shape) for key, value in weights.items()}
    for number, value in enumerate(weights.values(), start=1):
        value.view(-1)[0] = number
    return weights


def test_ssds_vgg_takes_a_plain_vggs_weights(vgg: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        network = build_classifier("vgg16_ssd")
    got = as_own(vgg, network)
    assert {key: value.shape for key, value in got.items() if key.split(".")[0] != "head"} == {
        key: value.shape for key, value in network.state_dict().items() if key.split(".")[0] != "classifier"
    }
    for ours, theirs in (("features.28", "features.28"), ("fc6", "pre_logits.fc1"), ("fc7", "pre_logits.fc2")):
        for part in ("weight", "bias"):
            wanted = vgg[f"{theirs}.{part}"].view(-1)[0]
            assert got[f"{ours}.{part}"].count_nonzero() == 1 and got[f"{ours}.{part}"].flatten()[0] == wanted


@pytest.mark.parametrize("classifier", ["none", "nan"])
def test_without_a_classifier_ssds_vgg_draws_fc6_and_fc7(
    vgg: dict[str, Tensor], classifier: str, tmp_path: Path
) -> None:
    weights = {key: value for key, value in vgg.items() if key.startswith("features")}
    if classifier == "nan":
        weights |= {f"classifier.{i}.bias": torch.full((4096,), torch.nan) for i in (0, 3)}
        weights |= {f"classifier.{i}.weight": torch.full((4096, 4096), torch.nan) for i in (0, 3)}
    save_file(weights, tmp_path / "vgg.safetensors")
    backbone = build_backbone("vgg16_ssd", (3, 4), pretrained=tmp_path / "vgg.safetensors")
    own = backbone.state_dict()
    assert torch.equal(own["body.features.28.weight"], vgg["features.28.weight"])
    assert own["body.fc6.weight"].isfinite().all() and own["body.fc6.weight"].std() > 0
