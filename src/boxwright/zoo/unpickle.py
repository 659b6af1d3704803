"""Reads pickled arrays and plain containers and runs nothing: what a file asks for besides is refused by its name.

A pickle is a program that may call whatever it names. Here the few names that arrays need stand for classes of this
file, which note what they are given; the arrays are made from that once the pickle is read, so not even numpy's own
unpickling, which believes what a pickle says of memory, has a part in it.
"""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from boxwright.zoo.foreign import ForeignError


def read_pickle(path: str | Path) -> Any:
    """What a pickle of arrays and plain containers holds, Python 2's too. The arrays cannot be written to.

    Raises ForeignError with the name of what the file asks for besides, and where the file is not whole.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _made(_Reader(file, encoding="latin1").load())
    except ForeignError as error:
        raise ForeignError(f"{path} is refused: {error}. Nothing in it was run") from None
    except OSError as error:
        raise ForeignError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # whatever bytes make a pickle machine stumble over
        size, why = path.stat().st_size, f"{type(error).__name__}: {error}"
        raise ForeignError(f"{path} ({size} bytes) is not a whole pickle: {why}; download it again") from error


class _Reader(pickle.Unpickler):
    """Python's own machine, knowing no names but those of `_ADMITTED`."""

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) not in _ADMITTED:
            raise ForeignError(f"it asks for {module}.{name}, and weights are numpy arrays in plain containers")
        return _ADMITTED[module, name]

    def persistent_load(self, pid: Any, /) -> Any:
        raise ForeignError(f"it asks for an object kept elsewhere, {pid!r:.80}")


class _Dtype:
    """What a pickle says of a dtype: its code such as f4, then the order of bytes."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def made(self) -> np.dtype:
        if not re.fullmatch(r"[<>=|]?(b1|[iu][1248]|f[248])", str(self.code)):
            raise ForeignError(f"it has an array of dtype {str(self.code)!r:.40}, and weights are numbers")
        return np.dtype(self.code).newbyteorder(">" if self.order == ">" else "<")


class _Array:
    """What a pickle says of an array: first that there is one, then its shape, dtype and bytes."""

    def __init__(self, *_: Any) -> None:
        self.content: tuple[Any, Any, Any, str] | None = None

    def __setstate__(self, state: tuple) -> None:
        *_, shape, dtype, by_columns, content = state
        self.content = content, dtype, shape, "F" if by_columns else "C"

    def made(self) -> np.ndarray:
        if self.content is None:
            raise ValueError("an array without content")
        content, dtype, shape, order = self.content
        if not isinstance(dtype, _Dtype):
            raise ValueError("an array without dtype")
        if isinstance(content, str):  # Python 2's
            content = content.encode("latin1")
        return np.frombuffer(content, dtype.made()).reshape(shape, order=order)  # type: ignore[call-overload]


def _array(*content: Any) -> _Array:
    """An array as pickle's protocol 5 has it: bytes, dtype, shape, order."""
    array = _Array()
    array.content = content  # type: ignore[assignment]
    return array


def _scalar(dtype: _Dtype, content: bytes | str) -> _Array:
    return _array(content, dtype, (), "C")


def _bytes(text: str = "", encoding: str = "latin1") -> bytes:
    """Bytes as protocols before 3 have them, none at all too."""
    if encoding != "latin1":
        raise ForeignError(f"it asks for the encoding {encoding!r:.40}")
    return text.encode("latin1")


_ADMITTED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _bytes,
    ("__builtin__", "bytes"): _bytes,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    **{
        (f"numpy.{core}.{module}", name): made
        for core in ("core", "_core")  # before and since numpy 2
        for module, name, made in (
            ("multiarray", "_reconstruct", _Array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _array),
        )
    },
}


def _made(value: Any) -> Any:
    """The value with arrays where the pickle spoke of them; a scalar is an array () of one number."""
    if isinstance(value, _Array):
        return value.made()
    if isinstance(value, dict):
        return {key: _made(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_made(item) for item in value)
    return value
