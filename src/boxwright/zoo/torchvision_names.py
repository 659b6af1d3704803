"""The names of tensors in torchvision's detectors, and those of the same tensors here."""

from __future__ import annotations

from typing import NamedTuple

Prefixes = dict[str, str]


class Names(NamedTuple):
    """The names of one kind of detector.

    prefixes  torchvision's prefixes to those here
    logits    torchvision's name of the weight of the (first) classification layer
    boxes     anchors per cell in that layer; 1 for regions; not read where a layer of deltas tells
    softmax   whether there is a background class, torchvision's first column
    """

    prefixes: Prefixes
    logits: str
    boxes: int
    softmax: bool


_PYRAMID = {
    "backbone.body.": "features.backbone.body.",
    **{f"backbone.fpn.inner_blocks.{i}.0.": f"features.neck.lateral.{i}." for i in range(4)},
    **{f"backbone.fpn.layer_blocks.{i}.0.": f"features.neck.output.{i}." for i in range(4)},
    "backbone.fpn.extra_blocks.p6.": "features.neck.extra.0.",
    "backbone.fpn.extra_blocks.p7.": "features.neck.extra.1.",
}
_REGIONS = {
    **{f"rpn.head.conv.{i}.0.": f"proposer.head.class_tower.{2 * i}." for i in range(2)},
    "rpn.head.cls_logits.": "proposer.head.logits.",
    "rpn.head.bbox_pred.": "proposer.head.deltas.",
    "roi_heads.box_head.fc6.": "regions.head.hidden.1.",
    "roi_heads.box_head.fc7.": "regions.head.hidden.3.",
    **{f"roi_heads.box_head.{i}.0.": f"regions.head.hidden.0.{2 * i}." for i in range(4)},  # four convolutions
    "roi_heads.box_head.5.": "regions.head.hidden.1.1.",  # and the fully connected layer after them
    "roi_heads.box_predictor.cls_score.": "regions.head.logits.",
    "roi_heads.box_predictor.bbox_pred.": "regions.head.deltas.",
}
_TOWERS = {
    "head.classification_head.conv.": "anchors.head.class_tower.",
    "head.regression_head.conv.": "anchors.head.box_tower.",
}
_OUTPUTS = {
    "head.classification_head.cls_logits.": "anchors.head.logits.",
    "head.regression_head.bbox_reg.": "anchors.head.deltas.",
    "head.regression_head.bbox_ctrness.": "anchors.head.centerness.",
}


def _dense(layers: int) -> Prefixes:
    """RetinaNet's names; each unit of a tower has so many layers: convolution, norm if any, ReLU."""
    units = {
        f"{original}{unit}.{part}.": f"{new}{layers * unit + part}."
        for original, new in _TOWERS.items()
        for unit in range(4)
        for part in range(layers - 1)
    }
    return _PYRAMID | _OUTPUTS | units


def _levels(original: str, new: str) -> Prefixes:
    """The heads of six levels; {} is the level."""
    return {original.format(level): new.format(level) for level in range(6)}


_SSD = {
    "backbone.scale_weight": "features.neck.lengths.0",
    "backbone.features.": "features.backbone.body.features.",
    **{f"backbone.extra.0.{i}.": f"features.backbone.body.features.{23 + i}." for i in (1, 3, 5)},  # conv5
    "backbone.extra.0.7.1.": "features.backbone.body.fc6.",
    "backbone.extra.0.7.3.": "features.backbone.body.fc7.",
    **{f"backbone.extra.{i + 1}.": f"features.neck.extra.{i}." for i in range(4)},
    **_levels("head.classification_head.module_list.{}.", "anchors.head.{}.logits."),
    **_levels("head.regression_head.module_list.{}.", "anchors.head.{}.deltas."),
}
_SSDLITE = {
    "backbone.features.0.13.": "features.backbone.body.features.13.block.0.",
    "backbone.features.0.": "features.backbone.body.features.",
    "backbone.features.1.0.": "features.backbone.body.features.13.block.",
    **{f"backbone.features.1.{i}.": f"features.backbone.body.features.{13 + i}." for i in range(1, 4)},
    **{
        f"backbone.extra.{level}.{unit}.{part}.": f"features.neck.extra.{level}.{3 * unit + part}."
        for level in range(4)
        for unit in range(3)
        for part in range(2)
    },
    **_levels("head.classification_head.module_list.{}.0.", "anchors.head.{}.class_tower."),
    **_levels("head.classification_head.module_list.{}.1.", "anchors.head.{}.logits."),
    **_levels("head.regression_head.module_list.{}.0.", "anchors.head.{}.box_tower."),
    **_levels("head.regression_head.module_list.{}.1.", "anchors.head.{}.deltas."),
}

_FASTER_RCNN = Names(_PYRAMID | _REGIONS, "roi_heads.box_predictor.cls_score.weight", boxes=1, softmax=True)
_MOBILE = _FASTER_RCNN._replace(prefixes=_FASTER_RCNN.prefixes | {"backbone.body.": "features.backbone.body.features."})
_RETINANET = Names(_dense(2), "head.classification_head.cls_logits.weight", boxes=9, softmax=False)

NAMES = {
    "fasterrcnn_resnet50_fpn": _FASTER_RCNN,
    "fasterrcnn_resnet50_fpn_v2": _FASTER_RCNN,
    "fasterrcnn_mobilenet_v3_large_fpn": _MOBILE,
    "fasterrcnn_mobilenet_v3_large_320_fpn": _MOBILE,
    "retinanet_resnet50_fpn": _RETINANET,
    "retinanet_resnet50_fpn_v2": _RETINANET._replace(prefixes=_dense(3)),
    "fcos_resnet50_fpn": _RETINANET._replace(prefixes=_PYRAMID | _OUTPUTS | _TOWERS, boxes=1),
    "ssd300_vgg16": Names(_SSD, "head.classification_head.module_list.0.weight", boxes=4, softmax=True),
    "ssdlite320_mobilenet_v3_large": Names(
        _SSDLITE, "head.classification_head.module_list.0.1.weight", boxes=6, softmax=True
    ),
}

_HEADS = ("classification_head", "regression_head")
_BLOCKS = ("inner_blocks", "layer_blocks")
RENAMED = {
    **{f"rpn.head.conv.{kind}": f"rpn.head.conv.0.0.{kind}" for kind in ("weight", "bias")},
    **{
        f"backbone.fpn.{block}.{i}.{kind}": f"backbone.fpn.{block}.{i}.0.{kind}"
        for block in _BLOCKS
        for i in range(4)
        for kind in ("weight", "bias")
    },
}
"""Names in published weights that torchvision has changed since, to today's."""
RENAMED_RETINANET = {
    f"head.{head}.conv.{2 * i}.{kind}": f"head.{head}.conv.{i}.0.{kind}"
    for head in _HEADS
    for i in range(4)
    for kind in ("weight", "bias")
}
"""The same for its RetinaNet (FCOS still has the old names)."""


def rename(name: str, prefixes: Prefixes) -> str:
    """The name with the longest listed prefix replaced; unchanged if none is listed."""
    for end in range(len(name), 0, -1):
        if name[:end] in prefixes:
            return prefixes[name[:end]] + name[end:]
    return name
