"""Files of boxwright: written whole or not at all, identified by a digest, cached in one folder."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: str | Path, content: bytes | str | Callable[[BinaryIO], object]) -> Path:
    """Write a file whole or not at all: until the new content is safely on disk, an old file stays as it is.

    content  bytes, text for UTF-8, or a function that writes to the open binary file

    Folders on the way are made. Raises OSError, with the errno of the failure, where the file cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("xb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        message = f"cannot be written ({error.strerror or error}); an older file there is unchanged"
        raise OSError(error.errno or 0, message, str(path)) from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def walk(folder: str | Path, excluded: Path | None = None) -> Iterator[Path]:
    """Every file of a folder and its subfolders, sorted within each; hidden files and folders are left out.

    Linked folders are followed, but each folder is read only once, whatever the links to it. `excluded` is left out.
    """
    seen = {os.path.realpath(path) for path in (folder, excluded) if path is not None}
    for parent, folders, files in os.walk(folder, followlinks=True):
        paths = [os.path.join(parent, name) for name in folders if not name.startswith(".")]
        kept = []
        for path in sorted(paths, key=lambda path: (os.path.islink(path), path)):
            if (real := os.path.realpath(path)) not in seen:
                seen.add(real)
                kept.append(os.path.basename(path))
        folders[:] = kept
        yield from (Path(parent, name) for name in sorted(files) if not name.startswith("."))


def sha256(content: bytes | Path) -> str:
    """The SHA-256 of bytes, or of a file's content, in hex digits."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder(name: str) -> Path:
    """$BOXWRIGHT_CACHE/name, or ~/.cache/boxwright/name."""
    return Path(os.environ.get("BOXWRIGHT_CACHE") or Path.home() / ".cache" / "boxwright") / name
