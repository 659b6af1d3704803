"""Files of boxwright: written whole or not at all, never over the user's; digests, folders, the cache."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import stat
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

from boxwright.typed import check


def write_atomically(path: str | Path, content: bytes | str | Callable[[BinaryIO], object], sync: bool = True) -> Path:
    """Write a file whole or not at all: until the new content is safely on disk, an old file stays as it is.

    content  bytes, text for UTF-8, or a function that writes to the open binary file
    sync     wait until it is on disk, so that it survives a power failure too

    Folders on the way are made. A device or a pipe, such as /dev/stdout, is written to, not replaced. Raises OSError,
    with the errno of the failure, where the file cannot be written.
    """
    path = Path(path)
    if is_stream(path):
        with naming(path), path.open("wb") as file:
            _put(content, file)
        return path
    partial = _partial(path)
    try:
        with naming(path, "an older file there is unchanged"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("xb") as file:
                _put(content, file)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            os.replace(partial, path)
    finally:
        with suppress(OSError):  # the error that matters is the one before
            partial.unlink(missing_ok=True)
        _writing.discard(partial.name)
    return path


_writing: set[str] = set()
"""The names of partial files and folders of this process."""


def _partial(path: Path, hidden: str = "") -> Path:
    """A new name beside `path` for what is not whole yet: NAME.TOKEN.PID.partial, of a process of this machine."""
    end = f".{_machine()}{secrets.token_hex(4)}.{os.getpid()}.partial"
    start = f"{hidden}{path.name}"
    while len(os.fsencode(start)) + len(end) > _LONGEST:
        start = start[:-1]
    partial = path.with_name(start + end)
    _writing.add(partial.name)
    return partial


_LONGEST = 255
"""Bytes in a file's name, at most; of a longer one the partial name has the start."""


def _machine() -> str:
    return sha256(platform.node().encode())[:4]


def remove_partials(folder: Path, pattern: str = "*", below: bool = True) -> None:
    """Remove what `write_atomically` and `new_folder` of processes of this machine that are dead left in a folder.

    below  in its subfolders too
    """
    for path in (folder.rglob if below else folder.glob)(f"{pattern}.partial"):
        found = re.search(r"\.([0-9a-f]{4})[0-9a-f]{8}\.([0-9]{1,9})\.partial$", path.name)
        if found is None or found[1] != _machine() or _is_written(path.name, int(found[2])):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


def _is_written(partial: str, process: int) -> bool:
    """Whether the process is alive. A dead one may have had the number of this one, for which `_writing` decides."""
    if process == os.getpid():
        return partial in _writing
    if sys.platform == "win32":  # where os.kill ends the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # another user's
    return True


def append(path: Path, line: str) -> None:
    """Add a line to a file, which is made if there is none. Half a line, of a process that was killed, is ended first.

    After an OSError half of the line may be there.
    """
    with path.open("ab+") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            line = ("" if file.read(1) == b"\n" else "\n") + line
        file.write(f"{line}\n".encode())


@contextmanager
def naming(path: Path, state: str = "") -> Iterator[None]:
    """An OSError in the `with` names the file that is written, what is there now, and how to mend it."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        parts = [f"cannot be written ({reason})", state, _CURES.get(error.errno or 0, "")]
        raise OSError(error.errno or 0, "; ".join(filter(None, parts)), str(path)) from error


_CURES = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room within the quota",
    errno.EFBIG: "allow larger files (ulimit -f)",
    errno.EROFS: "name a folder on another disk",
    errno.EACCES: "change the permissions there, or name another folder",
    errno.EPERM: "change the permissions there, or name another folder",
}
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
"""Of a disk that takes no more; only a write can fail for them."""


def is_stream(path: Path) -> bool:
    """A device or a pipe, which has no older content."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _put(content: bytes | str | Callable[[BinaryIO], object], file: BinaryIO) -> None:
    if callable(content):
        content(file)
    else:
        file.write(content.encode() if isinstance(content, str) else content)


def partial_of(path: Path) -> Path:
    """Where the results of a long command are until all are there: X.partial beside X."""
    return path.with_name(f"{path.name}.partial")


class Lines:
    """Results of a long command, a line each, in X.partial beside the X that they are for. Then one of three follows:

    finish   they are all: X is replaced
    discard  they are in X in another form: X.partial is removed
    keep     the command stops for an error: X.partial is kept, and the error gets a note that names it

    The lines of an earlier command that was stopped are replaced with the first new line.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.partial = path, partial_of(path)
        self._file: BinaryIO | None = None
        self._size = 0  # bytes of whole lines

    def add(self, line: str) -> None:
        """Raises OSError as `write_atomically`."""
        content = f"{line}\n".encode()
        with naming(self.partial):
            if self._file is None:
                self.partial.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.partial.open("wb")
            self._file.write(content)
            self._file.flush()
        self._size += len(content)

    def finish(self) -> None:
        """Without a line X is empty."""
        if self._file is None:
            write_atomically(self.path, b"")
            return
        with naming(self.path, "an older file there is unchanged"):
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self.partial, self.path)

    def discard(self) -> None:
        if self._file is not None:
            self._file.close()
            self.partial.unlink()

    def keep(self, error: BaseException) -> bool:
        """Half a line is cut off; where no line is whole, there is no file, and False is returned."""
        if self._file is None:
            return False
        with suppress(OSError):  # what was not written before cannot be written now either
            self._file.close()
        with suppress(OSError):
            os.truncate(self.partial, self._size)
        if self._size:
            error.add_note(f"the results so far are in {self.partial}")
        else:
            self.partial.unlink(missing_ok=True)
        return self._size > 0

    def digest(self) -> str:
        """Of the lines so far."""
        return sha256(b"" if self._file is None else self.partial)


@contextmanager
def new_folder(path: str | Path, option: str = "out") -> Iterator[Path]:
    """Make a folder whole or not at all: gives a hidden one beside it, which gets its name at the end of the `with`.

    option  where the user named it

    Nothing is overwritten: raises ValueError where `path` is a file or has anything in it.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_dir():
        raise ValueError(f"{option} names a folder, and {path} is a file; give another")
    if path.is_dir() and any(path.iterdir()):
        raise ValueError(f"{option} names a new folder, and {path} has files in it; give another, or remove it")
    remove_partials(path.parent, f".{glob.escape(path.name)}.*", below=False)
    partial = _partial(path, hidden=".")
    try:
        with _naming_folder(path, partial):
            partial.mkdir(parents=True)
            yield partial
            if path.is_dir():
                path.rmdir()  # fails where files were put into it meanwhile
            partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        _writing.discard(partial.name)


@contextmanager
def _naming_folder(path: Path, partial: Path) -> Iterator[None]:
    """An error of writing names `path`, in place of a hidden file or of none."""
    try:
        yield
    except OSError as error:
        inside = error.filename is not None and str(error.filename).startswith(str(partial))
        if not inside and error.errno not in DISK_ERRORS:
            raise
        with naming(path, "nothing was left there"):
            raise


class Outputs:
    """Writes files to paths that a user named: never over an input, and only over its own earlier output.

    inputs  the files that are read

    Each folder with outputs has a hidden file .boxwright-outputs: a line of JSON for each, with its name and SHA-256. A
    file that it does not list, or that was changed since, is the user's. Where the list cannot be written, as another
    user's in a shared folder, a warning says so and the outputs are written all the same.
    """

    def __init__(self, inputs: Iterable[Path] = ()) -> None:
        self._inputs = {_identity(path) for path in inputs if path.exists()}
        self._planned: dict[Path, str] = {}
        self._real: dict[Path, Path] = {}
        self._lists: dict[Path, set[_Entry]] = {}  # by folder

    def check(self, option: str, paths: Iterable[Path]) -> None:
        """Raises ValueError unless all of these paths may be written to; `option` is where the user named them."""
        foreign = []
        for path in paths:
            resolved = self._resolved(path)
            if resolved in self._planned:
                raise ValueError(
                    f"{self._planned[resolved]} and {option} would both write {path}; give another {option}"
                )
            self._planned[resolved] = option
            if not path.exists():
                continue
            if path.is_dir():
                raise ValueError(f"{option} would write the file {path}, which is a folder; give another {option}")
            if _identity(path) in self._inputs:
                raise ValueError(f"{option} would write over the input {path}; give another {option}")
            if not self._is_ours(path):
                foreign.append(path)
        if foreign:
            more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
            raise ValueError(
                f"{option} would replace {foreign[0]}{more}, which boxwright did not write or which was changed since; "
                f"give another {option}, or move what is there"
            )

    def write(self, path: Path, content: bytes | str) -> None:
        """Write a file that was checked. Folders on the way are made."""
        data = content.encode() if isinstance(content, str) else content
        self._note(path, sha256(data))  # first: whenever the process is ended, a file that is there is listed
        write_atomically(path, data, sync=False)

    def begin(self, path: Path) -> None:
        """Note the `partial_of` a checked file, so that a later run may replace it if this process is killed."""
        if not is_stream(path):
            self._note(partial_of(path), None)

    @contextmanager
    def stream(self, path: Path) -> Iterator[Callable[[str], object]]:
        """Write a file that was checked, and its `partial_of` too, line by line; gives the function that adds a line.

        A device or a pipe gets each line at once, a file is there when all lines are. After an error the lines so far
        are in `partial_of`, and the error has a note that says so.
        """
        if is_stream(path):
            with path.open("wb") as file:

                def add(line: str) -> None:
                    with naming(path):
                        file.write(f"{line}\n".encode())
                        file.flush()

                yield add
            return
        lines = Lines(path)
        self.begin(path)
        try:
            yield lines.add
            self._note(path, lines.digest())
            lines.finish()
        except BaseException as error:
            lines.keep(error)
            raise

    @contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """For a checked file that is written by other means in the `with`; if the process is killed there, a later run
        may replace it."""
        if not is_stream(path):
            self._note(path, None)
        try:
            yield
        except BaseException:
            with suppress(OSError):  # the error that matters is the one before
                self._note_content(path)
            raise
        self._note_content(path)

    def _note_content(self, path: Path) -> None:
        if path.is_file():
            self._note(path, sha256(path))

    def _is_ours(self, path: Path) -> bool:
        """Also what is not on disk and has nothing to lose, such as /dev/stdout."""
        return not path.is_file() or bool({(path.name, None), (path.name, sha256(path))} & self._listed(path.parent))

    def _note(self, path: Path, digest: str | None) -> None:
        listed, entry = self._listed(path.parent), (path.name, digest)
        if entry not in listed or (digest is not None and (path.name, None) in listed):
            _add(listed, entry)
            with naming(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            try:
                append(path.parent / _LIST, json.dumps({"file": path.name, "sha256": digest}))
            except OSError as error:
                if error.errno in DISK_ERRORS:  # so neither can the file
                    with naming(path):
                        raise
                warnings.warn(
                    f"{path.parent / _LIST} cannot be written ({error.strerror}), so later runs will not replace the "
                    "files written beside it; give another folder, or remove them first",
                    stacklevel=1,
                )

    def _listed(self, folder: Path) -> set[_Entry]:
        if folder not in self._lists:
            listed: set[_Entry] = set()
            path = folder / _LIST
            with suppress(OSError):  # without a list that can be read, all files are the user's
                lines = path.read_text("utf-8", "replace").splitlines() if path.is_file() else []
                for entry in filter(None, map(_entry, lines)):
                    _add(listed, entry)
            self._lists[folder] = listed
        return self._lists[folder]

    def _resolved(self, path: Path) -> Path:
        if path.parent not in self._real:
            self._real[path.parent] = path.parent.resolve()
        return self._real[path.parent] / path.name


_LIST = ".boxwright-outputs"


class _Listed(TypedDict):
    file: str
    sha256: str | None


_Entry = tuple[str, str | None]
"""A file's name and SHA-256, None while it is being written."""


def _entry(line: str) -> _Entry | None:
    """None for a line that is damaged."""
    try:
        content = parse_json(line, _LIST)
        check("the line", content, _Listed)
    except ValueError:
        return None
    return content["file"], content["sha256"]


def _add(listed: set[_Entry], entry: _Entry) -> None:
    """A file that has a digest is no longer being written."""
    listed.discard((entry[0], None))
    listed.add(entry)


def _identity(path: Path) -> tuple[int, int]:
    """The same for all names and links of a file."""
    status = path.stat()
    return status.st_dev, status.st_ino


def walk(folder: str | Path, excluded: Path | None = None) -> Iterator[Path]:
    """Every file of a folder and its subfolders, sorted within each; hidden files and folders are left out.

    Linked folders are followed, but each folder is read only once, whatever the links to it. `excluded` is left out. A
    folder that must not be read is named in a warning.
    """
    seen = {os.path.realpath(path) for path in (folder, excluded) if path is not None}
    for parent, folders, files in os.walk(folder, onerror=_left_out, followlinks=True):
        paths = [os.path.join(parent, name) for name in folders if not name.startswith(".")]
        kept = []
        for path in sorted(paths, key=lambda path: (os.path.islink(path), path)):
            if (real := os.path.realpath(path)) not in seen:
                seen.add(real)
                kept.append(os.path.basename(path))
        folders[:] = kept
        yield from (Path(parent, name) for name in sorted(files) if not name.startswith("."))


def _left_out(error: OSError) -> None:
    if isinstance(error, PermissionError):
        warnings.warn(
            f"{error.filename}: the folder cannot be read ({error.strerror}), and its files are left out; "
            "change its permissions",
            stacklevel=2,
        )


def parse_json(text: str | bytes, source: object) -> Any:
    """What JSON in this text says. Raises ValueError, which names the source, for anything else."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source} is no JSON that can be read ({error})") from error


def open_regular(path: str | Path) -> BinaryIO:
    """A file open in binary mode. Raises OSError if it cannot be read, or is none: a pipe would block for ever, and a
    device has no end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return open(path, "rb")


def sha256(content: bytes | Path) -> str:
    """The SHA-256 of bytes, or of a file's content, in hex digits."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder(name: str) -> Path:
    """$BOXWRIGHT_CACHE/name, or ~/.cache/boxwright/name. Raises OSError where there is no home folder either."""
    if folder := os.environ.get("BOXWRIGHT_CACHE"):
        return Path(folder) / name
    try:
        home = Path.home()
    except RuntimeError:
        raise OSError(
            "there is no folder for the cache: HOME is not set, and this user has no home folder; "
            "set BOXWRIGHT_CACHE to a folder"
        ) from None
    return home / ".cache" / "boxwright" / name
