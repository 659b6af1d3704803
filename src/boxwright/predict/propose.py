"""Proposals of many images on all cores: for `boxwright propose`, and before a training that needs them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from boxwright.boxes.geometry import pairwise_iou
from boxwright.data.dataset import Dataset
from boxwright.data.image import ImageError, ImageSource, read_annotated
from boxwright.device import cores
from boxwright.proposals import CachedProposer, ProposalsFromFile, Propose, image_key
from boxwright.types import Size

_AHEAD = 4  # images per worker that are begun before the first is asked for


class Source(NamedTuple):
    """Where an image comes from, and its annotated size, on which it depends whether it is turned upright."""

    path: ImageSource
    size: Size | None = None

    def read(self) -> np.ndarray:
        """As the image is loaded in training: the same pixels, so the same key."""
        return read_annotated(self.path, self.size)[0]


class Proposed(NamedTuple):
    """The proposals of an image, or the reason why it has none.

    key    `image_key`
    boxes  (P, 4) float32 xyxy, best first
    known  whether they were computed before
    error  why the image cannot be read; then it has no boxes
    """

    source: Source
    key: str = ""
    boxes: np.ndarray = np.zeros((0, 4), np.float32)
    known: bool = False
    error: str = ""


def sources_of(dataset: Dataset) -> list[Source]:
    return [Source(dataset.path(index), dataset.size(index)) for index in range(len(dataset))]


def propose_all(propose: Propose, sources: Iterable[Source], workers: int | None = None) -> Iterator[Proposed]:
    """The proposals of each image, in the order of `sources`.

    propose  any proposer. The kernels of selective search and Pillow's decoders release the interpreter's lock, so
             threads use all cores and compile the kernels once
    workers  threads; as many as this process has cores if not given

    Raises ValueError, with the image's path, if the proposer refuses it: a `FromFile` that does not have it.
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
    propose: Propose,
    sources: Iterable[Source],
    workers: int | None = None,
    progress: Callable[[], object] | None = None,
) -> list[str]:
    """Compute the proposals that a cache does not have yet, on all cores.

    propose   a `CachedProposer` is filled; a `ProposalsFromFile` must have every image, or ValueError is raised; for
              any other, nothing is done
    progress  called after each image, such as `Progress.update`
    returns   a line for each image that cannot be read
    """
    broken = []
    if isinstance(propose, CachedProposer | ProposalsFromFile):
        for proposed in propose_all(propose, sources, workers):
            if proposed.error:
                broken.append(proposed.error)
            if progress is not None:
                progress()
    return broken


def _propose(propose: Propose, source: Source) -> Proposed:
    try:
        image = source.read()
    except ImageError as error:
        return Proposed(source, error=str(error))
    known = isinstance(propose, CachedProposer | ProposalsFromFile) and propose.has(image)
    try:
        boxes = propose(image)
    except ValueError as error:
        raise ValueError(f"{source.path}: {error}") from error
    return Proposed(source, image_key(image), boxes, known)


def best_overlaps(boxes: np.ndarray, objects: Tensor, counts: Sequence[int]) -> Tensor:
    """The greatest IoU of each object with the first proposals, for several numbers of them.

    boxes (P, 4), objects (G, 4), counts (C,) >= 1 -> (C, G); 0 where there is no proposal
    """
    overlaps = pairwise_iou(torch.from_numpy(boxes).float(), objects)  # (P, G)
    overlaps = torch.cat([overlaps.new_zeros(1, len(objects)), overlaps])
    return torch.stack([overlaps[: count + 1].amax(dim=0) for count in counts])
