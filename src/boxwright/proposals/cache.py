"""What is slow and does not learn is computed once: the boxes of each image on disk, by what is in the image."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np

from boxwright.files import cache_folder, write_atomically

Propose = Callable[[np.ndarray], np.ndarray]
"""A proposer: from a uint8 RGB image (H, W, 3) to boxes (P, 4) float32 xyxy in its pixels, best first."""


def check_image(image: np.ndarray) -> None:
    """Raises ValueError for what is no image that a proposer takes."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"a proposer takes a uint8 RGB image (H, W, 3), got {image.dtype} {image.shape}")


def image_key(image: np.ndarray) -> str:
    """The identity of an image's content, 32 letters: a copy has the same, an image with another pixel does not."""
    check_image(image)
    digest = blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


@dataclass(frozen=True)
class Cached:
    """A proposer that looks up on disk what it has proposed before. Many processes may use one folder at a time.

    propose  a dataclass: its fields and its class's `version`, to be raised when the algorithm changes, are part of
             the place where boxes are kept, so other options never see them
    folder   `cache_folder("proposals")` if not given; a subfolder is made for each set of options
    count    answer with the best so many of the boxes that are kept; all if not given

    A damaged file is computed anew. A folder that cannot be written to costs a warning and the time, not the boxes.
    """

    propose: Propose
    folder: Path = None  # type: ignore[assignment]
    count: int | None = None

    def __post_init__(self) -> None:
        if not is_dataclass(self.propose):
            raise ValueError(f"Cached takes a proposer that is a dataclass, to know its options; got {self.propose!r}")
        object.__setattr__(self, "folder", cache_folder("proposals") if self.folder is None else Path(self.folder))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """A uint8 RGB image (H, W, 3) -> (P, 4) float32 xyxy in its pixels, best first."""
        path = self._path(image)
        boxes = _read(path)
        if boxes is None:
            boxes = self.propose(image)
            try:
                write_atomically(path, lambda file: np.save(file, boxes, allow_pickle=False))
            except OSError as error:
                warnings.warn(
                    f"proposals cannot be kept in {self.folder} ({error}) and will be computed anew each time; "
                    "name another folder with the environment variable BOXWRIGHT_CACHE",
                    stacklevel=2,
                )
        return boxes[: self.count]

    def has(self, image: np.ndarray) -> bool:
        """Whether the image's boxes are there, whole; otherwise a call computes them."""
        return _read(self._path(image)) is not None

    def _path(self, image: np.ndarray) -> Path:
        key = image_key(image)
        return self.folder / _options(self.propose) / key[:2] / f"{key}.npy"


def _options(propose: object) -> str:
    """A folder's name: the class, and a digest of what determines the boxes."""
    kind = type(propose)
    values = {field.name: getattr(propose, field.name) for field in fields(propose)}  # type: ignore[arg-type]
    described = f"{kind.__module__}.{kind.__qualname__} {getattr(kind, 'version', 1)} {values!r}"
    return f"{kind.__name__}-{blake2b(described.encode(), digest_size=8).hexdigest()}"


def _read(path: Path) -> np.ndarray | None:
    """None where there is nothing, or nothing whole."""
    try:
        boxes = np.load(path, allow_pickle=False)
    except Exception:  # a damaged header can raise nearly anything
        return None
    whole = isinstance(boxes, np.ndarray) and boxes.dtype == np.float32 and boxes.ndim == 2 and boxes.shape[1] == 4
    return boxes if whole and np.isfinite(boxes).all() else None
