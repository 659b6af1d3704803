"""Read pickled arrays and plain containers without executing anything; any other content is refused by its name.

A pickle is a program that may call anything it names. Here the few names that arrays need refer to classes of this
file, which only record their arguments. Arrays are built from these after the pickle is read, so that numpy's own
unpickling, which trusts a pickle about memory, is not used either.
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
    """The content of a pickle of arrays and plain containers, also of Python 2. The arrays are read-only.

    Raises ForeignError, with the name, if the file refers to anything else, and if it is damaged.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _built(_Reader(file, encoding="latin1").load())
    except ForeignError as error:
        raise ForeignError(f"{path} is refused: {error}. Nothing in it was executed") from None
    except OSError as error:
        raise ForeignError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # damaged bytes can raise nearly anything
        size, why = path.stat().st_size, f"{type(error).__name__}: {error}"
        raise ForeignError(f"{path} ({size} bytes) is not a whole pickle: {why}; download it again") from error


class _Reader(pickle.Unpickler):
    """Python's unpickler, restricted to the names in `_ALLOWED`."""

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) not in _ALLOWED:
            raise ForeignError(f"it refers to {module}.{name}, and weights are numpy arrays in plain containers")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any, /) -> Any:
        raise ForeignError(f"it refers to an external object, {pid!r:.80}")


class _Dtype:
    """A pickled dtype: a code such as f4, then the byte order."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def build(self) -> np.dtype:
        if not re.fullmatch(r"[<>=|]?(b1|[iu][1248]|f[248])", str(self.code)):
            raise ForeignError(f"it has an array of dtype {str(self.code)!r:.40}, and weights are numbers")
        return np.dtype(self.code).newbyteorder(">" if self.order == ">" else "<")


class _Array:
    """A pickled array: created empty, then given its shape, dtype and bytes."""

    def __init__(self, *_: Any) -> None:
        self.content: tuple[Any, ...] | None = None  # bytes, dtype, shape, order

    def __setstate__(self, state: tuple) -> None:
        *_, shape, dtype, by_columns, content = state
        self.content = content, dtype, shape, "F" if by_columns else "C"

    def build(self) -> np.ndarray:
        if self.content is None:
            raise ValueError("an array without content")
        content, dtype, shape, order = self.content
        if not isinstance(dtype, _Dtype):
            raise ValueError("an array without dtype")
        if isinstance(content, str):  # Python 2's
            content = content.encode("latin1")
        return np.frombuffer(content, dtype.build()).reshape(shape, order=order)


def _array(*content: Any) -> _Array:
    """An array in pickle's protocol 5: bytes, dtype, shape, order."""
    array = _Array()
    array.content = content
    return array


def _bytes(text: str = "", encoding: str = "latin1") -> bytes:
    """Bytes in protocols before 3; empty ones have no arguments."""
    if encoding != "latin1":
        raise ForeignError(f"it uses the encoding {encoding!r:.40}")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _bytes,
    ("__builtin__", "bytes"): _bytes,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    **{
        (f"numpy.{core}.{module}", name): substitute
        for core in ("core", "_core")  # before and since numpy 2
        for module, name, substitute in (
            ("multiarray", "_reconstruct", _Array),
            ("multiarray", "scalar", lambda dtype, content: _array(content, dtype, (), "C")),
            ("numeric", "_frombuffer", _array),
        )
    },
}


def _built(value: Any) -> Any:
    """The value with every `_Array` built; a scalar becomes an array of shape ()."""
    if isinstance(value, _Array):
        return value.build()
    if isinstance(value, dict):
        return {key: _built(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_built(item) for item in value)
    return value
