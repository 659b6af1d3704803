"""Precomputed proposals: one file with the boxes of many images, by the content of the image."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from boxwright.files import write_atomically
from boxwright.proposals.cache import image_key
from boxwright.untrusted.numpy_files import Npz

_MARK = "boxwright_proposals"


@dataclass(frozen=True)
class ProposalsFromFile:
    """Returns the boxes in a file.

    path   .safetensors or .npz: for each image an array (P, 4) xyxy in its pixels, best first, under the name
           `image_key(image)`. `boxwright propose` and `write_proposals` write such a file.
    count  at most so many boxes, the best ones; all if not given

    The file is opened at the first image, so that a detector trained with it loads without it, for use with other
    proposals. Opening raises ValueError for any other kind of file, FileNotFoundError for a missing one.
    """

    path: Path
    count: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        if self.path.suffix.lower() not in (".safetensors", ".npz"):
            raise ValueError(f"proposals are read from a .safetensors or .npz file, got {self.path}")

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """A uint8 RGB image (H, W, 3) -> (P, 4) float32; ValueError for an image that is not in the file."""
        key = image_key(image)
        arrays = _open(self.path)
        if key not in arrays.keys():  # noqa: SIM118, safetensors' handle is not a mapping
            height, width = image.shape[:2]
            raise ValueError(
                f"{self.path} has no proposals for this image of {width}x{height} pixels (key {key}); "
                f"add them with: boxwright propose IMAGE --out {self.path}"
            )
        boxes = _get(arrays, key)
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
            raise ValueError(f"{self.path}: expected finite boxes (P, 4) under {key}, got an array {boxes.shape}")
        return boxes[: self.count].astype(np.float32)

    def has(self, image: np.ndarray) -> bool:
        return image_key(image) in _open(self.path).keys()  # noqa: SIM118


def read_proposals(path: str | Path, to_extend: bool = False) -> dict[str, np.ndarray]:
    """All boxes of a file, by `image_key`.

    `to_extend` raises ValueError unless `write_proposals` wrote it: to write it again would lose anything else in it.
    """
    arrays = _open(Path(path))
    if to_extend and _MARK not in (arrays.metadata() or {}):
        raise ValueError(f"{path} is no file of proposals that boxwright wrote, and is not replaced; give another")
    return {key: _get(arrays, key) for key in arrays.keys()}  # noqa: SIM118


def write_proposals(path: str | Path, boxes: Mapping[str, np.ndarray], proposer: str) -> None:
    """Write a .safetensors file that `ProposalsFromFile` reads, atomically.

    boxes     by `image_key`, (P, 4) each
    proposer  what computed them, kept in the file's metadata
    """
    from safetensors.numpy import save

    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        raise ValueError(f"proposals are written to a .safetensors file, got {path}")
    arrays = {key: np.ascontiguousarray(of_image, np.float32) for key, of_image in boxes.items()}
    write_atomically(path, save(arrays, metadata={_MARK: "1", "proposer": proposer}))


def _get(arrays: Any, key: str) -> np.ndarray:
    return arrays[key] if isinstance(arrays, Npz) else arrays.get_tensor(key)


def _open(path: Path) -> Any:
    """The open file; each process opens its own, since a shared handle has one read position for both."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; write it with: boxwright propose DATA --out {path}")
    stat = path.stat()
    return _opened(path, os.getpid(), stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=8)
def _opened(path: Path, process: int, changed: int, size: int) -> Any:
    try:
        if path.suffix.lower() == ".npz":
            return Npz(path)
        from safetensors import safe_open

        return safe_open(path, framework="np")
    except OSError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything
        raise ValueError(f"{path} cannot be read as proposals ({error}); write it again: boxwright propose") from error
