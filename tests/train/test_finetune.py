"""What a detector takes from another: rows by the names of their classes, by hand and for every kind of detector."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from boxwright.checkpoint import Loaded
from boxwright.data.preprocess import Preprocess
from boxwright.detectors import DETECTORS, Detector, Localizer, SlidingWindowDetector
from boxwright.detectors.anchor_stage import AnchorHead, SingleStage
from boxwright.detectors.region_stage import RegionHead
from boxwright.train.finetune import Rows, class_rows, same_names, transfer
from boxwright.types import Images

BEFORE = ("dog", "traffic light", "cat", "person", "zebra")
AFTER = ("raccoon", "person", "traffic_light", "cat")
KEPT = {1: 3, 2: 1, 3: 2}  # columns after and before

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in DETECTORS} | {
    "localizer, agnostic": ("localizer", {"class_agnostic": True}),
    "faster_rcnn, c4": ("faster_rcnn", {"backbone": "resnet18", "variant": "c4"}),
    "faster_rcnn, agnostic": ("faster_rcnn", {"class_agnostic": True}),
    "faster_rcnn, cascade": ("faster_rcnn", {"cascade": (0.5, 0.6)}),
    "r_fcn, boxes of every class": ("r_fcn", {"class_agnostic": False, "cells": 3}),
    "ssd, boxes of every class": ("ssd", {"class_agnostic": False}),
    "ssd, lite": ("ssd", {"lite": True}),
    "retinanet, boxes of every class": ("retinanet", {"class_agnostic": False}),
}


def config_of(variant: str) -> Any:
    name, options = VARIANTS[variant]
    known = {field.name for field in fields(DETECTORS[name])}
    small = {"backbone": "mobilenet_v3_small", "channels": 16, "hidden": 16, "depth": 1, "warp_size": 32, "context": 4}
    unread = DETECTORS[name].unread(options)
    return DETECTORS[name](**({key: small[key] for key in small if key in known and key not in unread} | options))


def loaded(detector: Detector, names: tuple[str, ...], config: Any = None) -> Loaded:
    return Loaded(detector, names, Preprocess(), {}, config)


class Heads(Detector):
    """Heads that read one number."""

    def __init__(self, **heads: nn.Module) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(heads)

    def filled(self, value: float | None = None) -> Heads:
        """Every tensor with its rows numbered 0, 1, ..., or with one value."""
        for tensor in self.state_dict().values():
            rows = torch.arange(float(len(tensor))) if value is None else torch.tensor([value])
            tensor.copy_(rows.view(-1, *[1] * (tensor.ndim - 1)).expand_as(tensor))
        return self


def test_rows_of_regions_by_hand():
    before = Heads(region=RegionHead(nn.Identity(), 1, num_classes=2, class_agnostic=False)).filled()
    after = Heads(region=RegionHead(nn.Identity(), 1, num_classes=3, class_agnostic=False)).filled(-1.0)
    transfer(after, ("raccoon", "cat", "dog"), loaded(before, ("dog", "cat")))
    state = after.state_dict()
    assert state["heads.region.logits.bias"].tolist() == [-1, 1, 0, 2]  # background is last
    assert state["heads.region.deltas.weight"].flatten().tolist() == [-1] * 4 + [4, 5, 6, 7] + [0, 1, 2, 3]


def test_rows_of_anchors_by_hand():
    def heads(classes: int) -> Heads:
        every = AnchorHead(1, per_cell=2, logits=classes + 1, depth=0, shared=False, boxes=classes)
        return Heads(every=every, agnostic=AnchorHead(1, per_cell=2, logits=classes, depth=0, shared=False))

    before, after = heads(2).filled(), heads(1).filled(-1.0)
    done = transfer(after, ("cat",), loaded(before, ("dog", "cat")))
    state = after.state_dict()
    assert state["heads.every.logits.bias"].tolist() == [1, 2, 4, 5]  # cat and background of either anchor
    assert state["heads.every.deltas.bias"].tolist() == [4, 5, 6, 7, 12, 13, 14, 15]
    assert state["heads.agnostic.logits.bias"].tolist() == [1, 3]
    assert state["heads.agnostic.deltas.bias"].tolist() == list(range(8))
    assert (done.kept, done.started, done.dropped, done.left) == (("cat",), (), ("dog",), ())


def test_one_class_for_another_takes_the_boxes_but_not_the_class():
    before = Heads(head=AnchorHead(1, per_cell=2, logits=1, depth=0, shared=False)).filled()
    after = Heads(head=AnchorHead(1, per_cell=2, logits=1, depth=0, shared=False)).filled(-1.0)
    done = transfer(after, ("raccoon",), loaded(before, ("dog",)))
    assert after.state_dict()["heads.head.logits.bias"].tolist() == [-1, -1]
    assert after.state_dict()["heads.head.deltas.bias"].tolist() == list(range(8))
    assert str(done) == "kept: none; initialized: raccoon; dropped: dog"


def test_layouts_that_are_read_off_the_modules():
    r_fcn = class_rows(config_of("r_fcn, boxes of every class").build(5))
    assert r_fcn == {"regions.pool.logits": Rows(1, 6, 9), "regions.pool.deltas": Rows(1, 5, 36)}
    retinanet = class_rows(config_of("retinanet").build(5))
    assert retinanet == {"anchors.head.logits": Rows(9, 5, 1), "anchors.head.deltas": Rows(9, 1, 4)}


def says(detector: Detector, images: Images, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (M, columns) and deltas (M, B, 4) of all places, whatever the kind of detector."""
    if isinstance(detector, SlidingWindowDetector):
        logits = detector.classify(images)[0]
        return logits.flatten(0, 1), logits.new_zeros(1, 1, 4)
    features: Any = detector.features
    maps = features(images.pixels)
    if isinstance(detector, SingleStage):
        logits, deltas = detector.anchors(maps)[:2]
    else:
        stage: Any = detector.region if isinstance(detector, Localizer) else detector.regions
        logits, deltas = stage(maps, boxes)
    return logits.flatten(0, 1), deltas.flatten(0, 1)


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_what_is_said_of_a_class_stays_where_its_name_does(variant: str):
    torch.manual_seed(0)
    config = config_of(variant)
    before, after = config.build(len(BEFORE)).eval(), config.build(len(AFTER)).eval()
    for layer in class_rows(before):
        for parameter in before.get_submodule(layer).parameters():
            parameter.normal_(std=0.1)
    images = Images(torch.rand(1, 3, 64, 96) * 255, torch.tensor([[64, 96]]))
    boxes = torch.tensor([[[8.0, 8.0, 48.0, 60.0], [30.0, 4.0, 90.0, 50.0]]])
    fresh = {key: value.clone() for key, value in after.state_dict().items()}

    done = transfer(after, AFTER, loaded(before, BEFORE, config))
    assert (done.kept, done.started, done.dropped) == (AFTER[1:], AFTER[:1], ("dog", "zebra"))
    assert done.renamed == {"traffic_light": "traffic light"}
    assert done.left == ()
    (logits, deltas), (logits_before, deltas_before) = (says(each, images, boxes) for each in (after, before))
    columns = list(KEPT), list(KEPT.values())
    assert_close(logits[:, columns[0]], logits_before[:, columns[1]], rtol=1e-4, atol=1e-4)
    if deltas.shape[1] == 1:
        assert_close(deltas, deltas_before, rtol=1e-4, atol=1e-4)
    else:
        assert_close(deltas[:, columns[0]], deltas_before[:, columns[1]], rtol=1e-4, atol=1e-4)
    if logits.shape[1] > len(AFTER):
        assert_close(logits[:, -1], logits_before[:, -1], rtol=1e-4, atol=1e-4)
    for layer, rows in class_rows(after).items():
        if rows.columns >= len(AFTER):
            new, old = (s[f"{layer}.weight"].unflatten(0, rows)[:, 0] for s in (after.state_dict(), fresh))
            assert torch.equal(new, old)  # the raccoon's


@pytest.mark.parametrize("variant", ["localizer, agnostic", "faster_rcnn", "r_fcn", "ssd", "fcos"])
@torch.no_grad()
def test_the_same_names_give_the_same_detector(variant: str):
    config = config_of(variant)
    before, after = config.build(1), config.build(1)
    transfer(after, ("cat",), loaded(before, ("cat",), config))
    for key, value in before.state_dict().items():
        assert torch.equal(value, after.state_dict()[key]), key


def test_names_that_are_the_same():
    others = ("cat", "Cat", "dining table", "N/A", "N/A", "traffic light")
    assert same_names(("Cat", "cat"), others) == {"Cat": "Cat", "cat": "cat"}
    assert same_names(("CAT", "cat"), others) == {"CAT": "Cat", "cat": "cat"}
    assert same_names(("diningtable", "n/a", "Traffic-Light", "cats"), others) == {
        "diningtable": "dining table",
        "n/a": "N/A",
        "Traffic-Light": "traffic light",
    }


def test_the_report():
    config = config_of("retinanet")
    coco = ("person", "traffic light", *(f"thing {number}" for number in range(78)))
    done = transfer(config.build(3), ("person", "raccoon", "Traffic Light"), loaded(config.build(80), coco, config))
    assert str(done) == "kept: person, Traffic Light ('traffic light'); initialized: raccoon; dropped: 78 classes"
    kept = json.loads(json.dumps(done.to_dict()))
    assert kept["kept"] == ["person", "Traffic Light"]
    assert kept["taken"] == len(config.build(1).state_dict())


def test_heads_of_another_width_start_anew():
    config = config_of("faster_rcnn")
    done = transfer(replace(config, hidden=32).build(2), ("cat", "dog"), loaded(config.build(1), ("cat",), config))
    assert (done.kept, done.started, done.dropped) == ((), ("cat", "dog"), ("cat",))
    assert done.left and all(key.startswith("regions.head.") for key in done.left)
    assert f"{len(done.left)} tensors initialized (regions.head." in str(done)
    assert any(key.startswith("proposer.head.logits") for key in done.taken)


@pytest.mark.parametrize(
    ("kind", "features", "levels"),
    [
        ("fast_rcnn", "features", (3, 4, 5)),
        ("spp_net", "features.features", (5,)),
        ("rcnn", "regions.head.hidden.backbone", (5,)),
    ],
)
def test_another_kind_takes_the_features_wherever_they_are(kind: str, features: str, levels: tuple[int, ...]):
    source, config = config_of("faster_rcnn"), replace(config_of(kind), levels=levels)
    detector, before = config.build(2), source.build(2)
    done = transfer(detector, ("cat", "dog"), loaded(before, ("cat", "dog"), source))
    assert (done.kept, done.started) == ((), ("cat", "dog"))
    assert all(key.startswith(features) for key in done.taken)
    state = detector.state_dict()
    for key, value in before.state_dict().items():
        if key.startswith("features.backbone."):
            assert torch.equal(state[key.replace("features", features, 1)], value)


def test_another_backbone_is_refused_and_nothing_taken():
    config = config_of("retinanet")
    detector = replace(config, backbone="resnet18").build(1)
    fresh = {key: value.clone() for key, value in detector.state_dict().items()}
    with pytest.raises(ValueError, match=r"in the RetinaNet to start from: .* mobilenet_v3_small with levels 3 4 5"):
        transfer(detector, ("cat",), loaded(config.build(1), ("cat",), config))
    assert all(torch.equal(value, fresh[key]) for key, value in detector.state_dict().items())
