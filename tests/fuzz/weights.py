"""The readers of weights and arrays, with damage to the instructions of a pickle, also inside an archive."""

from __future__ import annotations

import io
import pickle
import zipfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from pickletools import genops
from random import Random
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from boxwright.backbones.pretrained import read_weights
from boxwright.proposals import read_proposals, write_proposals
from boxwright.zoo import detectron2, torchvision
from boxwright.zoo.foreign import ForeignError
from boxwright.zoo.weights import find
from fuzz.reader import Reader

_LOGITS = "roi_heads.box_predictor.cls_score.weight"
_STATE = {_LOGITS: torch.ones(4, 3), "a.weight": torch.arange(6.0).reshape(2, 3).T.half(), "count": torch.tensor(3)}
_TRAINING = {
    "model": _STATE,
    "optimizer": {"state": {0: {"step": 3, "momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
    "args": Namespace(lr=0.1, out=PurePosixPath("a/b"), sizes=torch.Size((3, 4)), dtype=torch.float16),
    "best": np.float64(0.3),
    "module": torch.nn.Parameter(torch.ones(1)),
}
_ARRAYS = {"model": {key: value.numpy() for key, value in _STATE.items()}, "__author__": "a", "scores": [np.float32(1)]}
_BOXES = {32 * "0": np.ones((2, 4), np.float32), 32 * "a": np.zeros((0, 4))}

_NAMES = (
    "_codecs encode", "argparse Namespace", "builtins set", "builtins bytearray", "builtins int", "builtins eval",
    "collections OrderedDict", "collections Counter", "copyreg _reconstructor", "datetime datetime", "os system",
    "numpy dtype", "numpy ndarray", "numpy.core.multiarray _reconstruct", "numpy.core.multiarray scalar",
    "numpy._core.numeric _frombuffer", "pathlib PosixPath", "torch FloatStorage", "torch Size", "torch device",
    "torch float32", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3",
    "torch._utils _rebuild_parameter", "torch._tensor _rebuild_from_type_v2", "torch.storage UntypedStorage",
)  # fmt: skip
_INSTRUCTIONS = (
    *(b"c" + name.replace(" ", "\n").encode() + b"\n" for name in _NAMES),
    *(bytes([code]) for code in b"(.012NQRab)]}eduslto\x81\x85\x86\x87\x88\x8f\x90\x91\x92\x93\x94"),
    *(b"J\xff\xff\xff\xff", b"J\xff\xff\xff\x7f", b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"\x8a\xff" + b"\xff" * 255),
    *(b"I" + b"9" * 5000 + b"\n", b"G\x7f\xf8" + bytes(6), b"X\0\0\0\0", b"C\0", b"X\3\0\0\0\xed\xa0\x80"),
    *(b"h\0", b"h\1", b"q\0", b"r\xff\xff\xff\xff", b"j\xff\xff\xff\xff", b"\x8e" + b"\xff" * 8, b"\x82\1", b"Pa\n"),
)
"""Put in the place of an instruction, or between two."""


def instructions(data: bytes, random: Random) -> bytes:
    """An instruction of a pickle is removed, repeated, moved, changed or replaced."""
    try:
        parts = _parts(data)
    except ValueError:
        return data
    index, other, kind = random.randrange(len(parts)), random.randrange(len(parts)), random.randrange(6)
    if kind == 0:
        del parts[index]
    elif kind == 1:
        parts.insert(index, parts[other])
    elif kind == 2:
        parts[index], parts[other] = parts[other], parts[index]
    elif kind == 3:
        part = bytearray(parts[index])
        part[random.randrange(len(part))] = random.choice((0, 1, 127, 128, 255))
        parts[index] = bytes(part)
    else:
        parts[index : index + (kind == 4)] = [random.choice(_INSTRUCTIONS)]
    return b"".join(parts)


def _parts(data: bytes) -> list[bytes]:
    """The instructions of a pickle, each with its value; the last has what follows the pickle, too."""
    starts: list[Any] = [position for _, _, position in genops(data)]
    return [data[start:end] for start, end in zip(starts, [*starts[1:], len(data)], strict=True)]


def in_archive(data: bytes, random: Random) -> bytes:
    """`instructions` of the pickle in an archive of torch, or another damage to one of its entries."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as source:
            entries = {name: source.read(name) for name in source.namelist()}
    except Exception:  # what zipfile raises for damaged archives
        return data
    name = random.choice(list(entries)) if random.random() < 0.2 else next(iter(entries), "")
    if name.endswith(".pkl"):
        entries[name] = instructions(entries[name], random)
    elif name:
        entries[name] = entries[name][: random.randrange(len(entries[name]) + 1)]
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", random.choice((0, 0, 0, 0, 0, zipfile.ZIP_DEFLATED))) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return target.getvalue()


def in_old_file(data: bytes, random: Random) -> bytes:
    """`instructions` of one of the pickles in a file before torch 1.6."""
    stream, ends = io.BytesIO(data), [0]
    with suppress(ValueError):
        for _ in range(5):
            for _ in genops(stream):
                pass
            ends.append(stream.tell())
    if len(ends) == 1:
        return data
    index = random.choice((1, 2, 3, 4, 4, 4, 4, 4, 5))
    start, end = ends[min(index, len(ends) - 1) - 1], ends[min(index, len(ends) - 1)]
    return data[:start] + instructions(data[start:end], random) + data[end:]


def _saved(*contents: Any, **options: Any) -> Callable[[Path], list[bytes]]:
    def prepare(folder: Path) -> list[bytes]:
        found = []
        for content in contents:
            torch.save(content, stream := io.BytesIO(), **options)
            found.append(stream.getvalue())
        return found

    return prepare


def _pickles(_: Path) -> Sequence[bytes]:
    return [pickle.dumps(_ARRAYS, protocol) for protocol in range(6)]


def _safetensors(_: Path) -> Sequence[bytes]:
    return [save({key: value.contiguous() for key, value in _STATE.items()})]


def _npz(_: Path) -> Sequence[bytes]:
    found = []
    for write in (np.savez, np.savez_compressed):
        write(stream := io.BytesIO(), allow_pickle=False, **_BOXES)
        found.append(stream.getvalue())
    return found


def _proposals(folder: Path) -> Sequence[bytes]:
    write_proposals(folder / "a.safetensors", _BOXES, "a")
    return [(folder / "a.safetensors").read_bytes()]


def _import(module: ModuleType, path: Path) -> None:
    """What an import does with a file, up to the names and shapes of a detector."""
    state = find(module.read(path), _LOGITS).state
    for value in state.values():
        assert value.isfinite().all().numel() and value.contiguous().numel() < 1_000_000
    with suppress(ForeignError):  # about names, without the file's
        module.count_classes(*(["fasterrcnn_resnet50_fpn"] if module is torchvision else []), state)


def _of_torch(path: Path) -> None:
    _import(torchvision, path)


def _of_detectron2(path: Path) -> None:
    _import(detectron2, path)


READERS = [
    Reader("weights", "a.pth", _saved(_STATE, _TRAINING), _of_torch, (ForeignError,), [in_archive]),
    Reader(
        "weights-old", "a.pth", _saved(_STATE, _TRAINING, _use_new_zipfile_serialization=False), _of_torch,
        (ForeignError,), [in_old_file],
    ),
    Reader("weights-pickle", "a.pkl", _pickles, _of_detectron2, (ForeignError,), [instructions]),
    Reader("weights-safetensors", "a.safetensors", _safetensors, _of_detectron2, (ForeignError,)),
    Reader("pretrained", "a.pth", _saved(_STATE), read_weights, (ValueError,), [in_archive]),
    Reader("npz", "a.npz", _npz, read_proposals, (ValueError,)),
    Reader("proposals", "a.safetensors", _proposals, read_proposals, (ValueError,)),
]  # fmt: skip
