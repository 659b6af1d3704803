"""Read a file of torch.save as data: tensors, numbers, text and plain containers. Or one of safetensors.

Since torch 1.6 it is a zip archive of a pickle and one entry for each storage; before, pickles and storages one after
the other. A tensor is a view of a storage: both must lie inside the bytes that are there.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZIP_STORED

import torch
from safetensors import safe_open
from torch import Tensor

from boxwright.units import shown
from boxwright.untrusted import Reader, UntrustedError, archive, fill, opened, reading
from boxwright.untrusted.pickles import CALLS, Machine, Name, sequence

_HINT = (
    ". Where you trust the file, load it with torch and save the weights alone: "
    "torch.save(model.state_dict(), 'weights.pth')"
)
_WHAT = "tensors, plain containers and settings such as argparse.Namespace"
_MAGIC = 0x1950A86A20F9469CFC6C  # of files before torch 1.6
_DIRECTORY = 4 << 20  # bytes: the list of entries of an archive, 60 for each
_DIMENSIONS = 32
_TENSORS = 20_000  # in a file of safetensors; each takes as long as a kilobyte
_LARGEST = 2**63 - 1


def read_torch(path: str | Path) -> Any:
    """The content of a file of torch.save, on the CPU. Tensors of one storage share it; attributes are left out.

    Raises UntrustedError, with the name, if the file refers to more than tensors, plain containers and settings, and if
    it is damaged.
    """
    with opened(path, "file of weights", _HINT) as file:
        start = file.peek(4)[:4]
        if start == b"PK\x03\x04":
            return _Archive(file).read()
        if start[:1] != b"\x80":
            raise UntrustedError("it is no pickle as torch.save writes it")
        return _read_old(file)


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file by name. Raises UntrustedError if it is damaged."""
    with reading(Path(path), "file of safetensors"), safe_open(path, framework="pt") as file:
        names = file.keys()
        if len(names) > _TENSORS:
            raise UntrustedError(f"it has {len(names)} tensors, expected at most {_TENSORS}")
        return {name: file.get_tensor(name) for name in names}


class _Storage(NamedTuple):
    """Bytes of a file, and the dtype of its numbers, if the storage has one."""

    content: Tensor  # uint8
    dtype: torch.dtype | None


class _Archive:
    """A file since torch 1.6."""

    def __init__(self, file: Reader) -> None:
        self._zip = archive(file, _DIRECTORY)
        self._entries = {info.filename: info for info in self._zip.infolist()}
        if any(re.fullmatch(r"[^/]*/constants\.pkl", name) for name in self._entries):
            raise UntrustedError("it is a TorchScript program: expected the state dict of the model")
        for name, info in self._entries.items():
            if info.compress_type != ZIP_STORED or info.file_size != info.compress_size:
                raise UntrustedError(f"its entry {shown(name)} is compressed, and torch.save compresses nothing")
        if sum(info.file_size for info in self._zip.infolist()) > file.size:
            raise UntrustedError(f"its entries declare more bytes than the {file.size} that it has")
        roots = [name.removesuffix("data.pkl") for name in self._entries if re.fullmatch(r"[^/]*/data\.pkl", name)]
        if len(roots) != 1:
            raise UntrustedError("it is an archive, but none of torch.save: expected one data.pkl, in a folder")
        self._root = roots[0]
        self._storages: dict[str, Tensor] = {}

    def read(self) -> Any:
        if self._content("byteorder") == b"big":
            raise UntrustedError(
                "it has numbers with the highest byte first: expected a file of a little-endian machine"
            )
        pickle = self._content("data.pkl")
        return Machine(io.BytesIO(pickle), len(pickle), _CALLS, _WHAT, self._storage).run()

    def _content(self, name: str) -> bytes:
        """Of an entry; nothing where there is none."""
        info = self._entries.get(self._root + name)
        return b"" if info is None else self._zip.read(info)

    def _storage(self, identity: Any) -> _Storage:
        key, dtype, size, _ = _of_identity(identity)
        if key not in self._storages:
            info = self._entries.get(f"{self._root}data/{key}")
            if info is None:
                raise UntrustedError(f"its storage {shown(key)} is missing")
            content = torch.empty(info.file_size, dtype=torch.uint8)
            with self._zip.open(info) as stream:
                fill(content.numpy(), stream)
            self._storages[key] = content
        if size > len(self._storages[key]):
            raise UntrustedError(f"its storage {shown(key)} declares {size} bytes, and has {len(self._storages[key])}")
        return _Storage(self._storages[key][:size], dtype)


def _read_old(file: Reader) -> Any:
    """A file before torch 1.6: four pickles, then the storages that the last of them lists."""
    storages: dict[str, tuple[Tensor, int]] = {}  # bytes, and how many a number has

    def storage(identity: Any) -> _Storage:
        key, dtype, count, itemsize = _of_identity(identity)
        if key not in storages:
            if count + sum(len(content) for content, _ in storages.values()) > file.size:
                raise EOFError(f"its storages declare more bytes than the {file.size} that it has")
            storages[key] = torch.empty(count, dtype=torch.uint8), itemsize
        if count > len(storages[key][0]):
            raise UntrustedError(f"its storage {shown(key)} has two sizes")
        return _Storage(storages[key][0][:count], dtype)

    def pickle(persistent: Callable[[Any], Any] | None = None) -> Any:
        return Machine(file, file.size, _CALLS, _WHAT, persistent).run()

    if pickle() != _MAGIC:
        raise UntrustedError("it is no pickle as torch.save writes it")
    pickle()  # the version
    machine = pickle()
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise UntrustedError("it has numbers with the highest byte first: expected a file of a little-endian machine")
    content, keys = pickle(storage), pickle()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(storages):
        raise UntrustedError("it does not have the storages that its tensors need")
    for key in keys:
        memory, itemsize = storages[key]
        count = int.from_bytes(file.read(8), "little") * itemsize
        if count != len(memory):
            raise UntrustedError(f"its storage {shown(key)} declares {len(memory)} bytes, and has {count}")
        fill(memory.numpy(), file)
    return content


def _of_identity(identity: Any) -> tuple[str, torch.dtype | None, int, int]:
    """A storage's key, dtype, size in bytes, and bytes for a number, as its persistent id has them."""
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
        raise UntrustedError("it refers to an external object that is no storage")
    _, kind, key, _, count, *view = identity
    if not (isinstance(kind, Name) and isinstance(key, str) and type(count) is int and 0 <= count <= _LARGEST) or any(
        view
    ):
        raise TypeError("a storage without type, key or size")
    if kind.full not in _STORAGES:
        raise UntrustedError(f"it has a storage of type {kind}, and weights are numbers")
    dtype = _STORAGES[kind.full]
    itemsize = 1 if dtype is None else dtype.itemsize
    return key, dtype, count * itemsize, itemsize


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any, dtype: torch.dtype | None = None) -> Tensor:
    """A view of a storage; `dtype` is that of a storage without one."""
    if not isinstance(storage, _Storage):
        raise TypeError("a tensor without storage")
    numbers = (offset, *shape, *strides)
    if not all(type(number) is int and 0 <= number <= _LARGEST for number in numbers) or len(shape) != len(strides):
        raise ValueError("a tensor without shape")
    if len(shape) > _DIMENSIONS:
        raise ValueError(f"a tensor of {len(shape)} dimensions")
    kind = dtype or storage.dtype or torch.uint8
    content = storage.content
    values = content[: len(content) // kind.itemsize * kind.itemsize].view(kind)
    end = (
        offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True)) + 1 if all(shape) else 0
    )
    if end > len(values):
        raise UntrustedError(
            f"it has a tensor of shape {shown(str(shape))} that ends at number {end} of a storage of {len(values)}"
        )
    return values.as_strided(shape, strides, offset if all(shape) else 0)


def _tensor_of_dtype(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, dtype: Any, *_: Any
) -> Tensor:
    if not isinstance(dtype, Name):
        raise TypeError("a tensor without dtype")
    if dtype.full not in _NAMED:
        raise UntrustedError(f"it has a tensor of {dtype}, and weights are numbers")
    return _tensor(storage, offset, shape, strides, dtype=_NAMED[dtype.full])


def _parameter(data: Any, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise TypeError("a parameter without tensor")
    return data


def _subclass(call: Any, kind: Any, arguments: Any, *_: Any) -> Tensor:
    """A tensor with attributes, or of a class of its own: `call` rebuilds the tensor alone."""
    rebuild = _REBUILDS.get(call.full) if isinstance(call, Name) else None
    if rebuild is None or not isinstance(arguments, tuple):
        raise TypeError("a tensor that nothing rebuilds")
    return rebuild(*arguments)


def _device(kind: str, index: int = 0) -> str:
    return f"{kind:s}:{index:d}"


_STORAGES: dict[str, torch.dtype | None] = {
    **{
        f"torch.{name}Storage": dtype
        for name, dtype in {
            "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16, "Double": torch.float64,
            "Char": torch.int8, "Short": torch.int16, "Int": torch.int32, "Long": torch.int64,
            "Byte": torch.uint8, "Bool": torch.bool,
        }.items()
    },
    "torch.storage.UntypedStorage": None,
    "torch.storage._UntypedStorage": None,
}  # fmt: skip

NUMBERS = tuple(dtype for dtype in _STORAGES.values() if dtype is not None)
"""The dtypes of weights."""

_NAMED = {str(dtype): dtype for dtype in NUMBERS}

_REBUILDS: dict[str, Callable[..., Tensor]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _parameter,
}

_CALLS: dict[str, Callable[..., Any] | None] = {
    **CALLS,
    **_REBUILDS,
    **dict.fromkeys(_STORAGES),
    **dict.fromkeys(f"torch.{name}" for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype)),
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch.Tensor": None,
    "torch.nn.parameter.Parameter": None,
    "torch.nn.parameter.Buffer": None,
    "torch.Size": sequence,
    "torch.device": _device,
}
