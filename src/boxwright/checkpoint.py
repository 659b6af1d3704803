"""Checkpoints: safetensors files that rebuild their detector. Nothing here unpickles.

A detector's file holds its weights, and in the metadata under "boxwright" one JSON object: detector, config, names,
preprocess, and whatever the writer adds (metrics, threshold, recipe). A training's file holds all that resuming needs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from boxwright import plugins
from boxwright.data.preprocess import Preprocess
from boxwright.detectors.config import KINDS, DetectorConfig, name_of
from boxwright.detectors.fields import BackboneFields
from boxwright.files import write_atomically

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from boxwright.detectors.base import Detector

FORMAT = 1

_RENAMED = {
    "score": "score_threshold", "nms": "nms_threshold", "candidates": "pre_nms_top_k", "detections": "max_detections",
    "conventions": "convention", "ratios": "aspect_ratios", "end_ratios": "end_aspect_ratios",
    "canonical": "canonical_size", "agnostic": "class_agnostic", "radius": "center_sampling_radius",
    "reach": "regress_range", "centered": "weight_by_centerness", "scaled": "level_scales",
    "rpn_score": "rpn_score_threshold", "rpn_nms": "rpn_nms_threshold", "rpn_candidates": "rpn_pre_nms_top_k",
    "head_convolutions": "head_convs", "warp": "warp_size",
}  # fmt: skip
"""Options of detectors in files of earlier versions, and their names of today."""

_DROPPED = {
    "localizer": ("nms_threshold", "pre_nms_top_k", "convention"),
    "sliding_window": ("convention",),
    "rcnn": ("convention",),
    "spp_net": ("convention", "frozen_stages", "norm"),
    "r_fcn": ("hidden", "head_layers", "head_convs"),
    "rpn": (
        "score_threshold", "nms_threshold", "pre_nms_top_k", "max_detections", "region_samples", "class_agnostic",
        "box_weight", "pool", "canonical_size", "hidden", "head_layers", "head_convs",
    ),
}  # fmt: skip
"""Options that earlier versions stored with a detector, and that had no effect on it."""

_LAST_LEVEL = ("rcnn", "spp_net")
"""Detectors that had several levels, of which only the last was read."""


class CheckpointError(ValueError):
    """The file is no usable checkpoint; the message names the reason and the remedy."""


@dataclass(frozen=True)
class Loaded:
    """The content of a checkpoint; `config` is the value of `KINDS` that built the detector."""

    detector: Detector
    names: tuple[str, ...]
    preprocess: Preprocess
    metadata: dict[str, Any]
    config: DetectorConfig


def save_detector(
    path: str | Path, detector: Detector, config: DetectorConfig, names: tuple[str, ...], preprocess: Preprocess,
    metadata: dict[str, Any] | None = None, half: bool = False, weights: dict[str, Tensor] | None = None,
) -> None:  # fmt: skip
    """Write a detector built by `config`, one of the values of `KINDS`.

    half     store the weights as float16, half the size; they are float32 again when loaded
    weights  a state dict to store in place of the detector's own, such as an average
    """
    described = {
        "format": FORMAT,
        "detector": name_of(config),
        "config": asdict(config),
        "names": list(names),
        "preprocess": preprocess.to_dict(),
        **plugins_of(config),
        **(metadata or {}),
    }
    tensors = weights if weights is not None else detector.state_dict()
    if half:
        tensors = {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}
    write(path, tensors, described)


def load_detector(path: str | Path, device: torch.device | str = "cpu") -> Loaded:
    """Rebuild a detector, in float32 and eval mode. Raises `CheckpointError` with the file's name and what is wrong."""
    tensors, described = read(path)
    config = config_of(described, path)
    names = tuple(described["names"])
    detector = config.build(len(names))
    fill(detector, tensors, path)
    preprocess = Preprocess.from_dict(described["preprocess"])
    return Loaded(detector.to(device).eval(), names, preprocess, described, config)


def config_of(described: Mapping[str, Any], path: str | Path) -> DetectorConfig:
    """The config in the JSON object of the checkpoint `path`. Raises `CheckpointError` where it has none of `KINDS`."""
    if not described:
        raise CheckpointError(f"{path} is not a whole checkpoint that boxwright wrote")
    kind = described.get("detector")
    if kind is None:
        raise CheckpointError(f"{path} holds no detector (a training's resume file?); load best.safetensors beside it")
    _check_plugins(described, path)
    if kind not in KINDS:
        raise CheckpointError(f"{path} holds a {kind!r}, expected one of {', '.join(KINDS)}; update boxwright")
    return read_config(kind, described["config"])


def plugins_of(config: DetectorConfig) -> dict[str, dict[plugins.What, str]]:
    """What `config_of` reads of `modules_of`; {} where there are none."""
    modules = modules_of(config)
    return {"plugins": modules} if modules else {}


def modules_of(config: DetectorConfig) -> dict[plugins.What, str]:
    """The modules that registered the detector and its backbone, where these are not boxwright's own."""
    names: dict[plugins.What, str] = {"detector": name_of(config)}
    if isinstance(config, BackboneFields):
        names["backbone"] = config.backbone
    return {what: module for what, name in names.items() if (module := plugins.module_of(what, name))}


def _check_plugins(described: Mapping[str, Any], path: str | Path) -> None:
    """Raises CheckpointError where a module that registers the detector or its backbone is not loaded."""
    names: dict[plugins.What, str] = {
        "detector": described["detector"], "backbone": described.get("config", {}).get("backbone", "")
    }  # fmt: skip
    for what, module in described.get("plugins", {}).items():
        if plugins.module_of(what, names[what]) is None:
            plugins.discover()
        if plugins.module_of(what, names[what]) is None:
            raise CheckpointError(
                f"{path} needs the {what} {names[what]!r}, which {module} registers; {plugins.mend(module)}"
            )


def fill(detector: Detector, tensors: dict[str, Tensor], path: str | Path) -> None:
    """Load a state dict of the very same detector; floating-point numbers take the detector's own precision.

    Where a norm is frozen, a count of the batches that it has seen is dropped: earlier versions stored some of SPP-net.
    """
    expected = detector.state_dict()
    counts = {key for key in tensors.keys() - expected.keys() if key.endswith(".num_batches_tracked")}
    tensors = {key: value for key, value in tensors.items() if key not in counts}
    missing, extra = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    shapes = sorted(key for key in expected.keys() & tensors.keys() if expected[key].shape != tensors[key].shape)
    if missing or extra or shapes:
        raise CheckpointError(
            f"{path} does not fit the {type(detector).__name__} it should: "
            f"{len(missing)} tensors missing {missing[:3]}, {len(extra)} not expected {extra[:3]}, "
            f"{len(shapes)} of another shape {shapes[:3]}"
        )
    detector.load_state_dict(tensors)


def write(path: str | Path, tensors: dict[str, Tensor], described: dict[str, Any]) -> None:
    """Write tensors and a JSON object, whole or not at all: until the new file is safely on disk, an old one stays."""
    from safetensors.torch import save

    whole = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    write_atomically(path, save(whole, {"boxwright": json.dumps(described)}))


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write` wrote."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    try:
        with safe_open(path, framework="pt") as file:
            described = (file.metadata() or {}).get("boxwright")
            if described is None:
                raise CheckpointError(f"{path} is a safetensors file, but not one that boxwright wrote")
            return {key: file.get_tensor(key) for key in file.keys()}, json.loads(described)  # noqa: SIM118
    except SafetensorError as error:
        size = path.stat().st_size
        why = f"{path} ({size} bytes) is not a whole safetensors file: {error}; copy it again"
        raise CheckpointError(why) from error


def read_config(kind: str, values: Mapping[str, Any]) -> DetectorConfig:
    """The config of one of `KINDS` from its JSON, today's or that of an earlier version."""
    config = KINDS[kind]
    renamed = {_RENAMED.get(option, option): value for option, value in values.items()}
    if kind in _LAST_LEVEL and "levels" in renamed:
        renamed["levels"] = renamed["levels"][-1:]
    without = {*_DROPPED.get(kind, ()), *config.unread({name: _tuples(value) for name, value in renamed.items()})}
    return from_json(config, {option: value for option, value in renamed.items() if option not in without})


def from_json(kind: type, values: dict[str, Any]) -> Any:
    """A config dataclass from what JSON left of it: lists are tuples again."""
    known = {field.name for field in fields(kind)}
    if unknown := sorted(values.keys() - known):
        raise CheckpointError(f"{kind.__name__} has no option {', '.join(unknown)}; update boxwright")
    return kind(**{key: _tuples(value) for key, value in values.items()})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
