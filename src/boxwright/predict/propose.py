"""Proposals of many images on all cores, for `boxwright propose` and before a training that needs them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from boxwright.boxes.geometry import pairwise_iou
from boxwright.boxes.view import View
from boxwright.data.dataset import Dataset
from boxwright.data.image import ImageError, ImageSource, read_annotated
from boxwright.device import cores
from boxwright.proposals import CachedProposer, ProposalsFromFile, Propose, image_key
from boxwright.types import Size

_AHEAD = 4  # images per worker that are begun before the first is asked for


class Source(NamedTuple):
    """An image's source, and its annotated size, which decides whether it is turned upright."""

    path: ImageSource
    size: Size | None = None

    def read(self) -> np.ndarray:
        """As the image is loaded in training: the same pixels, so the same key."""
        return self.read_with_view()[0]

    def read_with_view(self) -> tuple[np.ndarray, View]:
        """With the view from the whole image, which is larger where a large file is decoded smaller."""
        return read_annotated(self.path, self.size)


class Proposed(NamedTuple):
    """The proposals of an image, or the error where it cannot be read."""

    source: Source
    key: str = ""  # `image_key`
    boxes: np.ndarray = np.zeros((0, 4), np.float32)  # (P, 4) xyxy in pixels of the decoded image, best first
    known: bool = False  # whether they were computed before
    error: str = ""
    view: View | None = None  # from the whole image to the decoded one


def sources_of(dataset: Dataset) -> list[Source]:
    return [Source(dataset.path(index), dataset.size(index)) for index in range(len(dataset))]


def propose_all(propose: Propose, sources: Iterable[Source], workers: int | None = None) -> Iterator[Proposed]:
    """The proposals of each image, in the order of `sources`, by so many threads: all cores if not given.

    The kernels of selective search and Pillow's decoders release the interpreter's lock, so threads use all cores.

    Raises ValueError, with the image's path, where a `ProposalsFromFile` does not have an image.
    """
    workers = workers or cores()
    waiting: deque[Future[Proposed]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for source in sources:
                waiting.append(pool.submit(_propose, propose, source))
                if len(waiting) >= _AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def warm(
    propose: Propose, sources: Iterable[Source], workers: int | None = None,
    progress: Callable[[], object] | None = None,
) -> list[str]:  # fmt: skip
    """Compute the proposals that a cache does not have yet, on all cores. Returns the errors of unreadable images.

    propose   a `CachedProposer` is filled; a `ProposalsFromFile` must have every image, or ValueError is raised; for
              any other, nothing is done
    progress  called after each image, such as `Progress.update`
    """
    errors = []
    if isinstance(propose, CachedProposer | ProposalsFromFile):
        for proposed in propose_all(propose, sources, workers):
            errors += [proposed.error] if proposed.error else []
            if progress is not None:
                progress()
    return errors


def _propose(propose: Propose, source: Source) -> Proposed:
    try:
        image, view = source.read_with_view()
    except ImageError as error:
        return Proposed(source, error=str(error))
    known = isinstance(propose, CachedProposer | ProposalsFromFile) and propose.has(image)
    try:
        boxes = propose(image)
    except ValueError as error:
        raise ValueError(f"{source.path}: {error}") from error
    return Proposed(source, image_key(image), boxes, known, view=view)


def best_overlaps(boxes: np.ndarray, objects: Tensor, counts: Sequence[int]) -> Tensor:
    """The greatest IoU of each object with the first 1 or more `counts` proposals; 0 where there is none.

    boxes (P, 4), objects (G, 4), counts (C,) -> (C, G)
    """
    overlaps = pairwise_iou(torch.from_numpy(boxes).float(), objects)  # (P, G)
    overlaps = torch.cat([overlaps.new_zeros(1, len(objects)), overlaps])
    return torch.stack([overlaps[: count + 1].amax(dim=0) for count in counts])
