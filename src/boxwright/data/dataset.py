"""An annotated set of images: class names, paths and boxes, in flat arrays that worker processes share uncopied."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from boxwright.types import Size, Target

if TYPE_CHECKING:
    from torch import Tensor

_BOX_COLUMNS = ("boxes", "labels", "crowd", "difficult", "area")


@dataclass(frozen=True, eq=False)
class Strings:
    """A column of strings as one buffer: a list of str would be copied page by page into every forked worker.

    buffer   (B,) uint8, the strings in UTF-8, concatenated
    offsets  (N + 1,) int64, the start of each in `buffer`
    """

    buffer: np.ndarray
    offsets: np.ndarray

    @classmethod
    def pack(cls, strings: Iterable[str]) -> Strings:
        encoded = [os.fsencode(string) for string in strings]
        offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:
        return os.fsdecode(self.buffer[self.offsets[index] : self.offsets[index + 1]].tobytes())

    def select(self, indices: np.ndarray) -> Strings:
        rows, offsets = _ragged_rows(self.offsets, indices)
        return Strings(self.buffer[rows], offsets)


@dataclass(frozen=True, eq=False)
class Dataset:
    """N annotated images with M boxes of K classes; the boxes of image i are rows offsets[i] to offsets[i + 1].

    `dataset[i]` is an image and its `Target`.

    names      the K classes; the name is the identity of a class, the label only its index here
    paths      (N,) image files
    ids        (N,) int64 or strings, as annotated
    sizes      (N, 2) int64, height and width of the upright image, or as stored where only that was annotated
    offsets    (N + 1,) int64
    boxes      (M, 4) float32, xyxy in absolute pixels, inside the image
    labels     (M,) int64, 0..K-1
    crowd      (M,) bool
    difficult  (M,) bool
    area       (M,) float32, square pixels; as annotated, such as that of a mask, and scaled if its box is; otherwise
               that of the box
    """

    names: tuple[str, ...]
    paths: Strings
    ids: np.ndarray | Strings
    sizes: np.ndarray
    offsets: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray
    area: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        return f"Dataset({len(self)} images, {len(self.boxes)} boxes, {len(self.names)} classes)"

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        """One image, (3, H, W) uint8 RGB, and its objects in its pixels: what a DataLoader of torch reads.

        `boxwright.data.batch.Collate` makes batches of them. Raises ImageError for an image that cannot be read.
        """
        import torch  # here, as in `target`

        from boxwright.data.image import read_annotated

        index = self._checked(index + len(self) if index < 0 else index)
        image, view = read_annotated(self.path(index), self.size(index))
        return torch.from_numpy(image).permute(2, 0, 1).contiguous(), view.move(self.target(index))

    def path(self, index: int) -> Path:
        return Path(self.paths[self._checked(index)])

    def image_id(self, index: int) -> int | str:
        value = self.ids[self._checked(index)]
        return value if isinstance(value, str) else int(value)

    def size(self, index: int) -> Size:
        return Size(*self.sizes[self._checked(index)].tolist())

    def target(self, index: int) -> Target:
        """The objects of one image, as copies."""
        import torch  # here, because reading and checking annotations needs none

        self._checked(index)
        rows = slice(self.offsets[index], self.offsets[index + 1])
        return Target(*(torch.from_numpy(getattr(self, name)[rows].copy()) for name in _BOX_COLUMNS))

    def counts(self) -> dict[str, int]:
        """The number of boxes of each class, crowds and difficult ones included."""
        return dict(zip(self.names, np.bincount(self.labels, minlength=len(self.names)).tolist(), strict=True))

    def select(self, indices: Sequence[int] | np.ndarray) -> Dataset:
        """The chosen images with their boxes, in the order given; indices may repeat."""
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(chosen) and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise IndexError(f"select takes image indices 0..{len(self) - 1}, got {chosen.min()}..{chosen.max()}")
        rows, offsets = _ragged_rows(self.offsets, chosen)
        return replace(
            self._with_rows(rows, offsets),
            paths=self.paths.select(chosen),
            ids=self.ids.select(chosen) if isinstance(self.ids, Strings) else self.ids[chosen],
            sizes=self.sizes[chosen],
        )

    def restrict(self, names: Sequence[str]) -> Dataset:
        """All images, with only the boxes of these classes, labelled in this order, such as that of a checkpoint.

        Raises ValueError for an unknown or a repeated class.
        """
        unknown = [name for name in names if name not in self.names]
        if unknown or len(set(names)) != len(names):
            raise ValueError(
                f"expected different classes out of {', '.join(self.names)}; got {', '.join(names)}"
                + (f"; unknown: {', '.join(unknown)}" if unknown else ", one of them twice")
            )
        new_label = np.full(len(self.names), -1, np.int64)  # (K,) by old label
        new_label[[self.names.index(name) for name in names]] = np.arange(len(names))
        kept = self.keep_boxes(new_label[self.labels] >= 0)
        return replace(kept, names=tuple(names), labels=new_label[kept.labels])

    def keep_boxes(self, keep: np.ndarray) -> Dataset:
        """All images, with only these boxes; `keep` (M,) bool."""
        offsets = np.concatenate([[0], np.cumsum(keep)]).astype(np.int64)[self.offsets]
        return self._with_rows(np.flatnonzero(keep), offsets)

    def owners(self) -> np.ndarray:
        """The index of each box's image, (M,) int64."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def _with_rows(self, rows: np.ndarray, offsets: np.ndarray) -> Dataset:
        return replace(self, offsets=offsets, **{name: getattr(self, name)[rows] for name in _BOX_COLUMNS})

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"image index {index} is not in 0..{len(self) - 1}")
        return index


def concatenate(datasets: Sequence[Dataset]) -> Dataset:
    """All images of datasets with the same classes. Ids are kept where each is there once, otherwise counted from 1."""
    ids = [dataset.image_id(i) for dataset in datasets for i in range(len(dataset))]
    if len(set(ids)) < len(ids) or len(set(map(type, ids))) > 1:
        ids = list(range(1, len(ids) + 1))
    return replace(
        datasets[0],
        paths=Strings.pack(dataset.paths[i] for dataset in datasets for i in range(len(dataset))),
        ids=Strings.pack(map(str, ids)) if isinstance(ids[0], str) else np.array(ids, np.int64),
        sizes=np.concatenate([dataset.sizes for dataset in datasets]),
        offsets=np.cumsum([0, *np.concatenate([np.diff(dataset.offsets) for dataset in datasets])], dtype=np.int64),
        **{column: np.concatenate([getattr(dataset, column) for dataset in datasets]) for column in _BOX_COLUMNS},
    )


def _ragged_rows(offsets: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the chosen segments, concatenated, and the offsets of the segments in the result."""
    starts, lengths = offsets[chosen], np.diff(offsets)[chosen]
    new_offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows = np.repeat(starts - new_offsets[:-1], lengths) + np.arange(new_offsets[-1])
    return rows, new_offsets
