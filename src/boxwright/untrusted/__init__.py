"""Read files of others, which may hold anything: pickles, files of torch, arrays of numpy.

Nothing in a file is executed, and a file costs work and memory in proportion to its size: what it declares is believed
only as far as its bytes are there.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from errno import EINVAL
from pathlib import Path
from stat import S_ISREG
from typing import Any
from zipfile import ZipFile

from boxwright.units import shown

_COPIES = 4
_SPARE = 16 << 20  # bytes


class UntrustedError(ValueError):
    """A file is refused, damaged or not readable; the message says why, and, outside this folder, names the file."""


class Reader(io.BufferedReader):
    """An open file of which no more is read at once than there can be.

    size  of the file in bytes
    most  bytes that are read at once
    """

    def __init__(self, path: Path) -> None:
        status = path.stat()
        if not S_ISREG(status.st_mode):  # a pipe would be waited for, and a device may have no end
            raise UntrustedError("expected a regular file")
        super().__init__(io.FileIO(path))
        self.size, self.most = status.st_size, max(status.st_size, io.DEFAULT_BUFFER_SIZE)

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.most:
            raise EOFError(f"it declares a part of {size} bytes, expected at most {self.most}")
        return super().read(size)


def archive(file: Reader, directory: int) -> ZipFile:
    """A zip archive whose list of entries has at most so many bytes: each costs twenty times as many in memory."""
    most, file.most = file.most, directory
    entries = ZipFile(file)
    file.most = most
    return entries


@contextmanager
def reading(path: Path, what: str, hint: str = "") -> Iterator[None]:
    """Whatever is raised inside becomes an UntrustedError that names the file.

    what  the file should be, such as "pickle"
    hint  what to do about content that is refused
    """
    try:
        yield
    except UntrustedError as error:
        raise UntrustedError(f"{path} is refused: {error}. Nothing in it was executed{hint}") from None
    except Exception as error:  # damaged bytes can raise nearly anything
        if isinstance(error, OSError) and error.errno != EINVAL:  # which is a place before the start of an archive
            raise UntrustedError(f"{path} cannot be read: {error.strerror or error}") from error
        why = f"{type(error).__name__}: {shown(str(error), 200)}"
        raise UntrustedError(
            f"{path} ({path.stat().st_size} bytes) is not a whole {what}: {why}; copy it again"
        ) from error


@contextmanager
def opened(path: str | Path, what: str, hint: str = "") -> Iterator[Reader]:
    """An open file, with the errors of `reading`."""
    with reading(Path(path), what, hint), Reader(Path(path)) as file:
        yield file


def limited(named: Iterable[tuple[str, Any]], path: str | Path) -> dict[str, Any]:
    """Tensors or arrays by name. Raises UntrustedError where they, and their names, are far larger than their file.

    Names may share a tensor, and a tensor may repeat a number. Whoever copies or checks each of them would then need
    memory and time out of all proportion to the file.
    """
    most = _COPIES * Path(path).stat().st_size + _SPARE
    found, size = {}, 0
    for name, value in named:
        size += len(name) + value.nbytes
        if size > most:
            raise UntrustedError(
                f"{path} is refused: its tensors by name have more than {most} bytes, {_COPIES} times as many as the "
                f"file and {_SPARE >> 20} MiB; the last is {shown(name)} of shape {tuple(value.shape)}. Save the "
                "weights of one detector alone, each tensor once"
            )
        found[name] = value
    return found


def fill(array: Any, stream: Any) -> None:
    """Fill an array of bytes from a stream. Raises EOFError if that has fewer."""
    if stream.readinto(array) != len(array):
        raise EOFError(f"it ends before the {len(array)} bytes of an array")
