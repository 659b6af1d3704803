"""The images of a batch read, augmented, resized and padded, in this process or in workers."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from boxwright.boxes.view import View
from boxwright.data.augment import Augment, Sample
from boxwright.data.image import ImageError, ImageSource, read_annotated
from boxwright.data.preprocess import Preprocess
from boxwright.types import Size, Target

Propose = Callable[[np.ndarray], np.ndarray]
"""From an image, uint8 (H, W, 3), to boxes (P, 4) in its pixels, best first."""

ORDER, ZOOM, SAMPLE = range(3)  # the purposes of random numbers, each with a generator of its own


class AnnotatedImages(Protocol):
    """The part of a `Dataset` that loading needs."""

    def __len__(self) -> int: ...
    def path(self, index: int, /) -> ImageSource: ...
    def size(self, index: int, /) -> Size: ...
    def target(self, index: int, /) -> Target: ...


class Task(NamedTuple):
    """A batch to load: images by index, and their zooms (see `Preprocess`)."""

    epoch: int
    indices: list[int]
    zooms: list[float]


class Loaded(NamedTuple):
    """A batch on its way out of a worker: boxes as arrays, since each tensor would cost a shared-memory file."""

    pixels: Tensor  # (N, H, W, 3) uint8 or float32
    sizes: Tensor  # (N, 2) int64
    targets: list[tuple[np.ndarray, ...]]  # the columns of each Target
    proposals: list[np.ndarray]  # (P, 4) float32
    indices: list[int]
    views: list[View]
    broken: dict[int, str]


@dataclass
class Load:
    """Loads the batch of a task; this is what a worker process runs."""

    dataset: AnnotatedImages
    preprocess: Preprocess
    augment: Augment | None
    seed: int
    replace_broken: bool
    propose: Propose | None = None

    def __post_init__(self) -> None:
        self.broken: dict[int, str] = {}

    def __getitem__(self, task: Task) -> Loaded:
        samples, indices, views = [], [], []
        before = set(self.broken)
        for index, zoom in zip(task.indices, task.zooms, strict=True):
            loaded = self._sample(index, zoom, task.epoch)
            if loaded is None:
                continue
            index, sample = loaded
            image, view = self.preprocess(sample.image, sample.zoom)
            samples.append(sample.seen(view, image))
            indices.append(index)
            views.append(view)
        images = [sample.image for sample in samples]
        pixels, sizes = pad(images, self.preprocess) if images else (torch.empty(0), torch.empty(0))
        targets = [tuple(column.numpy() for column in vars(sample.target).values()) for sample in samples]
        proposals = [sample.proposals.numpy() for sample in samples]
        broken = {index: message for index, message in self.broken.items() if index not in before}
        return Loaded(pixels, sizes, targets, proposals, indices, views, broken)

    def _sample(self, index: int, zoom: float, epoch: int) -> tuple[int, Sample] | None:
        """The augmented sample with its index; for one that cannot be read the next that can, or None."""
        readable = self._this_or_next(index, zoom) if self.replace_broken else self._first_readable([index], zoom)
        if readable is None:
            return None
        index, sample = readable
        if self.augment is not None:
            sample = self.augment(sample, generator(SAMPLE, self.seed, epoch, index), self._another)
        return index, sample

    def _another(self, rng: np.random.Generator) -> Sample:
        """A random sample for a mosaic, without augmentation of its own."""
        return self._this_or_next(int(rng.integers(len(self.dataset))), 1.0)[1]

    def _this_or_next(self, index: int, zoom: float) -> tuple[int, Sample]:
        count = len(self.dataset)
        readable = self._first_readable(((index + step) % count for step in range(count)), zoom)
        if readable is None:
            raise ImageError(f"none of the {count} images can be read; the first: {next(iter(self.broken.values()))}")
        return readable

    def _first_readable(self, candidates: Iterable[int], zoom: float) -> tuple[int, Sample] | None:
        for index in candidates:
            if index in self.broken:
                continue
            try:
                return index, self._read(index, zoom)
            except ImageError as error:
                self.broken[index] = str(error)
        return None

    def _read(self, index: int, zoom: float) -> Sample:
        path, size, target = self.dataset.path(index), self.dataset.size(index), self.dataset.target(index)
        # Training decodes to twice the pixels it needs, for crops; evaluation in full, as the predictor does. So do
        # proposals: they are cached by the pixels of the full image.
        whole = self.augment is None or self.propose is not None
        at_least = None if whole else 2 * min(self.preprocess.size(size, zoom))
        image, reduced = read_annotated(path, size, at_least)
        sample = Sample(image, reduced.move(target), zoom)
        if self.propose is not None:
            sample = replace(sample, proposals=as_boxes(self.propose(image)))
        return sample.clipped()


class LoaderWorkers:
    """Worker processes that load tasks in order, a few tasks ahead of their use."""

    def __init__(self, load: Load, workers: int) -> None:
        from torch.utils.data import DataLoader

        self._todo: list[Task] = []
        self._loader = DataLoader(
            load,  # type: ignore[arg-type]
            sampler=self._todo,
            batch_size=None,
            num_workers=workers,
            persistent_workers=True,
            collate_fn=_unchanged,  # type: ignore[arg-type]
            worker_init_fn=_ignore_interrupt,
            generator=torch.Generator(),  # drawing from the global one would change the random numbers after it
        )

    def __call__(self, tasks: list[Task]) -> Iterable[Loaded]:
        self._todo[:] = tasks
        return iter(self._loader)


def _unchanged(loaded: Loaded) -> Loaded:
    return loaded


def _ignore_interrupt(worker: int) -> None:
    """Ctrl-C reaches every process; only the main one handles it, and the workers end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def as_boxes(proposals: np.ndarray) -> Tensor:
    """What a proposer returns, as (P, 4) float32."""
    return torch.as_tensor(proposals, dtype=torch.float32).reshape(-1, 4)


def pad(images: Sequence[np.ndarray], preprocess: Preprocess) -> tuple[Tensor, Tensor]:
    """Resized images (H, W, 3) to pixels (N, H, W, 3) in the dtype of `preprocess`, and sizes (N, 2) int64."""
    sizes = [Size(*image.shape[:2]) for image in images]
    height, width = preprocess.canvas(sizes)
    if any(size.height > height or size.width > width for size in sizes):
        raise ValueError(f"images fit the canvas {height}x{width}, got {sizes}; resize them with this Preprocess")
    canvas = np.full((len(images), height, width, 3), preprocess.fill, preprocess.dtype)
    for area, image, size in zip(canvas, images, sizes, strict=True):
        area[: size.height, : size.width] = image
    return torch.from_numpy(canvas), torch.tensor(sizes, dtype=torch.int64)
