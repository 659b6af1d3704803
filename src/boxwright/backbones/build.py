"""The table of backbones by name, and anything in timm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from boxwright.backbones.alexnet import AlexNet
from boxwright.backbones.base import Backbone, Network, StagedBackbone
from boxwright.backbones.efficientnet_lite import EfficientNetLite
from boxwright.backbones.mobilenet import MobileNetV2, MobileNetV3
from boxwright.backbones.pretrained import load_pretrained
from boxwright.backbones.resnet import ResNet
from boxwright.backbones.timm_features import TimmBackbone, near
from boxwright.backbones.vgg import VGG

BACKBONES: dict[str, Callable[..., Network]] = {
    "efficientnet_lite0": EfficientNetLite,
    "efficientnet_lite1": partial(EfficientNetLite, depth=1.1),
    "efficientnet_lite2": partial(EfficientNetLite, width=1.1, depth=1.2),
    "resnet18": partial(ResNet, 18),
    "resnet34": partial(ResNet, 34),
    "resnet50": partial(ResNet, 50),
    "resnet101": partial(ResNet, 101),
    "resnet152": partial(ResNet, 152),
    "resnext50_32x4d": partial(ResNet, 50, groups=32, group_width=4),
    "resnext101_32x8d": partial(ResNet, 101, groups=32, group_width=8),
    "resnext101_64x4d": partial(ResNet, 101, groups=64, group_width=4),
    "mobilenet_v2": MobileNetV2,
    "mobilenet_v3_large": partial(MobileNetV3, "large"),
    "mobilenet_v3_small": partial(MobileNetV3, "small"),
    "vgg11": partial(VGG, 11),
    "vgg13": partial(VGG, 13),
    "vgg16": partial(VGG, 16),
    "vgg19": partial(VGG, 19),
    "vgg11_bn": partial(VGG, 11, batch_norm=True),
    "vgg13_bn": partial(VGG, 13, batch_norm=True),
    "vgg16_bn": partial(VGG, 16, batch_norm=True),
    "vgg19_bn": partial(VGG, 19, batch_norm=True),
    "alexnet": AlexNet,
}


def build_classifier(name: str, pretrained: bool | str | Path = False, **options: Any) -> Network:
    """The whole classification network, with the parameter names of torchvision (EfficientNet-Lite: timm).

    pretrained  True: the weights of an installed package; a path: a local .safetensors or .pth state dict
    options     of the network's class, such as `classes`
    """
    if name not in BACKBONES:
        raise ValueError(f"no network {name!r}; {near(name, BACKBONES)}there are {', '.join(BACKBONES)}")
    network = BACKBONES[name](**options)
    if pretrained:
        load_pretrained(network, name, pretrained)
    return network


def build_backbone(
    name: str,
    levels: Sequence[int] = (3, 4, 5),
    pretrained: bool | str | Path = False,
    frozen_stages: int = 0,
    norm: str = "frozen",
    **options: Any,
) -> Backbone:
    """A backbone by name: one of `BACKBONES`, or a network of timm that gives feature maps (`timm:NAME`, or the name).

    levels         which maps come out, ascending; level l has stride 2**l
    pretrained     True: the ImageNet weights of an installed package; a path: a local .safetensors or .pth state dict
    frozen_stages  how many stages do not learn, in parameters and in norms: 0 none, 1 the stem (all before stride
                   4 in a ResNet), 2 the stem and the next stage, ... (a stage is a run of layers of one stride)
    norm           "frozen": batch norms keep statistics, scale and shift; "batch": they learn as usual
    options        of the network's class, such as `stride_in_1x1=True` of a ResNet, or of `timm.create_model`
    """
    if name in BACKBONES:
        return StagedBackbone(build_classifier(name, pretrained, **options), levels, frozen_stages, norm)
    return TimmBackbone(name.removeprefix("timm:"), levels, pretrained, frozen_stages, norm, BACKBONES, **options)
