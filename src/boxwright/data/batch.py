"""Batches of images and targets; what happens to a sample depends on (seed, epoch, index) alone."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from boxwright.boxes.view import View
from boxwright.data.augment import Augment, MultiScale
from boxwright.data.load import (
    ORDER,
    ZOOM,
    AnnotatedImages,
    Load,
    Loaded,
    LoaderWorkers,
    Propose,
    Task,
    generator,
    pad,
)
from boxwright.data.preprocess import Preprocess
from boxwright.types import Images, Size, Target

__all__ = ["AnnotatedImages", "Batch", "Batches", "Propose", "to_images"]

_ASPECT_RUN, _SIZE_RUN = 64, 8  # batches whose images are sorted by aspect, and within those by size


class Batch(NamedTuple):
    """A batch of images with, for each, its target, its index in the dataset, and the view that `Preprocess` made.

    Without augmentation the view comes from the image as it is in the dataset.
    """

    images: Images
    targets: list[Target]
    indices: list[int]
    views: list[View]


def to_images(
    images: Sequence[np.ndarray],
    preprocess: Preprocess | None = None,
    proposals: Sequence[Tensor] | None = None,
) -> Images:
    """Resized images (H, W, 3), padded at the right and the bottom to the canvas of `preprocess`.

    proposals  (P, 4) for each image, in pixels of the resized one; the shorter lists end in rows of zeros
    """
    pixels, sizes = pad(images, preprocess or Preprocess())
    return Images(_to_float(pixels), sizes, None if proposals is None else _stack(proposals))


class Batches:
    """Batches of a dataset: shuffled and augmented to train on, or in order to evaluate.

    augment     None for evaluation
    batch_size  images per batch and rank
    seed        random numbers depend on it, the epoch and the image alone; the number of workers changes nothing
    workers     processes that load ahead, kept from epoch to epoch, one epoch at a time; 0 loads in this process
    rank, world this process's share: of every `batch_size * world` images each rank gets `batch_size`, so that all
                ranks see equally many batches; the first images come twice if the dataset does not divide evenly
    shuffle     a new order each epoch
    group       put images of like shape into a batch, which saves padding
    drop_last   leave out the last batch of a shuffled epoch if it is not full; an only batch stays
    device      where images and targets go; pixels are transferred in the dtype of `preprocess`
    propose     from an image to boxes (P, 4) in its pixels, best first: `Detector.propose`. They move with the image
                and become the proposals of the `Images`, as many rows as the longest list of the batch

    A sample that cannot be read is replaced by the next one that can, or left out where `shuffle` is off. One
    warning at the end of the epoch counts them; `broken` has them all, index to message.
    """

    def __init__(
        self,
        dataset: AnnotatedImages,
        preprocess: Preprocess,
        augment: Augment | None = None,
        batch_size: int = 8,
        *,
        seed: int = 0,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        shuffle: bool = True,
        group: bool = True,
        drop_last: bool = True,
        device: torch.device | str = "cpu",
        propose: Propose | None = None,
    ) -> None:
        if len(dataset) == 0:
            raise ValueError("a dataset needs at least one image to make batches of; this one has none")
        if batch_size < 1 or workers < 0 or not 0 <= rank < world:
            raise ValueError(
                "expected batch_size >= 1, workers >= 0 and 0 <= rank < world; "
                f"got batch_size={batch_size}, workers={workers}, rank={rank}, world={world}"
            )
        self.dataset, self.preprocess, self.augment = dataset, preprocess, augment
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.workers, self.device = workers, torch.device(device)
        self.shuffle, self.group, self.drop_last = shuffle, group and shuffle, drop_last and shuffle
        self.broken: dict[int, str] = {}
        self._load = Load(dataset, preprocess, augment, seed, shuffle, propose)
        self._processes: LoaderWorkers | None = None
        self._sizes = np.array([dataset.size(index) for index in range(len(dataset))])  # (N, 2)

    @classmethod
    def in_order(
        cls,
        dataset: AnnotatedImages,
        preprocess: Preprocess,
        batch_size: int = 8,
        *,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        propose: Propose | None = None,
    ) -> Batches:
        """For evaluation: every image, unchanged. With several ranks the last may come twice: count each index once."""
        return cls(
            dataset,
            preprocess,
            batch_size=batch_size,
            workers=workers,
            rank=rank,
            world=world,
            shuffle=False,
            device=device,
            propose=propose,
        )

    def __len__(self) -> int:
        """Batches per epoch and rank."""
        full, rest = divmod(len(self.dataset), self.batch_size * self.world)
        return full + (rest > 0 and (full == 0 or not self.drop_last))

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(0)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on; earlier ones are not loaded."""
        tasks = self._tasks(epoch)[start:]
        known = len(self.broken)
        try:
            for loaded in self._loaded(tasks):
                self.broken.update(loaded.broken)
                if loaded.indices:
                    yield self._batch(loaded)
        finally:
            if len(self.broken) > known:
                _warn(self.broken, known, len(self.dataset), self.shuffle)

    def _loaded(self, tasks: list[Task]) -> Iterable[Loaded]:
        if self.workers == 0:
            return map(self._load.__getitem__, tasks)
        if self._processes is None:
            self._processes = LoaderWorkers(self._load, self.workers)
        return self._processes(tasks)

    def _batch(self, loaded: Loaded) -> Batch:
        targets = [Target(*map(torch.from_numpy, columns)).to(self.device) for columns in loaded.targets]
        proposals = _stack([torch.from_numpy(boxes) for boxes in loaded.proposals]).to(self.device)
        images = Images(_to_float(loaded.pixels.to(self.device)), loaded.sizes.to(self.device), proposals)
        return Batch(images, targets, loaded.indices, loaded.views)

    def _tasks(self, epoch: int) -> list[Task]:
        """The tasks of this rank in an epoch, one per batch."""
        count, together = len(self.dataset), self.batch_size * self.world
        rng = generator(ORDER, self.seed, epoch)
        order = rng.permutation(count) if self.shuffle else np.arange(count)
        zooms = np.ones(count)
        if self.augment is not None:
            zooms = MultiScale(*self.augment.scale).draw(generator(ZOOM, self.seed, epoch), count)
        whole, rest = np.split(order, [count - count % together])
        if self.group:
            sizes = zip(self._sizes.tolist(), zooms.tolist(), strict=True)
            resized = np.array([self.preprocess.size(Size(*size), zoom) for size, zoom in sizes])  # (N, 2)
            whole = rng.permutation(_grouped(whole, resized, together).reshape(-1, together))
        batches = list(whole.reshape(-1, together))
        if len(batches) < len(self):
            batches.append(np.concatenate((rest, np.resize(order, -len(rest) % self.world))))
        shares = [batch[self.rank :: self.world] for batch in batches]
        return [Task(epoch, share.tolist(), zooms[share].tolist()) for share in shares]


def _grouped(order: np.ndarray, sizes: np.ndarray, together: int) -> np.ndarray:
    """The order with images of like size (N, 2) side by side: sorted by aspect in long runs, by size in short ones."""
    aspects, sides = sizes[:, 1] / sizes[:, 0], sizes.min(axis=1)
    order = _sorted_in_runs(order, aspects, _ASPECT_RUN * together)
    return _sorted_in_runs(order, sides, _SIZE_RUN * together)


def _sorted_in_runs(order: np.ndarray, keys: np.ndarray, run: int) -> np.ndarray:
    runs = [order[start : start + run] for start in range(0, len(order), run)]
    return np.concatenate([order[:0], *(indices[np.argsort(keys[indices], kind="stable")] for indices in runs)])


def _to_float(pixels: Tensor) -> Tensor:
    """(N, H, W, 3) uint8 or float32 -> (N, 3, H, W) float32, contiguous"""
    return pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)


def _stack(proposals: Sequence[Tensor]) -> Tensor:
    """Boxes (P, 4) of each image to (N, the greatest P, 4)."""
    return nn.utils.rnn.pad_sequence(list(proposals), batch_first=True)


def _warn(broken: dict[int, str], known: int, count: int, replaced: bool) -> None:
    new = list(broken.values())[known:]
    consequence = "were replaced by others" if replaced else "were left out"
    shown = "\n  ".join(new[:5]) + (f"\n  and {len(new) - 5} more" if len(new) > 5 else "")
    warnings.warn(f"{len(broken)} of {count} images cannot be read and {consequence}:\n  {shown}", stacklevel=3)
