"""Checkpoints: safetensors files that rebuild their detector. Nothing here unpickles.

A detector's file holds its weights, and in the metadata under "boxwright" one JSON object: detector, config, names,
preprocess, and whatever the writer adds (metrics, threshold, recipe). A training's file holds all that resuming needs.
"""

from __future__ import annotations

import hashlib
import json
import os
import reprlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from safetensors import SafetensorError, safe_open

from boxwright import plugins
from boxwright.data.preprocess import Preprocess
from boxwright.detectors.config import KINDS, DetectorConfig, name_of
from boxwright.detectors.fields import COUNT, BackboneFields
from boxwright.files import parse_json, sha256, write_atomically
from boxwright.typed import check, check_fields, within

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from boxwright.detectors.base import Detector

FORMAT = 2
"""2 has the SHA-256 of the file in its metadata; files of format 1 are read too, and earlier ones, without a format."""

_HEADER = rb'{"__metadata__":{"boxwright":"{\"format\": 2, \"sha256\": \"'
"""How the header of every file of format 2 begins, behind its length of 8 bytes; the digest follows."""
_LONGEST_HEADER = 100_000_000
"""Of safetensors files, in bytes."""
_NO_DIGEST = "0" * 64
"""What is in its place while the digest is computed, over all other bytes of the file."""
_DIGEST = slice(8 + len(_HEADER), 8 + len(_HEADER) + len(_NO_DIGEST))

_RENAMED = {
    "score": "score_threshold", "nms": "nms_threshold", "candidates": "pre_nms_top_k", "detections": "max_detections",
    "conventions": "convention", "ratios": "aspect_ratios", "end_ratios": "end_aspect_ratios",
    "canonical": "canonical_size", "agnostic": "class_agnostic", "radius": "center_sampling_radius",
    "reach": "regress_range", "centered": "weight_by_centerness", "scaled": "level_scales",
    "rpn_score": "rpn_score_threshold", "rpn_nms": "rpn_nms_threshold", "rpn_candidates": "rpn_pre_nms_top_k",
    "head_convolutions": "head_convs", "warp": "warp_size",
}  # fmt: skip
"""Options of detectors in files of earlier versions, and their names of today."""

_ADDED: dict[str, dict[str, Any]] = {
    "ssd": {"group_channels": 8, "widen": 0},
    "retinanet": {"group_channels": 8, "assignment": "max_iou", "class_loss": "focal", "box_loss": "smooth_l1"},
    "fcos": {"group_channels": 8, "assignment": "center", "class_loss": "focal"},
}
"""Options that files of earlier versions lack, and the values with which their detectors were made."""

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


class _Scores(TypedDict, total=False):
    ap: float | None
    ap50: float | None
    ap75: float | None


class _Answer(TypedDict):
    boxes: list[tuple[float, float, float, float]]
    scores: list[float]
    labels: list[int]


class _Proof(TypedDict):
    against: str
    torch: str
    date: str
    photos: dict[str, str]
    answers: dict[str, list[_Answer]]
    lowest_score: NotRequired[float]  # fmt: skip


Described = TypedDict("Described", {
    "format": int, "sha256": str,
    "detector": str, "config": dict[str, Any], "plugins": dict[str, str],
    "names": list[str], "preprocess": dict[str, Any],
    "threshold": float, "thresholds": dict[str, float], "metrics": dict[str, _Scores], "epoch": int,
    "from": dict[str, Any], "origin": dict[str, Any], "proof": _Proof,
    "run": dict[str, Any], "batch": int, "sums": dict[str, float], "scaler": dict[str, float],
}, total=False)  # fmt: skip
"""What is in the JSON object of a checkpoint; other keys may be there too."""


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
    need(described, path, "names", "preprocess")
    names = tuple(described["names"])
    with named(path):
        preprocess = Preprocess.from_dict(described["preprocess"])
        detector = _build(config, len(names), tensors)
    fill(detector, tensors, path)
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
        raise CheckpointError(f"{path} holds a {kind!r:.80}, expected one of {', '.join(KINDS)}; update boxwright")
    need(described, path, "config")
    with named(path):
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
        "detector": described["detector"], "backbone": str(described.get("config", {}).get("backbone", ""))
    }  # fmt: skip
    for what, module in described.get("plugins", {}).items():
        if what not in names:
            continue
        if plugins.module_of(what, names[what]) is None:
            plugins.discover()
        if plugins.module_of(what, names[what]) is None:
            raise CheckpointError(
                f"{path} needs the {what} {names[what]!r:.80}, which {module:.80} registers; "
                f"{plugins.mend(module[:80])}"
            )


class _TooManyNumbersError(Exception):
    """The modules that are being built have more of them than there is room for."""


_room = threading.local()
"""`left`: how many numbers the parameters may have that this thread still makes; not set, or None: any."""


@cache
def _count_parameters() -> None:
    """From now on, every parameter takes of the `_room` of its thread: hooks that come and go would disturb others."""
    from torch.nn.modules.module import register_module_parameter_registration_hook

    def count(module: Any, name: str, parameter: Any) -> None:
        if (left := getattr(_room, "left", None)) is not None and parameter is not None:
            _room.left = left - parameter.numel()
            if _room.left < 0:
                raise _TooManyNumbersError

    register_module_parameter_registration_hook(count)


def _build(config: DetectorConfig, num_classes: int, tensors: Mapping[str, Tensor]) -> Detector:
    """The detector for these weights. Whatever the config says, it takes not much more memory than they do.

    Where it has many more numbers, its shapes are compared with theirs before anything is allocated. That may be right:
    of some backbones, such as VGG, most is not read.
    """
    import torch

    _count_parameters()
    _room.left = 2 * sum(value.numel() for value in tensors.values()) + 2**24
    try:
        return config.build(num_classes)
    except _TooManyNumbersError:
        _room.left = None
        with torch.device("meta"):
            matching(config.build(num_classes), tensors)
        return config.build(num_classes)
    finally:
        _room.left = None


def fill(detector: Detector, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Load a state dict of the very same detector; floating-point numbers take the detector's own precision."""
    with named(path):
        detector.load_state_dict(matching(detector, tensors))


def matching(detector: Detector, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the very same detector. Raises ValueError for any other.

    Where a norm is frozen, a count of the batches that it has seen is dropped: earlier versions stored some of SPP-net.
    """
    expected = detector.state_dict()
    counts = {key for key in tensors.keys() - expected.keys() if key.endswith(".num_batches_tracked")}
    tensors = {key: value for key, value in tensors.items() if key not in counts}
    missing, extra = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    shapes = sorted(key for key in expected.keys() & tensors.keys() if expected[key].shape != tensors[key].shape)
    if missing or extra or shapes:
        raise ValueError(
            f"does not fit the {type(detector).__name__} it should: "
            f"{len(missing)} tensors missing {missing[:3]}, {len(extra)} not expected {extra[:3]}, "
            f"{len(shapes)} of another shape {shapes[:3]}"
        )
    return tensors


def write(path: str | Path, tensors: dict[str, Tensor], described: dict[str, Any]) -> None:
    """Write tensors and a JSON object, whole or not at all: until the new file is safely on disk, an old one stays."""
    from safetensors.torch import save

    whole = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    head = {"format": FORMAT, "sha256": _NO_DIGEST}
    content = save(whole, {"boxwright": json.dumps({**head, **described, **head})})
    assert content.startswith(_HEADER + _NO_DIGEST.encode(), 8), "safetensors has changed how it writes metadata"
    digest, rest = sha256(content).encode(), memoryview(content)[_DIGEST.stop :]
    write_atomically(path, lambda file: file.writelines((content[: _DIGEST.start], digest, rest)))


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write` wrote. Raises `CheckpointError` where a bit of it has changed since, or it is of an unknown form."""
    described = describe(path)
    if "sha256" in described or described.get("format", 1) != 1:
        _check_digest(Path(path))
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}; copy it again") from error
    return tensors, {key: value for key, value in described.items() if key not in ("format", "sha256")}


def describe(path: str | Path) -> dict[str, Any]:
    """The JSON object of a checkpoint, read from its header alone, so that its digest is not checked.

    Raises `CheckpointError` where it has none, or a value in it is not of its type.
    """
    header = _header(Path(path))
    with named(path):
        text = parse_json(header, "the header of the file")
        if not isinstance(text, dict) or not isinstance(text.get("__metadata__", {}), dict):
            raise ValueError("expected a JSON object with __metadata__ as the header of the file; copy it again")
        text = text.get("__metadata__", {}).get("boxwright")
        if not isinstance(text, str):
            raise ValueError("a safetensors file, but not one that boxwright wrote")
        described = parse_json(text, "its metadata")
        check("metadata", described, Described)
        within(0, 1, **{"metadata.threshold": described.get("threshold", 0)})
        names = described.get("names", ["object"])
        if not 0 < len(names) <= COUNT or len(set(names)) < len(names) or not all(names):
            raise ValueError(f"metadata.names are 1 to {COUNT} different class names, got {reprlib.repr(names)}")
        if described.get("format", 1) not in (1, FORMAT):
            raise ValueError(f"format {described['format']}, and this version knows 1 to {FORMAT}; update boxwright")
    return described


def need(described: Mapping[str, Any], path: str | Path, *keys: str) -> None:
    """Raises `CheckpointError` where the JSON object of `path` lacks one of these."""
    if lacking := [key for key in keys if key not in described]:
        raise CheckpointError(f"{path} has no {', '.join(lacking)} in its metadata; it is no whole checkpoint")


def _header(path: Path) -> bytes:
    """The JSON at the start of a safetensors file."""
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    with path.open("rb") as file:
        size, length = os.fstat(file.fileno()).st_size, int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= min(size - 8, _LONGEST_HEADER) else b""
    if not header:
        raise CheckpointError(f"{path} ({size} bytes) is not a whole safetensors file; copy it again")
    return header


def _check_digest(path: Path) -> None:
    """Raises `CheckpointError` unless the file is, to the bit, one that `write` wrote."""
    with path.open("rb") as file:
        start = file.read(_DIGEST.start)
        written = file.read(len(_NO_DIGEST))
        digest = hashlib.sha256(start + _NO_DIGEST.encode())
        while part := file.read(1 << 20):
            digest.update(part)
    if not start.endswith(_HEADER) or written != digest.hexdigest().encode():
        raise CheckpointError(
            f"{path} is damaged: its SHA-256 is not the one that was written into it; copy it again, or take another"
        )


@contextmanager
def named(path: str | Path) -> Iterator[None]:
    """Errors about what is in the file are `CheckpointError`s with its name."""
    try:
        yield
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def read_config(kind: str, values: Mapping[str, Any]) -> DetectorConfig:
    """The config of one of `KINDS` from its JSON, today's or that of an earlier version."""
    config = KINDS[kind]
    renamed = _ADDED.get(kind, {}) | {_RENAMED.get(option, option): value for option, value in values.items()}
    if kind in _LAST_LEVEL and isinstance(renamed.get("levels"), list):
        renamed["levels"] = renamed["levels"][-1:]
    without = {*_DROPPED.get(kind, ()), *config.unread({name: _tuples(value) for name, value in renamed.items()})}
    return from_json(config, {option: value for option, value in renamed.items() if option not in without})


def from_json(kind: type, values: dict[str, Any]) -> Any:
    """A config dataclass from what JSON left of it: lists are tuples again."""
    known = {field.name for field in fields(kind)}
    if unknown := sorted(values.keys() - known):
        raise CheckpointError(f"{kind.__name__} has no option {', '.join(unknown):.200}; update boxwright")
    check_fields(kind, values)
    return kind(**{key: _tuples(value) for key, value in values.items()})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
