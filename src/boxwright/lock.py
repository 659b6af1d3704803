"""Locks on folders and files that a command writes. A process that is dead, killed ones included, holds none."""

from __future__ import annotations

import glob
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from boxwright.files import is_stream, parse_json, remove_partials
from boxwright.units import shown

LOCK = ".boxwright-lock"
"""The file that is locked, in the folder; for a file X, .X.boxwright-lock beside it. Its text says who holds it."""

_ATTEMPTS = 100
"""To lock a file that others remove meanwhile; as many in a row do not happen by chance."""

_held: set[int] = set()
"""Descriptors of the files that this process has locked."""


class HeldError(ValueError):
    """Another process writes there. `holder` says which, since when, and by which command."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path} is in use by {holder}; wait until it has ended, or give another name")
        self.holder = holder


@contextmanager
def hold(path: str | Path, file: bool = False) -> Iterator[None]:
    """Within, only this process writes to a folder or a file, as far as others ask for it with `hold`.

    file  `path` is a file, not a folder

    Folders are made, and removed if they stay empty. What a process of this machine left half written when it was
    killed is removed. Where the file system has no locks, or the folder cannot be written to, nothing is held.

    Raises HeldError where another process, or another part of this one, holds it.
    """
    path = Path(path)
    folder, name = (path.parent, f".{path.name}{LOCK}") if file else (path, LOCK)
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    lock = _lock(folder / name, path)
    try:
        if lock is not None and os.fstat(lock).st_size:  # of a holder that was killed
            if file:
                remove_partials(folder, f"{glob.escape(path.name)}.*", below=False)
            else:
                remove_partials(folder)
        if lock is not None:
            with suppress(OSError):
                os.ftruncate(lock, 0)
                os.pwrite(lock, _described().encode(), 0)
        yield
    finally:
        if lock in _held:  # not in a forked process, which has closed it
            _held.discard(lock)
            with suppress(OSError):
                if os.path.samestat(os.fstat(lock), os.stat(folder / name)):
                    (folder / name).unlink()  # before it is released
            os.close(lock)
        with suppress(OSError):
            for parent in missing:
                parent.rmdir()


@contextmanager
def hold_all(folders: Iterable[Path | None], files: Iterable[Path | None] = ()) -> Iterator[None]:
    """`hold` each of them once; None, devices and pipes are left out."""
    targets = {(path.resolve(), False) for path in folders if path is not None}
    targets |= {(path.resolve(), True) for path in files if path is not None and not is_stream(path)}
    with ExitStack() as held:
        for path, file in sorted(targets):
            held.enter_context(hold(path, file))
        yield


def _lock(file: Path, path: Path) -> int | None:
    """The descriptor of the locked file, which is there for `path`; None where nothing can be locked."""
    if sys.platform == "win32":
        return None
    import fcntl

    for _ in range(_ATTEMPTS):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:  # its last holder has removed the folder just now
            continue
        except OSError:  # what the command writes will fail too, and say why
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), os.stat(file)):
                _held.add(lock)
                return lock
        except FileNotFoundError:
            pass
        except BlockingIOError:
            holder = _holder(os.pread(lock, 10_000, 0))
            os.close(lock)
            raise HeldError(path, holder) from None
        except OSError:  # a file system without locks
            os.close(lock)
            return None
        os.close(lock)  # of a file that its holder has removed since it was opened
    return None  # a place without folders, such as /proc, or a file system that gives a file a new number each time


def _described() -> str:
    """This process, as a line of JSON."""
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return json.dumps({"process": os.getpid(), "host": platform.node(), "since": since, "command": command}) + "\n"


def _holder(text: bytes) -> str:
    try:
        by = parse_json(text, "the lock")
        described = f"process {by['process']} on {by['host']} since {by['since']} ({by['command']})"
    except (ValueError, TypeError, KeyError):  # it has only just begun
        return "another process"
    return shown(described, 1000)


def _forget() -> None:
    """A forked process (one that loads images) may outlive its parent, and holds nothing that the parent held."""
    for lock in _held:
        os.close(lock)
    _held.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget)
