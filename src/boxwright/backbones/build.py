"""The table of backbones by name, and anything in timm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from boxwright import plugins
from boxwright.backbones.alexnet import AlexNet
from boxwright.backbones.base import Backbone, Classifier, StagedBackbone
from boxwright.backbones.efficientnet_lite import EfficientNetLite
from boxwright.backbones.mobilenet import MobileNetV2, MobileNetV3
from boxwright.backbones.pretrained import load_pretrained
from boxwright.backbones.resnet import ResNet
from boxwright.backbones.tail import StagedTail, Tail
from boxwright.backbones.timm_features import TimmBackbone, TimmTail, near
from boxwright.backbones.vgg import SSDVGG16, VGG

BACKBONES: dict[str, Callable[..., Classifier]] = {
    "efficientnet_lite0": EfficientNetLite,
    "efficientnet_lite1": partial(EfficientNetLite, depth=1.1),
    "efficientnet_lite2": partial(EfficientNetLite, width=1.1, depth=1.2),
    "resnet18": partial(ResNet, 18),
    "resnet34": partial(ResNet, 34),
    "resnet50": partial(ResNet, 50),
    "resnet101": partial(ResNet, 101),
    "resnet152": partial(ResNet, 152),
    "resnet50_msra": partial(ResNet, 50, stride_in_1x1=True),
    "resnet101_msra": partial(ResNet, 101, stride_in_1x1=True),
    "resnext50_32x4d": partial(ResNet, 50, groups=32, group_width=4),
    "resnext101_32x8d": partial(ResNet, 101, groups=32, group_width=8),
    "resnext101_64x4d": partial(ResNet, 101, groups=64, group_width=4),
    "mobilenet_v2": MobileNetV2,
    "mobilenet_v3_large": partial(MobileNetV3, "large"),
    "mobilenet_v3_small": partial(MobileNetV3, "small"),
    "mobilenet_v3_large_fpn": partial(MobileNetV3, "large", "pyramid"),
    "mobilenet_v3_large_ssdlite": partial(MobileNetV3, "large", "ssd", reduced_tail=True),
    "vgg11": partial(VGG, 11),
    "vgg13": partial(VGG, 13),
    "vgg16": partial(VGG, 16),
    "vgg19": partial(VGG, 19),
    "vgg11_bn": partial(VGG, 11, batch_norm=True),
    "vgg13_bn": partial(VGG, 13, batch_norm=True),
    "vgg16_bn": partial(VGG, 16, batch_norm=True),
    "vgg19_bn": partial(VGG, 19, batch_norm=True),
    "vgg16_ssd": SSDVGG16,
    "alexnet": AlexNet,
}


_OURS = frozenset(BACKBONES)
_WEIGHTS: dict[str, Path] = {}  # of registered networks


def register_backbone(name: str, network: Callable[..., Classifier], weights: str | Path | None = None) -> None:
    """Make a network of your own known by name: to the option `backbone` of every detector, and to checkpoints.

    network  makes a `Classifier`: a class below it, or any function; its `stages` are cut at the levels that a detector
             reads. Options of `build_backbone` are its arguments
    weights  the .safetensors or .pth state dict that `pretrained` loads; without it only random weights are possible

    Raises ValueError for a name of boxwright's own or of another module, and for what is no network.
    """
    if not name or ":" in name:
        raise ValueError(f"expected a name without ':' for a backbone, got {name!r}")
    if not callable(network) or isinstance(network, Classifier):
        raise ValueError(
            f"expected a class below boxwright.backbones.Classifier, or a function that makes one, as {name!r}; "
            f"got {type(network).__name__}"
        )
    plugins.claim("backbone", name, name in _OURS)
    BACKBONES[name] = network
    _WEIGHTS.pop(name, None)
    if weights is not None:
        _WEIGHTS[name] = Path(weights)


def build_classifier(name: str, pretrained: bool | str | Path = False, **options: Any) -> Classifier:
    """The whole classification network, with the parameter names of torchvision (EfficientNet-Lite: timm).

    pretrained  True: the weights of an installed package; a path: a local .safetensors or .pth state dict, of
                torchvision's or timm's network
    options     of the network's class, such as `num_classes`
    """
    if name not in BACKBONES:
        raise ValueError(f"no network {name!r}; {near(name, BACKBONES)}there are {', '.join(BACKBONES)}")
    network = BACKBONES[name](**options)
    if pretrained:
        load_pretrained(network, name, _weights_of(name, pretrained))
    return network


def _weights_of(name: str, pretrained: bool | str | Path) -> bool | str | Path:
    """Those of a registered network where `pretrained` is True. Raises ValueError where it has none."""
    if pretrained is not True or name in _OURS:
        return pretrained
    if name not in _WEIGHTS:
        raise ValueError(
            f"the backbone {name!r} was registered without weights; start from random ones with pretrained=False "
            "(--no-pretrained), or name them: register_backbone(NAME, NETWORK, weights=PATH)"
        )
    return _WEIGHTS[name]


def build_backbone(
    name: str, levels: Sequence[int] = (3, 4, 5), pretrained: bool | str | Path = False, frozen_stages: int = 0,
    norm: str = "frozen", dilated: bool = False, **options: Any,
) -> Backbone:  # fmt: skip
    """A backbone by name: one of `BACKBONES`, or a network of timm that gives feature maps (`timm:NAME`, or the name).

    levels         which maps come out, ascending; level l has stride 2**l, but level 6 of `mobilenet_v3_large_fpn` has
                   32 as its level 5
    pretrained     True: the ImageNet weights of an installed package; a path: a local .safetensors or .pth state dict
    frozen_stages  how many stages do not learn, in parameters and in norms: 0 none, 1 the stem (all before stride
                   4 in a ResNet), 2 the stem and the next stage, ... (a stage is a run of layers of one stride; of a
                   plain transformer, a block)
    norm           "frozen": batch norms keep statistics, scale and shift; "batch": they learn as usual
    dilated        level 5 has stride 16, with dilated kernels, as in R-FCN and DC5: levels=(5,) is then one map
                   of stride 16, levels=(4, 5) are two; see `.strides`. Where timm cannot dilate a network (Swin,
                   Inception), its level 5 is interpolated to stride 16
    options        of the network's class, such as `stride_in_1x1=True` of a ResNet, or of `timm.create_model`
    """
    if name in BACKBONES:
        return StagedBackbone(build_classifier(name, pretrained, **options), levels, frozen_stages, norm, dilated)
    return TimmBackbone(
        name.removeprefix("timm:"), levels, pretrained, frozen_stages, norm, dilated, BACKBONES, **options
    )


def build_tail(name: str, pretrained: bool | str | Path = False, norm: str = "frozen", **options: Any) -> Tail:
    """What network `name` has behind its level 4, to be run on every region that is pooled from `levels=(4,)`.

    The last stage of a ResNet ("C4"), an EfficientNet or a MobileNet, these two with the convolution in front of their
    classifier; the layers fc6 and fc7 of a VGG or an AlexNet. Arguments as of `build_backbone`.
    """
    if name in BACKBONES:
        network = build_classifier(name, **options)
        if pretrained:
            load_pretrained(
                network, name, _weights_of(name, pretrained), needed=network.head.modules if network.head else ()
            )
        return StagedTail(network, norm)
    return TimmTail(name.removeprefix("timm:"), pretrained, norm, BACKBONES, **options)
