"""The images of a batch read, augmented, resized and padded, in this process or in workers."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from boxwright.boxes.geometry import clip
from boxwright.data.augment import Augment, Sample
from boxwright.data.image import ImageError, ImageSource, read_reduced
from boxwright.data.preprocess import Preprocess, Resize
from boxwright.types import Size, Target

Propose = Callable[[np.ndarray], np.ndarray]
"""From an image, uint8 (H, W, 3), to boxes (P, 4) in its pixels, best first."""

ORDER, ZOOM, SAMPLE = range(3)  # what a random number is drawn for

PROPOSAL = -1
"""The label of a proposal on its way: it rides with the target as a crowd region, and whatever moves boxes moves it."""


class AnnotatedImages(Protocol):
    """What is needed of a `Dataset`."""

    def __len__(self) -> int: ...
    def path(self, index: int, /) -> ImageSource: ...
    def size(self, index: int, /) -> Size: ...
    def target(self, index: int, /) -> Target: ...


class Task(NamedTuple):
    """A batch to load: images by index, with what `Preprocess` calls their zoom."""

    epoch: int
    indices: list[int]
    zooms: list[float]


class Loaded(NamedTuple):
    """A batch on its way out of a worker: targets as arrays, since each tensor would cost a shared-memory file."""

    pixels: Tensor  # (N, H, W, 3) uint8 or float32
    sizes: Tensor  # (N, 2) int64
    targets: list[tuple[np.ndarray, ...]]
    indices: list[int]
    resizes: list[Resize]
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
        images, targets, indices, resizes = [], [], [], []
        before = set(self.broken)
        for index, zoom in zip(task.indices, task.zooms, strict=True):
            found = self._sample(index, zoom, task.epoch)
            if found is None:
                continue
            index, sample = found
            image, resize = self.preprocess(sample.image, sample.zoom)
            images.append(image)
            targets.append(tuple(column.numpy() for column in vars(_resized(sample.target, resize)).values()))
            indices.append(index)
            resizes.append(resize)
        pixels, sizes = pad(images, self.preprocess) if images else (torch.empty(0), torch.empty(0))
        broken = {index: message for index, message in self.broken.items() if index not in before}
        return Loaded(pixels, sizes, targets, indices, resizes, broken)

    def _sample(self, index: int, zoom: float, epoch: int) -> tuple[int, Sample] | None:
        """The augmented sample, or the next that can be read in its place; None where only this one is wanted."""
        found = self._this_or_next(index, zoom) if self.replace_broken else self._first_readable([index], zoom)
        if found is None:
            return None
        index, sample = found
        if self.augment is not None:
            sample = self.augment(sample, generator(SAMPLE, self.seed, epoch, index), self._another)
        return index, sample

    def _another(self, rng: np.random.Generator) -> Sample:
        """A random sample for a mosaic, without augmentation of its own."""
        return self._this_or_next(int(rng.integers(len(self.dataset))), 1.0)[1]

    def _this_or_next(self, index: int, zoom: float) -> tuple[int, Sample]:
        count = len(self.dataset)
        found = self._first_readable(((index + step) % count for step in range(count)), zoom)
        if found is None:
            raise ImageError(f"none of the {count} images can be read; the first: {next(iter(self.broken.values()))}")
        return found

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
        # Twice the pixels needed leave something to crop from. Evaluation decodes in full, as the predictor does.
        whole = self.augment is None or self.propose is not None  # proposals belong to the image as it is
        at_least = None if whole else 2 * min(self.preprocess.size(size, zoom))
        image, full = read_reduced(path, at_least)
        if full != size and full == size[::-1]:  # annotated with a tool that does not know EXIF
            image, full = read_reduced(path, at_least, upright=False)
        reduced = Resize(full, Size(*image.shape[:2]))
        if reduced.after != reduced.before:
            target = _resized(target, reduced)
        if self.propose is not None:
            target = _with_proposals(target, self.propose(image))
        return Sample(image, _inside(target, reduced.after), zoom)


class Pool:
    """Worker processes that load tasks in order, each epoch's a few ahead of their use."""

    def __init__(self, load: Load, workers: int) -> None:
        from torch.utils.data import DataLoader

        self._todo: list[Task] = []
        self._loader = DataLoader(
            load,  # type: ignore[arg-type]
            sampler=self._todo,
            batch_size=None,
            num_workers=workers,
            persistent_workers=True,
            collate_fn=_as_it_is,  # type: ignore[arg-type]
            worker_init_fn=_ignore_interrupt,
            generator=torch.Generator(),  # its own: drawing from the global one would disturb what comes after
        )

    def __call__(self, tasks: list[Task]) -> Iterable[Loaded]:
        self._todo[:] = tasks
        return iter(self._loader)


def _as_it_is(loaded: Loaded) -> Loaded:
    return loaded


def _ignore_interrupt(worker: int) -> None:
    """Ctrl-C is the main process's business; workers end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def pad(images: Sequence[np.ndarray], preprocess: Preprocess) -> tuple[Tensor, Tensor]:
    """-> pixels (N, H, W, 3) in the dtype of `preprocess`, sizes (N, 2) int64"""
    sizes = [Size(*image.shape[:2]) for image in images]
    height, width = preprocess.canvas(sizes)
    if any(size.height > height or size.width > width for size in sizes):
        raise ValueError(f"images fit the canvas {height}x{width}, got {sizes}; resize them with this Preprocess")
    canvas = np.full((len(images), height, width, 3), preprocess.fill, preprocess.dtype)
    for place, image, size in zip(canvas, images, sizes, strict=True):
        place[: size.height, : size.width] = image
    return torch.from_numpy(canvas), torch.tensor(sizes, dtype=torch.int64)


def _with_proposals(target: Target, proposals: np.ndarray) -> Target:
    boxes = torch.cat([target.boxes, torch.as_tensor(proposals, dtype=torch.float32).reshape(-1, 4)])
    new = len(boxes) - len(target)
    labels = nn.functional.pad(target.labels, (0, new), value=PROPOSAL)
    crowd = nn.functional.pad(target.crowd, (0, new), value=True)
    difficult = nn.functional.pad(target.difficult, (0, new))
    return Target(boxes, labels, crowd, difficult, nn.functional.pad(target.area, (0, new)))


def _inside(target: Target, size: Size) -> Target:
    """The target without what is outside the image, and without boxes that have no area."""
    target = target.replace(boxes=clip(target.boxes, size))
    return target[(target.boxes[:, 2:] > target.boxes[:, :2]).all(dim=1)]


def _resized(target: Target, resize: Resize) -> Target:
    growth = (resize.after.height * resize.after.width) / (resize.before.height * resize.before.width)
    return target.replace(boxes=resize.forward(target.boxes), area=target.area * growth)
