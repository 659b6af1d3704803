"""torchvision's detectors: configs that compute the same functions, and the conversion of their weights.

Background is the first column of torchvision's softmax, and the last one here. torchvision's sigmoid heads have a
column for it too, which is never trained; it is kept, so that the detections are the same.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxwright.zoo.coco import ALL_IDS
from boxwright.zoo.foreign import Arguments, Foreign, ForeignError, Published, check, few, rows
from boxwright.zoo.torchvision_names import NAMES, RENAMED, RENAMED_RETINANET, rename
from boxwright.zoo.weights import read as read

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from boxwright.detectors import FasterRCNNConfig, FCOSConfig, RetinaNetConfig, SSDConfig
    from boxwright.types import Detections
    from boxwright.zoo.foreign import Detect, State

    Config = FasterRCNNConfig | RetinaNetConfig | SSDConfig | FCOSConfig

LICENCE = "none of their own: torchvision is BSD-3-Clause; the terms of COCO, the training data, may apply"
"""Of the weights; after "Pre-trained Model License" in torchvision's README."""

_FILES = {
    "fasterrcnn_resnet50_fpn": "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
    "fasterrcnn_resnet50_fpn_v2": "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth",
    "fasterrcnn_mobilenet_v3_large_fpn": "fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth",
    "fasterrcnn_mobilenet_v3_large_320_fpn": "fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth",
    "retinanet_resnet50_fpn": "retinanet_resnet50_fpn_coco-eeacb38b.pth",
    "retinanet_resnet50_fpn_v2": "retinanet_resnet50_fpn_v2_coco-5905b1c5.pth",
    "fcos_resnet50_fpn": "fcos_resnet50_fpn_coco-99b0c9b7.pth",
    "ssd300_vgg16": "ssd300_vgg16_coco-b556d3b4.pth",
    "ssdlite320_mobilenet_v3_large": "ssdlite320_mobilenet_v3_large_coco-a79551df.pth",
}
_WITHOUT_EPS = ("fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn")
"""Published when torchvision's frozen batch norm had no epsilon, and therefore used without one."""

PUBLISHED = {
    name: Published(
        name=f"torchvision:{name}",
        file=file,
        url=f"https://download.pytorch.org/models/{file}",
        licence=LICENCE,
        sha256=Path(file).stem[-8:],
        norm_eps=0.0 if name in _WITHOUT_EPS else None,
    )
    for name, file in _FILES.items()
}


def cached(published: Published) -> Path:
    """The published file in the cache of torch.hub."""
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch")
    return Path(os.path.expanduser(home), "hub", "checkpoints", published.file)


DEFAULTS = Arguments()
"""Whatever torchvision's builder takes without arguments."""


def foreign(name: str, arguments: Arguments = DEFAULTS) -> Foreign:
    """One of `PUBLISHED`, ready to be converted.

    arguments  those of torchvision's builder; a `norm_eps` of 0 for weights fine-tuned from those that are used without
               one (`Published.norm_eps`)
    """
    from boxwright.data.preprocess import Preprocess

    about = PUBLISHED[name.removeprefix("torchvision:")]
    name = about.name.removeprefix("torchvision:")
    config = configure(name, arguments)
    if name.startswith("ssd"):
        side = 320 if "320" in name else 300
        preprocess = Preprocess("stretch", height=side, width=side, divisor=1, resample="plain")
    else:
        short, long = (320, 640) if "320" in name else (800, 1333)
        short, long = arguments.min_size or short, arguments.max_size or long
        fill: Any = config.pixel_mean
        preprocess = Preprocess(short=short, long=long, resample="plain", rounding="floor", fill=fill)
    return Foreign(
        **vars(about),
        config=config,
        preprocess=preprocess,
        names=ALL_IDS if NAMES[name].softmax else ("__background__", *ALL_IDS),
        logits=NAMES[name].logits,
        convert=partial(convert, name, arguments=arguments),
        threshold=config.score_threshold[0],
        count_classes=partial(count_classes, name),
        first_label=int(NAMES[name].softmax),
        reference=partial(reference, name, arguments=arguments),
    )


def configure(name: str, arguments: Arguments = DEFAULTS) -> Config:
    """The config of the model that torchvision builds with these arguments. Raises ForeignError for those it fixes."""
    if name.startswith("ssd"):
        arguments.refuse(name, "min_size", "max_size")
    if name.startswith(("ssd", "fcos")):
        arguments.refuse(name, "anchor_sizes", "aspect_ratios")
    if max((*arguments.mean, *arguments.std, 0)) > 1:
        raise ForeignError(
            f"torchvision's image_mean and image_std are in 0..1, got {arguments.mean or arguments.std}; divide by 255"
        )
    return replace(_configs()[name], **arguments.options(lambda values: tuple(255 * value for value in values)))


_IMAGENET = ((0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255))


def _configs() -> dict[str, Config]:
    from boxwright.detectors import FasterRCNNConfig, FCOSConfig, RetinaNetConfig, SSDConfig

    sizes = (32.0, 64.0, 128.0, 256.0, 512.0)
    shared: dict[str, Any] = {
        "pixel_mean": _IMAGENET[0],
        "pixel_std": _IMAGENET[1],
        "convention": "torchvision",
        "channels": 256,
    }
    regions = FasterRCNNConfig(
        **shared,
        backbone="resnet50",
        levels=(2, 3, 4, 5),
        anchor_sizes=sizes,
        proposals=1000,
        hidden=1024,
        region_samples=512,
        pre_nms_top_k=100_000,  # no limit
    )
    mobile = replace(
        regions, backbone="mobilenet_v3_large_fpn", levels=(5, 6), anchor_sizes=sizes * 3, rpn_score_threshold=0.05
    )
    thirds = tuple(float(int(size * 2 ** (third / 3))) for size in sizes for third in range(3))
    retinanet = RetinaNetConfig(
        **shared,
        backbone="resnet50",
        head_norm="none",
        anchor_sizes=thirds,
        max_detections=300,
        assignment="max_iou",
        class_loss="focal",
        box_loss="smooth_l1",
    )
    ssd = SSDConfig(
        backbone="vgg16_ssd",
        levels=(3, 4),
        pixel_mean=(0.48235 * 255, 0.45882 * 255, 0.40784 * 255),
        pixel_std=(1.0, 1.0, 1.0),
        convention="torchvision",
        extra=(512, 256, 256, 256),
        unstrided=2,
        widen=0,
        head_norm="none",
        lengths=(20.0,),
        box_sizes=tuple(300 * scale for scale in (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)),
        box_steps=(8.0, 16.0, 32.0, 64.0, 100.0, 300.0),
        box_limit=300.0,
        score_threshold=(0.01,),
        pre_nms_top_k=400,
        per_class=True,
        max_detections=200,
    )
    ssdlite = replace(
        ssd,
        backbone="mobilenet_v3_large_ssdlite",
        levels=(4, 5),
        pixel_mean=(127.5,) * 3,
        pixel_std=(127.5,) * 3,
        extra=(512, 256, 256, 128),
        unstrided=0,
        lite=True,
        head_norm="batch",
        lengths=(),
        box_sizes=tuple(320 * scale for scale in (0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0)),
        box_steps=(),
        box_limit=320.0,
        end_aspect_ratios=(2.0, 3.0),
        score_threshold=(0.001,),
        nms_threshold=0.55,
        pre_nms_top_k=300,
        max_detections=300,
    )
    return {
        "fasterrcnn_resnet50_fpn": regions,
        "fasterrcnn_resnet50_fpn_v2": replace(regions, rpn_depth=2, head_convs=4, head_layers=1),
        "fasterrcnn_mobilenet_v3_large_fpn": mobile,
        "fasterrcnn_mobilenet_v3_large_320_fpn": replace(mobile, proposals=150, rpn_pre_nms_top_k=150),
        "retinanet_resnet50_fpn": retinanet,
        "retinanet_resnet50_fpn_v2": replace(retinanet, head_norm="group", group_channels=8, extra_from="backbone"),
        "fcos_resnet50_fpn": FCOSConfig(
            **shared,
            backbone="resnet50",
            distances="relu",
            group_channels=8,
            level_scales=False,
            offset=0.0,
            score_threshold=(0.2,),
            nms_threshold=0.6,
            assignment="center",
            class_loss="focal",
        ),
        "ssd300_vgg16": ssd,
        "ssdlite320_mobilenet_v3_large": ssdlite,
    }


def count_classes(name: str, state: State) -> int:
    """The number of classes in a state dict of this model, without the background column of a softmax."""
    names = NAMES[name]
    deltas = state.get("head.regression_head.bbox_reg.weight")
    boxes = names.boxes if deltas is None else max(1, rows(deltas) // 4)
    if names.logits not in state:
        raise ForeignError(
            f"these are not the weights of torchvision's {name}: {names.logits} is missing among {few(sorted(state))}"
        )
    return rows(state[names.logits]) // boxes - names.softmax


def convert(name: str, state: State, num_classes: int, arguments: Arguments = DEFAULTS) -> State:
    """torchvision's state dict of the model as that of `config.build(num_classes)`.

    Raises ForeignError with the differences, in torchvision's names.
    """
    import torch
    from torch import nn

    from boxwright.layers.conv import change_epsilon

    names, state, model = NAMES[name], _modern(name, state), build(name, num_classes, "meta", arguments)
    check(_without_counts(state), _without_counts(model.state_dict()), f"torchvision's {name} of {num_classes} classes")
    with torch.device("meta"):
        detector = configure(name, arguments).build(num_classes)
    for norm, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            new_name = rename(f"{norm}.", names.prefixes).removesuffix(".")
            if new_name == norm:  # there is no norm here
                _fold(state, norm, module.eps)
            else:
                new_norm: Any = detector.get_submodule(new_name)
                change_epsilon(state, norm, module.eps, new_norm.eps)
    converted = {rename(key, names.prefixes): value for key, value in state.items()}
    for key, value in converted.items():
        if names.softmax and re.match(r"(regions|anchors)\.head\.(\d\.)?logits\.", key):
            converted[key] = value.unflatten(0, (-1, num_classes + 1)).roll(-1, dims=1).flatten(0, 1)
        elif key.startswith("regions.head.deltas."):
            converted[key] = value[4:]
        elif key.startswith("features.neck.lengths."):
            converted[key] = value[:, None, None]
    counts = {key: torch.tensor(0) for key in detector.state_dict() if key.endswith("num_batches_tracked")}
    return _without_counts(converted) | counts


def reference(name: str, state: State, num_classes: int, arguments: Arguments = DEFAULTS) -> Detect:
    """torchvision's own model with this state dict."""
    model = build(name, num_classes, arguments=arguments)
    model.load_state_dict(state)
    return partial(detect, model.eval(), int(NAMES[name].softmax))


def detect(model: nn.Module, first: int, images: Sequence[np.ndarray]) -> list[Detections]:
    """The detections of a torchvision model in a batch of RGB images, uint8 (H, W, 3).

    first  torchvision's label of class 0
    """
    import torch

    from boxwright.types import Detections

    tensors = [torch.from_numpy(image.copy()).permute(2, 0, 1) / 255 for image in images]
    with torch.inference_mode():
        results = model(tensors)
    return [Detections(result["boxes"], result["scores"], result["labels"] - first) for result in results]


def build(name: str, num_classes: int, device: str = "cpu", arguments: Arguments = DEFAULTS) -> nn.Module:
    """torchvision's model with random weights; `num_classes` without the background of a softmax."""
    import torch
    from torchvision.models import detection

    with torch.device(device):
        columns = num_classes + NAMES[name].softmax
        model: Any = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=columns)
        if arguments.anchor_sizes or arguments.aspect_ratios:
            _set_anchors(model, configure(name, arguments), num_classes)
    transform = model.transform
    transform.min_size = (arguments.min_size or transform.min_size[-1],)
    transform.max_size = arguments.max_size or transform.max_size
    transform.image_mean = list(arguments.mean) or transform.image_mean
    transform.image_std = list(arguments.std) or transform.image_std
    for module in model.modules():
        if arguments.norm_eps is not None and isinstance(module, torch.nn.BatchNorm2d):
            module.eps = arguments.norm_eps
    return model


def _set_anchors(model: Any, config: Any, num_classes: int) -> None:
    """Give torchvision's Faster R-CNN or RetinaNet the anchors of a config, and last layers for as many in a cell."""
    from torch import nn
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    from boxwright.boxes.anchors import anchor_sizes

    stage = getattr(model, "rpn", model)
    sizes = anchor_sizes(stage.anchor_generator.sizes, (), config.anchor_sizes)
    stage.anchor_generator = AnchorGenerator(sizes, (config.aspect_ratios,) * len(sizes))
    (count, *_) = stage.anchor_generator.num_anchors_per_location()

    def layer(old: Any, per_anchor: int) -> nn.Conv2d:
        return nn.Conv2d(old.in_channels, count * per_anchor, old.kernel_size, padding=old.padding)

    head = stage.head
    if stage is model:
        classes, boxes = head.classification_head, head.regression_head
        classes.cls_logits, boxes.bbox_reg = layer(classes.cls_logits, num_classes), layer(boxes.bbox_reg, 4)
    else:
        head.cls_logits, head.bbox_pred = layer(head.cls_logits, 1), layer(head.bbox_pred, 4)


def _modern(name: str, state: State) -> State:
    """The state dict with torchvision's current names."""
    renamed = RENAMED | (RENAMED_RETINANET if name == "retinanet_resnet50_fpn" else {})
    return {renamed.get(key, key): value for key, value in state.items()}


def _without_counts(state: Mapping[str, Tensor]) -> State:
    """Without `num_batches_tracked`, which torchvision's frozen batch norms do not have."""
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


def _fold(state: State, norm: str, eps: float) -> None:
    """Fold a batch norm into the convolution before it, whose name ends in 0 where the norm's ends in 1."""
    tensors = ("weight", "bias", "running_mean", "running_var")
    scale, bias, mean, variance = (state.pop(f"{norm}.{tensor}").double() for tensor in tensors)
    conv = f"{norm.removesuffix('1')}0"
    scale = scale * (variance + eps).rsqrt()
    weight = state[f"{conv}.weight"]
    state[f"{conv}.weight"] = (weight.double() * scale[:, None, None, None]).to(weight.dtype)
    state[f"{conv}.bias"] = (bias - mean * scale).to(weight.dtype)
