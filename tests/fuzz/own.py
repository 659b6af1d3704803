"""The readers of boxwright's own files: checkpoints, states of trainings, cached proposals, settings, logs, records."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from safetensors.torch import load, save

from boxwright.backbones import BACKBONES, Classifier, cut_stages
from boxwright.bench.run import record, state
from boxwright.checkpoint import CheckpointError, load_detector, save_detector
from boxwright.cli.train import Train
from boxwright.cli.training import read_options, write_options
from boxwright.data.preprocess import Preprocess
from boxwright.detectors import Detector, FasterRCNNConfig
from boxwright.draw.plots import draw_curves
from boxwright.files import Outputs
from boxwright.proposals import CachedProposer
from boxwright.train.config import TrainConfig
from boxwright.train.history import History
from boxwright.train.loop import Training
from boxwright.zoo import models
from fuzz.mutate import json_node
from fuzz.reader import Reader
from train.tiny_run import Noise


class _Tiny(Classifier):
    """A backbone of a few hundred numbers: damage to a file of megabytes would take seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(*(torch.nn.Conv2d(4 if i else 3, 4, 3, 2, 1) for i in range(5)))
        self.stages = cut_stages((f"layers.{i}", 2, 4) for i in range(5))


_known = patch.dict(BACKBONES, {"tiny": _Tiny})
_CONFIG = FasterRCNNConfig("tiny", channels=4, hidden=4, proposals=20, rpn_samples=32, region_samples=16)
_PREPROCESS = Preprocess(short=64, long=96)
_ABOUT = {"epoch": 3, "threshold": 0.5, "thresholds": {"a": 0.5}, "metrics": {"val": {"ap": 0.5, "ap50": None}}}


@cache
def _detector() -> Detector:
    return _CONFIG.build(3)


@_known
def _checkpoint(folder: Path) -> list[bytes]:
    import timm  # noqa: F401  takes seconds, and is imported for a backbone that is not known

    path = folder / "best.safetensors"
    save_detector(path, _detector(), _CONFIG, ("a", "b", "c"), _PREPROCESS, _ABOUT)
    return [path.read_bytes(), _without_digest(path.read_bytes())]


def _without_digest(content: bytes) -> bytes:
    """As earlier versions wrote it, so that everything in it is read."""
    about = {key: value for key, value in _about(content).items() if key not in ("format", "sha256")}
    return save(load(content), {"boxwright": json.dumps(about)})


def _about(content: bytes) -> dict[str, Any]:
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return json.loads(header["__metadata__"]["boxwright"])


def _change_metadata(content: bytes, random: Random) -> bytes:
    """A node of the metadata of a file without a digest becomes something else."""
    try:
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        changed = json_node(header["__metadata__"]["boxwright"].encode(), random)
        header["__metadata__"]["boxwright"] = changed.decode("utf-8", "replace")
        text = json.dumps(header, separators=(",", ":")).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return content
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


@_known
def _load(path: Path) -> None:
    (found,) = (model for model in models(path.parent) if model.path == path)  # never fails
    assert found.fault or found.about
    load_detector(path)


@_known
def _state(folder: Path) -> list[bytes]:
    path = folder / "resume.safetensors"
    _training().save(path)
    return [path.read_bytes(), _without_digest(path.read_bytes())]


@cache
def _training() -> Training:
    training = Training(_detector(), Noise([2, 1], 1), TrainConfig(epochs=2, precision="fp32"))  # type: ignore[arg-type]
    next(iter(training.steps(progress=False)))
    return training


@dataclass(frozen=True)
class _Corner:
    """A proposer of one box."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return np.array([[0, 0, 2, 2]], np.float32)


_IMAGE = np.zeros((4, 4, 3), np.uint8)


def _cached(folder: Path) -> list[bytes]:
    CachedProposer(_Corner(), folder / "made")(_IMAGE)
    (made,) = (folder / "made").rglob("*.npy")
    made.replace(folder / "one.npy")
    return [(folder / "one.npy").read_bytes()]


def _propose(path: Path) -> None:
    proposer = CachedProposer(_Corner(), path.parent / "made")
    kept = proposer._path(_IMAGE)
    kept.write_bytes(path.read_bytes())
    boxes = proposer(_IMAGE)
    assert boxes.dtype == np.float32 and boxes.shape[1:] == (4,) and np.isfinite(boxes).all()


def _settings(folder: Path) -> list[bytes]:
    options = Train(FasterRCNNConfig(), folder, training=TrainConfig(epochs=3), classes=("a",), size=(64, 96))
    write_options(options, {}, folder / "config.json")
    return [(folder / "config.json").read_bytes()]


def _log(folder: Path) -> list[bytes]:
    val = {"ap": 0.5, "ap50": 0.5, "ap75": None, "per_class": {"a": 0.5}}
    common = {"losses": {"total": 0.5}, "lr": 0.1, "images_per_second": 2.0}
    rows = [{"kind": "step", "step": 1, **common}, {"kind": "epoch", "epoch": 1, "step": 1, "seconds": 2.0, **common}]
    rows += [{**rows[1], "epoch": 2, "val": val}, {"kind": "test", "test": val}]
    return ["\n".join(map(json.dumps, rows)).encode()]


def _read_log(path: Path) -> None:
    history = History(path.parent)
    rows = history.epochs()
    assert isinstance(history.best(9), float | int) and isinstance(history.since_best(9), int)
    assert isinstance(history.rows("step"), list) and isinstance(sum(row["seconds"] for row in rows), float | int)
    if rows and path.stat().st_size % 64 == 0:  # a drawing takes a tenth of a second
        draw_curves(rows, path.parent / "curves.png")


def _line(content: bytes, random: Random) -> bytes:
    """A node of one line becomes something else."""
    lines = content.split(b"\n")
    at = random.randrange(len(lines))
    lines[at] = json_node(lines[at], random)
    return b"\n".join(lines)


def _record(folder: Path) -> list[bytes]:
    standing = {"name": "a", "ap": 0.5, "seconds": 0.1, "kept": True}
    times = {"key": {}, "images": 1, "first": "a eager", "seconds": {"a eager": [{"read": 0.1}]}}
    parts = {
        "efforts": {"a": {"step": 0.1, "image": 0.1, "propose": 0.0, "bytes": 9}}, "spent": 1.0, "made": "2026-11-26",
        "plan": {"epochs": 2, "rungs": [1], "seconds": 9.0}, "rungs": [{"epoch": 1, "standings": [standing]}],
        "tries": {"a": [[1, 2], 1]}, "failed": {"b": "why"}, "footprints": {"a": {"file": 9, "first": 0.5}},
        "times": times | {"throughput": {"a eager": 2.0}, "failures": {}}, "unreadable": [], "proposals": {},
    }  # fmt: skip
    content = {"settings": {"data": "d"}, "configs": {"a": {"config": {}, "preprocess": {}}}}
    return [json.dumps(content | parts).encode()]


def _read_record(path: Path) -> None:
    settings, configs = {"data": "d"}, {"a": {"config": {}, "preprocess": {}}}
    record.Record(path, settings, configs, state._PARTS, "race", lambda content: content)


def _ledger(folder: Path) -> list[bytes]:
    (folder / "a.txt").write_text("1")
    outputs = Outputs()
    outputs.check("--out", [folder / "b.txt"])
    outputs.write(folder / "b.txt", "2")
    return [(folder / ".boxwright-outputs").read_bytes()]


def _check_outputs(path: Path) -> None:
    Outputs().check("--out", [path.parent / "new.txt"])
    try:
        Outputs().check("--out", [path.parent / "a.txt"])
    except ValueError:
        return
    assert False, "a file of the user's counts as ours"  # noqa: B011


_REFUSED = (CheckpointError,)


def _reader(
    name: str, file: str, prepare: Callable[[Path], Sequence[bytes]], read: Callable[[Path], object],
    mutator: Callable[[bytes, Random], bytes] | None = None, refusals: tuple[type[Exception], ...] = (),
) -> Reader:  # fmt: skip
    return Reader(name, file, prepare, read, refusals, [mutator] if mutator else [])


READERS = [
    _reader("checkpoint", "best.safetensors", _checkpoint, _load, _change_metadata, _REFUSED),
    _reader("resume", "resume.safetensors", _state, lambda path: _training().resume(path), _change_metadata, _REFUSED),
    _reader("cached proposals", "one.npy", _cached, _propose),
    _reader("config.json", "config.json", _settings, read_options, json_node, (ValueError,)),
    _reader("log.jsonl", "log.jsonl", _log, _read_log, _line),
    _reader("bench.json", "bench.json", _record, _read_record, json_node, (ValueError,)),
    _reader("outputs", ".boxwright-outputs", _ledger, _check_outputs, _line),
]
