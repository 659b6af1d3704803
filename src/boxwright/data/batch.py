"""Batches of images and targets: images read, augmented, resized and padded, in this process or in workers.

What happens to a sample depends on (seed, epoch, index) alone.
"""

from __future__ import annotations

import math
import signal
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import data

from boxwright.boxes.view import View
from boxwright.data.augment import Augment, MultiScale, Sample
from boxwright.data.image import ImageError, ImageSource, read_annotated
from boxwright.data.preprocess import Preprocess
from boxwright.device import upload
from boxwright.types import Images, Propose, Size, Target

Key = TypeVar("Key")

_ASPECT_RUN, _SIZE_RUN = 64, 8  # batches whose images are sorted by aspect, and within those by size
ORDER, ZOOM, SAMPLE = range(3)  # the purposes of random numbers, each with a generator of its own


class AnnotatedImages(Protocol):
    """The part of a `Dataset` that loading needs."""

    def __len__(self) -> int: ...
    def path(self, index: int, /) -> ImageSource: ...
    def size(self, index: int, /) -> Size: ...
    def target(self, index: int, /) -> Target: ...


class Batch(NamedTuple):
    """A batch of images with, for each, its target, its index in the dataset, and the view that `Preprocess` made.

    Without augmentation the view comes from the image as it is in the dataset.
    """

    images: Images
    targets: list[Target]
    indices: list[int]
    views: list[View]


def to_images(
    images: Sequence[np.ndarray], preprocess: Preprocess | None = None, proposals: Sequence[Tensor] | None = None,
    device: torch.device | str = "cpu",
) -> Images:  # fmt: skip
    """Resized images (H, W, 3), padded at the right and the bottom to the canvas of `preprocess`.

    proposals  (P, 4) for each image, in pixels of the resized one; the shorter lists end in rows of zeros
    device     where they go; pixels are transferred in the dtype of `preprocess`
    """
    pixels, sizes = pad(images, preprocess or Preprocess())
    stacked = None if proposals is None else nn.utils.rnn.pad_sequence(list(proposals), batch_first=True)
    return _on(device, pixels, sizes, stacked)


@dataclass(frozen=True)
class Collate:
    """For a DataLoader of torch: samples of a `Dataset` to `Images` and targets, as `Detector.loss` takes them.

    DataLoader(dataset, batch_size=4, shuffle=True, collate_fn=Collate(Preprocess()))

    Images are resized by `preprocess`, or as they are where it is None, padded to one canvas, and their boxes moved
    along. A sample may come from any dataset: a uint8 tensor (3, H, W), RGB, and a `Target` in its pixels.
    """

    preprocess: Preprocess | None = None

    def __call__(self, samples: Sequence[tuple[Tensor, Target]]) -> tuple[Images, list[Target]]:
        images, targets = [], []
        for image, target in samples:
            if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8:
                raise ValueError(
                    f"a sample's image is uint8 (3, H, W), got {image.dtype} {tuple(image.shape)}; normalising is part "
                    "of the detector"
                )
            pixels = image.permute(1, 2, 0).contiguous().numpy()
            if self.preprocess is not None:
                pixels, view = self.preprocess(pixels)
                target = view.move(target)
            images.append(pixels)
            targets.append(target)
        return to_images(images, self.preprocess), targets


class Batches:
    """Batches of a dataset: shuffled and augmented to train on, or in order to evaluate.

    augment     None for evaluation
    batch_size  images per batch and rank
    seed        random numbers depend on it, the epoch and the image alone; the number of workers changes nothing
    workers     processes that load ahead, kept from epoch to epoch, one epoch at a time; 0 loads in this process
    rank, world this process's share: of every `batch_size * world` images each rank gets `batch_size`, so that all
                ranks see equally many batches; the first images come twice if the dataset does not divide evenly
    shuffle     a new order each epoch; without it, a batch holds images of one canvas only (see `for_evaluation`)
    group       put images of like shape into a batch of a shuffled epoch, which saves padding
    drop_last   leave out the last batch of a shuffled epoch if it is not full; an only batch stays
    device      where images and targets go; pixels are transferred in the dtype of `preprocess`
    propose     from an image to boxes (P, 4) in its pixels, best first: `Detector.propose`. They move with the image
                and become the proposals of the `Images`, as many rows as the longest list of the batch

    A sample that cannot be read is replaced by the next one that can, or left out where `shuffle` is off. One
    warning at the end of the epoch counts them; `broken` has them all, index to message.

    light_from  the epoch, counted from 0, from which on only `augment.light()` is applied. `Training` sets it
    """

    light_from: float = math.inf

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
        self._todo: list[Task] = []  # read by the sampler of the worker processes
        self._workers: data.DataLoader[LoadedTask] | None = None
        self._sizes = np.array([dataset.size(index) for index in range(len(dataset))])  # (N, 2)

    @classmethod
    def for_evaluation(
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
        """Every image, unchanged, in batches of images that have the same canvas by themselves.

        A network sees the padding of its images. In these batches an image is padded as it would be alone, so its
        detections do not depend on `batch_size`, up to rounding. Batches follow the order of their first images, and
        are not full where a canvas has too few images. With several ranks some images come twice: count each index
        once.
        """
        return cls(
            dataset, preprocess, batch_size=batch_size, workers=workers, rank=rank, world=world, shuffle=False,
            device=device, propose=propose,
        )  # fmt: skip

    def __len__(self) -> int:
        """Batches per epoch and rank."""
        if not self.shuffle:
            return len(self._tasks(0))
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
                yield from map(self._batch, loaded.batches)
        finally:
            if len(self.broken) > known:
                _warn(self.broken, known, len(self.dataset), self.shuffle)

    def _loaded(self, tasks: list[Task]) -> Iterable[LoadedTask]:
        if self.workers == 0:
            return map(self._load.__getitem__, tasks)
        self._todo[:] = tasks
        if self._workers is None:
            self._workers = _start_workers(self._load, self._todo, max(1, min(self.workers, len(tasks))))
        return iter(self._workers)

    def _batch(self, loaded: LoadedBatch) -> Batch:
        targets = [Target(*map(torch.from_numpy, columns)).to(self.device, True) for columns in loaded.targets]
        proposals = nn.utils.rnn.pad_sequence(list(map(torch.from_numpy, loaded.proposals)), batch_first=True)
        images = _on(self.device, loaded.pixels, loaded.sizes, proposals)
        return Batch(images, targets, loaded.indices, loaded.views)

    def _tasks(self, epoch: int) -> list[Task]:
        """The tasks of this rank in an epoch, one per batch."""
        light, zooms = epoch >= self.light_from, np.ones(len(self.dataset))
        if self.augment is not None:
            zooms = MultiScale(*self.augment.scale).draw(generator(ZOOM, self.seed, epoch), len(zooms))
        batches = self._shuffled(epoch, zooms) if self.shuffle else self._by_canvas(zooms)
        shares = [batch[self.rank :: self.world] for batch in batches]
        return [Task(epoch, share.tolist(), zooms[share].tolist(), light) for share in shares]

    def _shuffled(self, epoch: int, zooms: np.ndarray) -> list[np.ndarray]:
        """The indices of each batch of all ranks together."""
        count, together = len(self.dataset), self.batch_size * self.world
        rng = generator(ORDER, self.seed, epoch)
        order = rng.permutation(count)
        whole, rest = np.split(order, [count - count % together])
        if self.group:
            whole = rng.permutation(_grouped(whole, np.array(self._resized(zooms)), together).reshape(-1, together))
        batches = list(whole.reshape(-1, together))
        if len(batches) < len(self):
            batches.append(np.concatenate((rest, np.resize(order, -len(rest) % self.world))))
        return batches

    def _by_canvas(self, zooms: np.ndarray) -> list[np.ndarray]:
        """As `_shuffled`, but in order, and each batch of one canvas."""
        together = self.batch_size * self.world
        batches = []
        for group in grouped(self.preprocess.canvas([size]) for size in self._resized(zooms)).values():
            group = np.resize(group, len(group) + -len(group) % self.world)  # the first ones again at the end
            batches += [group[start : start + together] for start in range(0, len(group), together)]
        return batches

    def _resized(self, zooms: np.ndarray) -> list[Size]:
        """The size that each image gets."""
        sizes = zip(self._sizes.tolist(), zooms.tolist(), strict=True)
        return [self.preprocess.size(Size(*size), zoom) for size, zoom in sizes]


def grouped(keys: Iterable[Key]) -> dict[Key, list[int]]:
    """The positions of each key, in the order in which the keys first occur."""
    groups: dict[Key, list[int]] = {}
    for position, key in enumerate(keys):
        groups.setdefault(key, []).append(position)
    return groups


def _grouped(order: np.ndarray, sizes: np.ndarray, together: int) -> np.ndarray:
    """The order with images of like size (N, 2) side by side: sorted by aspect in long runs, by size in short ones."""
    aspects, sides = sizes[:, 1] / sizes[:, 0], sizes.min(axis=1)
    order = _sorted_in_runs(order, aspects, _ASPECT_RUN * together)
    return _sorted_in_runs(order, sides, _SIZE_RUN * together)


def _sorted_in_runs(order: np.ndarray, keys: np.ndarray, run: int) -> np.ndarray:
    runs = [order[start : start + run] for start in range(0, len(order), run)]
    return np.concatenate([order[:0], *(indices[np.argsort(keys[indices], kind="stable")] for indices in runs)])


def _on(device: torch.device | str, pixels: Tensor, sizes: Tensor, proposals: Tensor | None) -> Images:
    """Pixels (N, H, W, 3), which are made float32 where they are then, and what else `Images` have."""
    proposals = None if proposals is None else upload(proposals, device)
    return Images(_to_float(upload(pixels, device)), upload(sizes, device), proposals)


def _to_float(pixels: Tensor) -> Tensor:
    """(N, H, W, 3) uint8 or float32 -> (N, 3, H, W) float32, contiguous"""
    return pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)


def _warn(broken: dict[int, str], known: int, count: int, replaced: bool) -> None:
    new = list(broken.values())[known:]
    consequence = "were replaced by others" if replaced else "were left out"
    shown = "\n  ".join(new[:5]) + (f"\n  and {len(new) - 5} more" if len(new) > 5 else "")
    warnings.warn(f"{len(broken)} of {count} images cannot be read and {consequence}:\n  {shown}", stacklevel=3)


class Task(NamedTuple):
    """A batch to load: images by index, and their zooms (see `Preprocess`). `light`: flipped and scaled only."""

    epoch: int
    indices: list[int]
    zooms: list[float]
    light: bool


class LoadedBatch(NamedTuple):
    """A batch on its way out of a worker: boxes as arrays, since each tensor would cost a shared-memory file."""

    pixels: Tensor  # (N, H, W, 3) uint8 or float32
    sizes: Tensor  # (N, 2) int64
    targets: list[tuple[np.ndarray, ...]]  # the columns of each Target
    proposals: list[np.ndarray]  # (P, 4) float32
    indices: list[int]
    views: list[View]


class LoadedTask(NamedTuple):
    """One batch; none where no image can be read, and several where an evaluation's images differ in canvas."""

    batches: list[LoadedBatch]
    broken: dict[int, str]


@dataclass
class Load(data.Dataset[LoadedTask]):
    """Loads the images of a task; this is what a worker process runs."""

    dataset: AnnotatedImages
    preprocess: Preprocess
    augment: Augment | None
    seed: int
    replace_broken: bool
    propose: Propose | None = None

    def __post_init__(self) -> None:
        self.broken: dict[int, str] = {}

    def __getitem__(self, task: Task) -> LoadedTask:
        rows = []
        before = set(self.broken)
        for index, zoom in zip(task.indices, task.zooms, strict=True):
            if (loaded := self._sample(index, zoom, task)) is not None:
                index, sample = loaded
                image, view = self.preprocess(sample.image, sample.zoom)
                whole = view if self.augment is not None or sample.decoded is None else view @ sample.decoded
                rows.append((index, sample.seen(view, image), whole))
        # In an evaluation a file may have another size than the dataset declares.
        keys = [None if self.replace_broken else self.preprocess.canvas([view.output]) for _, _, view in rows]
        batches = [self._batch([rows[position] for position in group]) for group in grouped(keys).values()]
        return LoadedTask(batches, {index: message for index, message in self.broken.items() if index not in before})

    def _batch(self, rows: Sequence[tuple[int, Sample, View]]) -> LoadedBatch:
        indices, samples, views = zip(*rows, strict=True)
        pixels, sizes = pad([sample.image for sample in samples], self.preprocess)
        targets = [tuple(column.numpy() for column in vars(sample.target).values()) for sample in samples]
        proposals = [sample.proposals.numpy() for sample in samples]
        return LoadedBatch(pixels, sizes, targets, proposals, list(indices), list(views))

    def _sample(self, index: int, zoom: float, task: Task) -> tuple[int, Sample] | None:
        """The augmented sample with its index; for one that cannot be read the next that can, or None."""
        readable = self._this_or_next(index, zoom) if self.replace_broken else self._first_readable([index], zoom)
        if readable is None or self.augment is None:
            return readable
        index, sample = readable
        augment = self.augment.light() if task.light else self.augment
        return index, augment(sample, generator(SAMPLE, self.seed, task.epoch, index), self._another)

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
        sample = Sample(image, reduced.move(target), zoom, decoded=reduced)
        if self.propose is not None:
            sample = replace(sample, proposals=as_boxes(self.propose(image)))
        return sample.clipped()


def _start_workers(load: Load, tasks: list[Task], workers: int) -> data.DataLoader[LoadedTask]:
    """Worker processes that load the tasks in the list in order, a few tasks ahead of their use."""
    return data.DataLoader(
        load,
        sampler=tasks,
        batch_size=None,
        num_workers=workers,
        persistent_workers=True,
        collate_fn=_unchanged,  # type: ignore[arg-type]
        worker_init_fn=_ignore_interrupt,
        generator=torch.Generator(),  # drawing from the global one would change the random numbers after it
    )


def _unchanged(loaded: LoadedTask) -> LoadedTask:
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
