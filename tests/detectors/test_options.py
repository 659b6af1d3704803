"""Every option of every detector and variant changes what is built, or is refused with the names of its readers."""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn

from boxwright.backbones import build_backbone, build_tail
from boxwright.detectors import KINDS, base, region_stage, spp_net
from boxwright.detectors.config import DetectorConfig, readers_of

NARROW: dict[str, Any] = {"backbone": "mobilenet_v3_small", "channels": 8, "hidden": 8, "grid": 2, "extra": (16, 8)}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in KINDS} | {
    f"{name}, {variant}": (name, {"variant": variant})
    for name, variants in (
        ("fast_rcnn", ("c4", "dc5")),
        ("faster_rcnn", ("c4", "dc5")),
        ("r_fcn", ("dc5",)),
        ("rpn", ("c4", "dc5")),
    )
    for variant in variants
} | {
    "rcnn, least background": ("rcnn", {"choose": "least_background"}),
    "fcos, atss": ("fcos", {"assignment": "atss"}),
    "ssd, sizes in pixels": ("ssd", {"box_sizes": (16.0, 32.0, 64.0, 128.0, 256.0, 300.0)}),
    "retinanet, sizes in pixels": ("retinanet", {"anchor_sizes": (16.0, 32.0, 64.0, 128.0, 256.0)}),
    "faster_rcnn, sizes in pixels": ("faster_rcnn", {"anchor_sizes": (16.0, 32.0, 64.0, 128.0)}),
}  # fmt: skip

OTHER: dict[str, Any] = {
    "backbone": "mobilenet_v2", "levels": (2, 3, 4), "pixel_mean": (1.0, 2.0, 3.0), "pixel_std": (4.0, 5.0, 6.0),
    "frozen_stages": 0, "norm": "batch", "convention": "torchvision", "score_threshold": (0.3,), "nms_threshold": 0.25,
    "pre_nms_top_k": 50, "max_detections": 7, "channels": 16, "grid": 3, "hidden": 24, "box_loss": "giou",
    "cascade": (0.4, 0.6),
    "box_weight": 2.0, "shapes": ((2, 2),), "scales": 2, "shrink": 0.5, "samples": 12, "region_samples": 12,
    "proposer": "sliding_window", "proposals": 11, "warp_size": 64, "context": 4, "chunk": 5,
    "choose": "least_background", "zooms": (1,),
    "grids": (2, 1), "variant": "dc5", "pool": "pool", "canonical_size": 100.0, "head_layers": 1, "head_convs": 1,
    "cells": 3, "anchor_scales": (3.0,), "anchor_sizes": (20.0, 40.0, 80.0, 160.0), "aspect_ratios": (1.0,),
    "rpn_samples": 12, "rpn_depth": 2, "rpn_score_threshold": 0.1, "rpn_nms_threshold": 0.25, "rpn_pre_nms_top_k": 50,
    "extra": (16, 16), "unstrided": 1, "lite": True, "widen": 24, "head_norm": "none", "group_channels": 2,
    "lengths": (5.0,), "box_scale": 2.0,
    "box_sizes": (15.0, 30.0, 60.0, 120.0, 240.0, 300.0), "box_steps": (8.0, 16.0, 32.0, 64.0, 100.0),
    "box_limit": 40.0, "end_aspect_ratios": (3.0,), "per_class": True, "extra_from": "backbone", "depth": 1,
    "prior": 0.3, "distances": "relu", "level_scales": False, "offset": 0.0, "center_sampling_radius": 2.0,
    "regress_range": 4.0, "weight_by_centerness": False, "assignment": "task_aligned", "class_loss": "varifocal",
}  # fmt: skip
"""For each option a value that is not its default. A new option has its line here."""


def other(config: DetectorConfig, option: str) -> Any:
    """Another value of an option than the config has."""
    value = getattr(config, option)
    match option:
        case "class_agnostic":
            return not value
        case "levels" if len(value) == 1:
            return (4,) if value != (4,) else (5,)
        case "variant" if value == "dc5":
            return "fpn"
        case "choose" if value == OTHER[option]:
            return "threshold"
        case "anchor_sizes" if type(config) is KINDS["retinanet"]:
            return (20.0, 40.0, 80.0, 160.0, 320.0)
    return OTHER[option]


def narrow(name: str, options: dict[str, Any]) -> DetectorConfig:
    """A small config with these options; what is then not read is left out."""
    kind = KINDS[name]
    read = {field.name for field in fields(kind)} - kind.unread(options).keys()
    return kind(**({option: value for option, value in NARROW.items() if option in read} | options))


@pytest.fixture(scope="module")
def networks() -> tuple[Any, Any]:
    """`build_backbone` and `build_tail` that build the same network once."""
    return functools.cache(build_backbone), functools.cache(build_tail)


@pytest.fixture(autouse=True)
def light(networks: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, tail = networks
    for module in (base, spp_net):
        monkeypatch.setattr(
            module, "build_backbone", lambda *args, **options: copy.deepcopy(backbone(*args, **options))
        )
    monkeypatch.setattr(region_stage, "build_tail", lambda *args, **options: copy.deepcopy(tail(*args, **options)))


def fingerprint(config: DetectorConfig) -> dict[str, Any]:
    """All that a detector consists of, by name: its modules, their tensors and the attributes of their parts."""
    torch.manual_seed(0)
    detector = config.build(1 if type(config) is KINDS["rpn"] else 2)
    found: dict[str, Any] = {}
    for name, tensor in (*detector.named_parameters(), *detector.named_buffers()):
        found[name] = tuple(tensor.shape), tensor.requires_grad, tensor.double().sum().item()
    for name, module in detector.named_modules():
        found.update({f"{name}: {path}": value for path, value in described(module)})
    return found


def described(part: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The type and the attributes of a part, of the parts in it, and of theirs."""
    if isinstance(part, functools.partial):
        yield from described([part.func, *part.args, *part.keywords.items()], f"{path}()")
    elif isinstance(part, types.FunctionType | types.MethodType | type):
        yield path, part.__qualname__
    elif isinstance(part, torch.Tensor):
        yield path, (tuple(part.shape), part.double().sum().item())
    elif isinstance(part, list | tuple) and not all(isinstance(item, int | float | str) for item in part):
        for index, item in enumerate(part):
            yield from described(item, f"{path}[{index}]")
    elif isinstance(part, nn.Module) or is_dataclass(part) or type(part).__module__.startswith("boxwright."):
        yield path, type(part).__qualname__
        if not isinstance(part, nn.Module) or not path:  # the modules inside are met by themselves
            for name, value in vars(part).items():
                if not name.startswith("_") and name != "training":
                    yield from described(value, f"{path}.{name}")
    else:
        yield path, repr(part)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_option_changes_what_is_built_or_is_refused(variant: str) -> None:
    name, options = VARIANTS[variant]
    config = narrow(name, options)
    before, refused = fingerprint(config), set()
    for option in (field.name for field in fields(config)):
        changes = {option: other(config, option)}
        dropped = config.unread(vars(config) | changes)  # of a variant that reads less
        defaults = {other: getattr(type(config)(), other) for other in dropped if other != option}
        try:
            changed = replace(config, **(defaults | changes))
        except ValueError as error:
            assert f"{option} is not read by {name} with " in str(error) and readers_of(option)[0] in str(error)
            refused.add(option)
        else:
            assert fingerprint(changed) != before, f"{option} changes nothing"
    assert refused == config.unread(vars(config)).keys()


def test_the_same_config_builds_the_same() -> None:
    config = narrow("faster_rcnn", {})
    assert fingerprint(config) == fingerprint(replace(config))


def test_options_name_their_readers() -> None:
    assert readers_of("hidden") == [
        "localizer", "spp_net", "fast_rcnn (variant fpn or dc5)", "faster_rcnn (variant fpn or dc5)"
    ]  # fmt: skip
    assert readers_of("score_threshold")[2] == "rcnn (choose threshold)"
    assert readers_of("anchor_scales")[0] == "faster_rcnn (without anchor_sizes)"
    assert readers_of("cells") == ["r_fcn"] and readers_of("colour") == []
    with pytest.raises(
        ValueError, match="head_layers is not read by faster_rcnn with variant c4; it is read by fast_r"
    ):
        KINDS["faster_rcnn"](**{"variant": "c4", "head_layers": 7})
    with pytest.raises(
        ValueError, match="box_scale is not read by ssd with box_sizes; it is read by ssd .without box_s"
    ):
        KINDS["ssd"](**{"box_scale": 2.0, "box_sizes": (1.0,) * 6})


def test_the_backbone_comes_first() -> None:
    assert {fields(kind)[0].name for kind in KINDS.values()} == {"backbone"}
