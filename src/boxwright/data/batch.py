"""Batches of pictures and targets; what happens to a sample depends on (seed, epoch, index) alone."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from boxwright.boxes.convert import clip
from boxwright.data.augment import Augment, MultiScale, Sample
from boxwright.data.image import ImageError, ImageSource, read_reduced
from boxwright.data.preprocess import Preprocess, Resize
from boxwright.types import Images, Size, Target

_ORDER, _ZOOM, _SAMPLE = range(3)  # what a random number is drawn for
_POOL, _STRIP = 64, 8  # batches whose pictures are sorted among themselves by aspect, and those then by size


_PROPOSAL = -1
"""The label of a proposal on its way: it rides with the target as a crowd region, and whatever moves boxes moves it."""

Propose = Callable[[np.ndarray], np.ndarray]


class Pictures(Protocol):
    """What is needed of a `Dataset`."""

    def __len__(self) -> int: ...
    def path(self, index: int, /) -> ImageSource: ...
    def size(self, index: int, /) -> Size: ...
    def target(self, index: int, /) -> Target: ...


class Batch(NamedTuple):
    """A batch; `indices` and `resizes` lead from each of its pictures back to the dataset and to original pixels."""

    images: Images
    targets: list[Target]
    indices: list[int]
    resizes: list[Resize]


def to_images(
    pictures: Sequence[np.ndarray],
    preprocess: Preprocess | None = None,
    proposals: Sequence[Tensor] | None = None,
) -> Images:
    """Resized uint8 pictures (H, W, 3) padded at the right and the bottom to the canvas of `preprocess`.

    proposals  for each picture boxes (P, 4) in its pixels once resized; the shorter lists end in rows of zeros
    """
    pixels, sizes = _pad(pictures, preprocess or Preprocess())
    return Images(_to_float(pixels), sizes, None if proposals is None else _stack(proposals))  # type: ignore[arg-type]


def to_batch(
    samples: Sequence[tuple[np.ndarray, Target]], preprocess: Preprocess | None = None
) -> tuple[Images, list[Target]]:
    """As `to_images`, for pictures with their targets. Padding moves no box."""
    pictures, targets = zip(*samples, strict=True)
    return to_images(pictures, preprocess), list(targets)


class Batches:
    """Batches of a dataset: shuffled and augmented to train on, or in order to evaluate.

    augment     None for evaluation
    batch_size  pictures per batch and rank
    seed        with the epoch, all that chance depends on; the number of workers changes nothing
    workers     processes that load ahead, kept from epoch to epoch, one epoch at a time; 0 loads in this process
    rank, world this process's share: of every `batch_size * world` pictures each rank gets as many, so that all
                ranks see equally many batches; where they do not come out even, the first pictures come twice
    shuffle     a new order each epoch
    group       put pictures of like shape into a batch, which saves padding
    drop_last   leave out what does not fill a batch at the end of a shuffled epoch; a lone unfilled batch stays
    device      where images and targets go; pixels travel as uint8
    propose     from a picture to boxes (P, 4) in its pixels, best first: `Detector.propose`. They move as the picture
                does and become the proposals of the `Images`, as many rows as the longest list of the batch has

    A sample that cannot be read is replaced by the next one that can, or left out where `shuffle` is off. One
    warning at the end of the epoch counts them; `broken` has them all, index to message.
    """

    def __init__(
        self,
        dataset: Pictures,
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
        self._load = _Load(dataset, preprocess, augment, seed, shuffle, propose)
        self._pool: _Pool | None = None
        self._sizes = np.array([dataset.size(index) for index in range(len(dataset))])  # (N, 2)

    @classmethod
    def in_order(
        cls,
        dataset: Pictures,
        preprocess: Preprocess,
        batch_size: int = 8,
        *,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        propose: Propose | None = None,
    ) -> Batches:
        """For evaluation: every picture, as it is. With several ranks the last may come twice: count indices once."""
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
        """The batches of an epoch from number `start` on; those before it are not loaded."""
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

    def _loaded(self, tasks: list[_Task]) -> Iterable[_Loaded]:
        if self.workers == 0:
            return map(self._load.__getitem__, tasks)
        if self._pool is None:
            self._pool = _Pool(self._load, self.workers)
        return self._pool(tasks)

    def _batch(self, loaded: _Loaded) -> Batch:
        targets = [Target(*map(torch.from_numpy, columns)) for columns in loaded.targets]
        proposals = _stack([target.boxes[target.labels == _PROPOSAL] for target in targets]).to(self.device)
        targets = [target[target.labels != _PROPOSAL].to(self.device) for target in targets]
        images = Images(_to_float(loaded.pixels.to(self.device)), loaded.sizes.to(self.device), proposals)
        return Batch(images, targets, loaded.indices, loaded.resizes)

    def _tasks(self, epoch: int) -> list[_Task]:
        """What this rank loads in an epoch, a task per batch."""
        count, together = len(self.dataset), self.batch_size * self.world
        rng = _generator(_ORDER, self.seed, epoch)
        order = rng.permutation(count) if self.shuffle else np.arange(count)
        zooms = np.ones(count)
        if self.augment is not None:
            zooms = MultiScale(*self.augment.scale).draw(_generator(_ZOOM, self.seed, epoch), count)
        whole, rest = np.split(order, [count - count % together])
        if self.group:
            sizes = zip(self._sizes.tolist(), zooms.tolist(), strict=True)
            resized = np.array([self.preprocess.size(Size(*size), zoom) for size, zoom in sizes])  # (N, 2)
            whole = rng.permutation(_grouped(whole, resized, together).reshape(-1, together))
        batches = list(whole.reshape(-1, together))
        if len(batches) < len(self):
            batches.append(np.concatenate((rest, np.resize(order, -len(rest) % self.world))))
        shares = [batch[self.rank :: self.world] for batch in batches]
        return [_Task(epoch, share.tolist(), zooms[share].tolist()) for share in shares]


class _Task(NamedTuple):
    epoch: int
    indices: list[int]
    zooms: list[float]


class _Loaded(NamedTuple):
    """A batch on its way out of a worker: targets as arrays, since each tensor would cost a shared-memory file."""

    pixels: Tensor  # (N, H, W, 3) uint8
    sizes: Tensor  # (N, 2) int64
    targets: list[tuple[np.ndarray, ...]]
    indices: list[int]
    resizes: list[Resize]
    broken: dict[int, str]


@dataclass
class _Load:
    """Loads the batch of a task; this is what a worker process runs."""

    dataset: Pictures
    preprocess: Preprocess
    augment: Augment | None
    seed: int
    replace_broken: bool
    propose: Propose | None = None

    def __post_init__(self) -> None:
        self.broken: dict[int, str] = {}

    def __getitem__(self, task: _Task) -> _Loaded:
        pictures, targets, indices, resizes = [], [], [], []
        before = set(self.broken)
        for index, zoom in zip(task.indices, task.zooms, strict=True):
            found = self._sample(index, zoom, task.epoch)
            if found is None:
                continue
            index, sample = found
            picture, resize = self.preprocess(sample.image, sample.zoom)
            pictures.append(picture)
            targets.append(tuple(column.numpy() for column in vars(_resized(sample.target, resize)).values()))
            indices.append(index)
            resizes.append(resize)
        pixels, sizes = _pad(pictures, self.preprocess) if pictures else (torch.empty(0), torch.empty(0))
        broken = {index: message for index, message in self.broken.items() if index not in before}
        return _Loaded(pixels, sizes, targets, indices, resizes, broken)

    def _sample(self, index: int, zoom: float, epoch: int) -> tuple[int, Sample] | None:
        """The augmented sample, or the next that can be read in its place; None where only this one is wanted."""
        found = self._this_or_next(index, zoom) if self.replace_broken else self._first_readable([index], zoom)
        if found is None:
            return None
        index, sample = found
        if self.augment is not None:
            sample = self.augment(sample, _generator(_SAMPLE, self.seed, epoch, index), self._another)
        return index, sample

    def _another(self, rng: np.random.Generator) -> Sample:
        """A random sample for a mosaic, without augmentation of its own."""
        return self._this_or_next(int(rng.integers(len(self.dataset))), 1.0)[1]

    def _this_or_next(self, index: int, zoom: float) -> tuple[int, Sample]:
        count = len(self.dataset)
        found = self._first_readable(((index + step) % count for step in range(count)), zoom)
        if found is None:
            raise ImageError(f"none of the {count} pictures can be read; the first: {next(iter(self.broken.values()))}")
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
        whole = self.augment is None or self.propose is not None  # proposals belong to the picture as it is
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


class _Pool:
    """Worker processes that load tasks in order, each epoch's a few ahead of their use."""

    def __init__(self, load: _Load, workers: int) -> None:
        from torch.utils.data import DataLoader

        self._todo: list[_Task] = []
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

    def __call__(self, tasks: list[_Task]) -> Iterable[_Loaded]:
        self._todo[:] = tasks
        return iter(self._loader)


def _as_it_is(loaded: _Loaded) -> _Loaded:
    return loaded


def _ignore_interrupt(worker: int) -> None:
    """Ctrl-C is the main process's business; workers end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def _grouped(order: np.ndarray, sizes: np.ndarray, together: int) -> np.ndarray:
    """The order with pictures of like size (N, 2) side by side: pools sorted by aspect, then strips of them by size."""
    aspects, sides = sizes[:, 1] / sizes[:, 0], sizes.min(axis=1)
    order = _sorted_in_runs(order, aspects, _POOL * together)
    return _sorted_in_runs(order, sides, _STRIP * together)


def _sorted_in_runs(order: np.ndarray, keys: np.ndarray, run: int) -> np.ndarray:
    runs = [order[at : at + run] for at in range(0, len(order), run)]
    return np.concatenate([order[:0], *(part[np.argsort(keys[part], kind="stable")] for part in runs)])


def _pad(pictures: Sequence[np.ndarray], preprocess: Preprocess) -> tuple[Tensor, Tensor]:
    """-> pixels (N, H, W, 3) uint8, sizes (N, 2) int64"""
    sizes = [Size(*picture.shape[:2]) for picture in pictures]
    height, width = preprocess.canvas(sizes)
    if any(size.height > height or size.width > width for size in sizes):
        raise ValueError(f"pictures fit the canvas {height}x{width}, got {sizes}; resize them with this Preprocess")
    canvas = np.full((len(pictures), height, width, 3), preprocess.fill, np.uint8)
    for place, picture, size in zip(canvas, pictures, sizes, strict=True):
        place[: size.height, : size.width] = picture
    return torch.from_numpy(canvas), torch.tensor(sizes, dtype=torch.int64)


def _to_float(pixels: Tensor) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32"""
    return pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)


def _stack(proposals: Sequence[Tensor]) -> Tensor:
    """Boxes (P, 4) of each picture to (N, the greatest P, 4)."""
    return nn.utils.rnn.pad_sequence(list(proposals), batch_first=True)


def _with_proposals(target: Target, proposals: np.ndarray) -> Target:
    boxes = torch.cat([target.boxes, torch.as_tensor(proposals, dtype=torch.float32).reshape(-1, 4)])
    new = len(boxes) - len(target)
    labels = nn.functional.pad(target.labels, (0, new), value=_PROPOSAL)
    crowd = nn.functional.pad(target.crowd, (0, new), value=True)
    difficult = nn.functional.pad(target.difficult, (0, new))
    return Target(boxes, labels, crowd, difficult, nn.functional.pad(target.area, (0, new)))


def _inside(target: Target, size: Size) -> Target:
    """The target without what is outside the picture, and without boxes that have no area."""
    target = target.replace(boxes=clip(target.boxes, size))
    return target[(target.boxes[:, 2:] > target.boxes[:, :2]).all(dim=1)]


def _resized(target: Target, resize: Resize) -> Target:
    growth = (resize.after.height * resize.after.width) / (resize.before.height * resize.before.width)
    return target.replace(boxes=resize.forward(target.boxes), area=target.area * growth)


def _warn(broken: dict[int, str], known: int, count: int, replaced: bool) -> None:
    new = list(broken.values())[known:]
    what = "were replaced by others" if replaced else "were left out"
    shown = "\n  ".join(new[:5]) + (f"\n  and {len(new) - 5} more" if len(new) > 5 else "")
    warnings.warn(f"{len(broken)} of {count} pictures cannot be read and {what}:\n  {shown}", stacklevel=3)
