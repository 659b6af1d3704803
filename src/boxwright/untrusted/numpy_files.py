"""Read .npy and .npz as data: arrays of numbers, no larger than the bytes that are there."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from math import prod
from pathlib import Path
from typing import IO

import numpy as np

from boxwright.units import shown
from boxwright.untrusted import Reader, UntrustedError, archive, fill, reading

_DIRECTORY = 16 << 20  # bytes: the list of entries of an archive, 90 for each
_RATIO = 50  # of compressed boxes: no real ones come near
_SPARE = 16 << 20  # bytes


class Npz:
    """The arrays of numbers in a .npz file by name, each read when it is asked for.

    Raises UntrustedError for any other content, and if it is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        with self._reading():
            self._file = file = Reader(self._path)
            self._archive = archive(file, _DIRECTORY)
            entries = self._archive.infolist()
            size = sum(info.file_size for info in entries)
            if size > _RATIO * file.size + _SPARE:
                raise UntrustedError(f"its {file.size} bytes declare {size}, more than compression saves")
            self._entries = {info.filename.removesuffix(".npy"): info for info in entries}

    def keys(self) -> Collection[str]:
        return self._entries.keys()

    def __getitem__(self, key: str) -> np.ndarray:
        with self._reading(), self._archive.open(self._entries[key]) as stream:
            return read_array(stream, self._entries[key].file_size)

    def close(self) -> None:
        self._archive.close()
        self._file.close()

    def _reading(self) -> AbstractContextManager[None]:
        return reading(self._path, "archive of numpy")


def read_array(stream: IO[bytes], size: int) -> np.ndarray:
    """The array of numbers in a stream of so many bytes, as in a .npy file.

    Raises UntrustedError for any other content; a damaged header can raise nearly anything.
    """
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise UntrustedError(f"it has version {version} of numpy's format, expected (1, 0) or (2, 0)")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read_header(stream)
    if dtype.kind not in "biuf" or dtype.fields is not None:
        raise UntrustedError(f"it has an array of dtype {shown(str(dtype))}, expected numbers; objects are not read")
    there = size - stream.tell()
    if min(shape, default=0) < 0 or prod(shape) * dtype.itemsize != there:
        raise UntrustedError(f"it has an array of shape {shown(str(shape))} and {dtype} in {there} bytes")
    array = np.empty(prod(shape), dtype)
    fill(array.view(np.uint8), stream)
    return array.reshape(shape, order="F" if by_columns else "C")
