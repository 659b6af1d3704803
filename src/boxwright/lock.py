"""A lock on a folder that a command writes into. A process that is dead, killed ones included, holds none."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from boxwright.files import remove_partials

LOCK = ".boxwright-lock"
"""The file that is locked, in the folder. Its text says who holds it."""

_held: set[int] = set()
"""Descriptors of the files that this process has locked."""


class HeldError(ValueError):
    """Another process writes into a folder. `holder` says which."""

    def __init__(self, folder: Path, holder: str) -> None:
        super().__init__(f"{folder} is in use: {holder}; wait until it has ended, or give another folder")
        self.holder = holder


@contextmanager
def hold(folder: str | Path) -> Iterator[None]:
    """Within, only this process writes into the folder, as far as others ask for it with `hold`.

    The folder is made, and removed if it stays empty.

    What a process of this machine left half written there when it was killed is removed. Where the file system has no
    locks, or the folder cannot be written to, nothing is held.

    Raises HeldError where another process, or another part of this one, holds the folder.
    """
    folder = Path(folder)
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    lock = _lock(folder)
    try:
        yield
    finally:
        if lock in _held:  # not in a forked process, which has closed it
            _held.discard(lock)
            with suppress(OSError):
                if os.path.samestat(os.fstat(lock), os.stat(folder / LOCK)):
                    (folder / LOCK).unlink()  # before it is released
            os.close(lock)
        with suppress(OSError):
            for parent in missing:
                parent.rmdir()


def _lock(folder: Path) -> int | None:
    """The descriptor of the locked file; None where nothing can be locked."""
    if sys.platform == "win32":
        return None
    import fcntl

    path = folder / LOCK
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:  # its last holder has removed the folder just now
            continue
        except OSError:  # what the command writes will fail too, and say why
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), os.stat(path)):
                break
        except FileNotFoundError:
            pass
        except BlockingIOError:
            holder = _holder(os.pread(lock, 10_000, 0))
            os.close(lock)
            raise HeldError(folder, holder) from None
        except OSError:  # a file system without locks
            os.close(lock)
            return None
        os.close(lock)  # of a file that its holder has removed since it was opened
    _held.add(lock)
    if os.fstat(lock).st_size:  # its holder was killed
        remove_partials(folder)
    with suppress(OSError):
        os.ftruncate(lock, 0)
        os.pwrite(lock, _described().encode(), 0)
    return lock


def _described() -> str:
    """This process, as a line of JSON."""
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return json.dumps({"process": os.getpid(), "host": platform.node(), "since": since, "command": command}) + "\n"


def _holder(text: bytes) -> str:
    try:
        by = json.loads(text)
        described = f"process {by['process']} on {by['host']} writes into it since {by['since']} ({by['command']})"
    except (ValueError, TypeError, KeyError):  # it has only just begun
        return "another process writes into it"
    return "".join(letter if letter.isprintable() else "?" for letter in described)


def _forget() -> None:
    """A forked process (one that loads images) may outlive its parent, and holds nothing that the parent held."""
    for lock in _held:
        os.close(lock)
    _held.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget)
