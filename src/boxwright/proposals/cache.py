"""A proposer that computes the boxes of each image once and keeps them on disk, by the content of the image."""

from __future__ import annotations

import hashlib
import os
import warnings
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from hashlib import blake2b
from io import BytesIO
from pathlib import Path

import numpy as np

from boxwright.files import cache_folder, open_regular, write_atomically
from boxwright.types import Propose
from boxwright.untrusted.numpy_files import read_array


def check_image(image: np.ndarray) -> None:
    """Raises ValueError for anything but a uint8 RGB image (H, W, 3) with at least one pixel."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"a proposer takes a uint8 RGB image (H, W, 3), got {image.dtype} {image.shape}")


def image_key(image: np.ndarray) -> str:
    """A digest of an image's shape and pixels, 32 hex digits."""
    check_image(image)
    digest = blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


@dataclass(frozen=True)
class CachedProposer:
    """Returns boxes from disk where this image was proposed before. Many processes may share one folder.

    propose  a dataclass: its fields and the `version` of its class, to be raised when the algorithm changes, select
             the subfolder, so that other options never share boxes
    folder   `cache_folder("proposals")` if not given
    count    return at most so many of the cached boxes, the best ones; all if not given

    Each file has a digest. A damaged one is computed again, with a warning. If the folder cannot be written to, boxes
    are computed each time, with a warning.
    """

    propose: Propose
    folder: Path = field(default_factory=partial(cache_folder, "proposals"))
    count: int | None = None

    def __post_init__(self) -> None:
        if not is_dataclass(self.propose):
            raise ValueError(f"expected a proposer that is a dataclass, with options as fields; got {self.propose!r}")
        object.__setattr__(self, "folder", Path(self.folder))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """A uint8 RGB image (H, W, 3) -> (P, 4) float32 xyxy in its pixels, best first."""
        path = self._path(image)
        boxes = _read(path)
        if boxes is None:
            if path.exists():
                warnings.warn(f"damaged proposals in {self.folder} are computed again", stacklevel=2)
            boxes = self.propose(image)
            try:
                write_atomically(path, lambda file: file.write(_encoded(boxes)))
            except OSError as error:
                reason = os.strerror(error.errno) if error.errno else error
                warnings.warn(
                    f"proposals cannot be cached in {self.folder} ({reason}) and are computed each time; "
                    "name another folder with the environment variable BOXWRIGHT_CACHE",
                    stacklevel=2,
                )
        return boxes[: self.count]

    def has(self, image: np.ndarray) -> bool:
        """Whether the image's boxes are cached and undamaged."""
        return _read(self._path(image)) is not None

    def _path(self, image: np.ndarray) -> Path:
        key = image_key(image)
        return self.folder / _options(self.propose) / key[:2] / f"{key}.npy"


def _options(propose: Propose) -> str:
    """The subfolder's name: the proposer's class, and a digest of everything that determines the boxes."""
    assert is_dataclass(propose)
    kind = type(propose)
    values = {option.name: getattr(propose, option.name) for option in fields(propose)}
    described = f"{kind.__module__}.{kind.__qualname__} {getattr(kind, 'version', 1)} {values!r}"
    return f"{kind.__name__}-{blake2b(described.encode(), digest_size=8).hexdigest()}"


_MARK = b"sha256:"
_END = len(_MARK) + hashlib.sha256().digest_size
"""Bytes behind the array: no multiple of a row's, so that no other number of rows hides them."""


def _encoded(boxes: np.ndarray) -> bytes:
    """A .npy file and, behind it, where NumPy does not look, the digest of all of it."""
    file = BytesIO()
    np.save(file, boxes, allow_pickle=False)
    return file.getvalue() + _MARK + hashlib.sha256(file.getvalue()).digest()


def _read(path: Path) -> np.ndarray | None:
    """None if the file is missing or damaged. Files of earlier versions have no digest."""
    try:
        with open_regular(path) as file:
            content = file.read()
        array, end = content[:-_END], content[-_END:]
        if end.startswith(_MARK):
            if end != _MARK + hashlib.sha256(array).digest():
                return None
            content = array
        boxes = read_array(BytesIO(content), len(content))
    except Exception:  # a damaged header can raise nearly anything
        return None
    valid = boxes.dtype == np.float32 and boxes.ndim == 2 and boxes.shape[1] == 4
    return boxes if valid and np.isfinite(boxes).all() else None
