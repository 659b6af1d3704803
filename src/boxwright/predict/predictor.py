"""From a file, an array or a PIL image to named boxes in its own pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, overload

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from boxwright.boxes.geometry import xyxy_to_xywh
from boxwright.data.batch import to_images
from boxwright.data.image import read_image, to_rgb
from boxwright.data.preprocess import Preprocess, Resize
from boxwright.detectors import Detector
from boxwright.device import choose_device
from boxwright.proposals import CachedProposer
from boxwright.types import Detections, Images, Size


@dataclass(frozen=True, eq=False)
class InputImage:
    """An image ready to be looked at: uint8 (H, W, 3) RGB, and the file it came from if it did."""

    image: np.ndarray
    path: Path | None = None

    @classmethod
    def open(cls, source: Source) -> InputImage:
        """Raises ImageError saying what is wrong with the source and how to mend it."""
        if isinstance(source, InputImage):
            return source
        if isinstance(source, str | PathLike):
            return cls(read_image(source), Path(source))
        return cls(to_rgb(source))


Source = str | PathLike[str] | np.ndarray | PIL.Image.Image | InputImage
"""What an image can be taken from."""


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """What was found in one image, best first.

    boxes    (D, 4) float32, xyxy in pixels of the image as it was given
    scores   (D,) float32 in 0..1
    labels   (D,) int64, places in `classes`
    names    the class of each of the D detections
    classes  all classes the detector knows
    image    uint8 (H, W, 3), RGB
    path     the file, or None for an array or a PIL image
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    names: list[str]
    classes: tuple[str, ...]
    image: np.ndarray
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def __repr__(self) -> str:
        return f"Result({f'{self.path}: ' if self.path else ''}{self.summary()})"

    @property
    def size(self) -> Size:
        height, width = self.image.shape[:2]
        return Size(height, width)

    def summary(self) -> str:
        """The detections counted by class: "2 person, 1 dog", or "nothing"."""
        return ", ".join(f"{count} {name}" for name, count in Counter(self.names).most_common()) or "nothing"

    def draw(self) -> PIL.Image.Image:
        """The image with its boxes, their names and scores."""
        from boxwright.draw.boxes import draw_boxes  # lazily, and upwards: the one door from a result to its image

        return draw_boxes(self.image, self.boxes, self.names, self.scores.tolist(), palette=self.classes)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: boxes as [x1, y1, x2, y2] to a hundredth of a pixel, scores to four places."""
        rows = zip(self.names, self.labels.tolist(), self.scores.tolist(), self.boxes.tolist(), strict=True)
        return {
            "path": None if self.path is None else str(self.path),
            "width": self.size.width,
            "height": self.size.height,
            "detections": [
                {"name": name, "label": label, "score": round(score, 4), "box": [round(side, 2) for side in box]}
                for name, label, score, box in rows
            ],
        }

    def to_coco(self, image_id: int | str, category_ids: Mapping[str, int] | None = None) -> list[dict[str, Any]]:
        """COCO's result entries, unrounded: image_id, category_id, bbox as [x, y, width, height], score; and the name.

        `category_ids` are a dataset's own ids by class name; without them they are 1, 2, ... in the order of `classes`.
        """
        ids = category_ids or {name: label + 1 for label, name in enumerate(self.classes)}
        rows = zip(self.names, xyxy_to_xywh(self.boxes).tolist(), self.scores.tolist(), strict=True)
        return [
            {"image_id": image_id, "category_id": ids[name], "category_name": name, "bbox": bbox, "score": score}
            for name, bbox, score in rows
        ]


class Predictor:
    """A detector with all that it takes to look at images: `predictor("photo.jpg").boxes`.

    A look has five steps: `InputImage.open`, `propose`, `resize`, the detector's `detect`, `results`.

    detector    is put on `device`, in evaluation mode
    names       (K,) its classes
    preprocess  how images are resized before it sees them
    threshold   the lowest score of a detection, where a call names no other
    """

    def __init__(
        self,
        detector: Detector,
        names: Sequence[str],
        preprocess: Preprocess,
        threshold: float = 0.5,
        device: str | torch.device = "cpu",
    ) -> None:
        self.device = choose_device(device)
        self.detector = detector.to(self.device).eval()
        self.names = tuple(names)
        self.preprocess = preprocess
        self.threshold = _fraction(threshold)

    @overload
    def __call__(
        self, source: Source, threshold: float | None = ..., classes: Iterable[str] | None = ..., batch: int = ...
    ) -> Result: ...

    @overload
    def __call__(
        self,
        source: Iterable[Source],
        threshold: float | None = ...,
        classes: Iterable[str] | None = ...,
        batch: int = ...,
    ) -> list[Result]: ...

    def __call__(
        self,
        source: Source | Iterable[Source],
        threshold: float | None = None,
        classes: Iterable[str] | None = None,
        batch: int = 1,
    ) -> Result | list[Result]:
        """The objects in an image, or in each of several.

        source     a path, an array (H, W, 3) in RGB, a PIL image; or a list or other iterable of them
        threshold  the lowest score, 0..1
        classes    only these, by name
        batch      images looked at together; more than one helps on a GPU
        """
        if isinstance(source, (str, PathLike, np.ndarray, PIL.Image.Image, InputImage)):
            return next(self.stream([source], threshold, classes, batch))
        return list(self.stream(source, threshold, classes, batch))

    def stream(
        self,
        sources: Iterable[Source],
        threshold: float | None = None,
        classes: Iterable[str] | None = None,
        batch: int = 1,
    ) -> Iterator[Result]:
        """Result after result, as a call gives them, holding no more than one batch of images in memory.

        Options that make no sense raise here, not at the first result.
        """
        least = self.threshold if threshold is None else _fraction(threshold)
        labels = self._labels(classes)
        if batch < 1:
            raise ValueError(f"batch is how many images are looked at together: 1 or more, got {batch}")
        return self._stream(map(InputImage.open, sources), least, labels, batch)

    def _stream(
        self, images: Iterator[InputImage], threshold: float, labels: Tensor | None, batch: int
    ) -> Iterator[Result]:
        while group := list(islice(images, batch)):
            yield from self._look(group, threshold, labels)

    def _look(self, arrays: list[InputImage], threshold: float, labels: Tensor | None) -> list[Result]:
        images, ways_back = self.resize(arrays, self.propose(arrays))
        return self.results(arrays, ways_back, self.detector.detect(images), threshold, labels)

    def propose(self, images: Sequence[InputImage]) -> list[Tensor] | None:
        """Where to look, boxes (P, 4) in pixels of each image, for a detector that is told; None for any other."""
        propose = self.detector.propose
        if propose is None:
            return None
        return [torch.as_tensor(propose(image.image), dtype=torch.float32).reshape(-1, 4) for image in images]

    def resize(self, images: Sequence[InputImage], proposals: Sequence[Tensor] | None) -> tuple[Images, list[Resize]]:
        """The images as a batch on the device, and for each the way back to its own pixels; proposals move along."""
        resized, ways = zip(*(self.preprocess(image.image) for image in images), strict=True)
        if proposals is not None:
            proposals = [way.forward(boxes) for way, boxes in zip(ways, proposals, strict=True)]
        return to_images(resized, self.preprocess, proposals).to(self.device), list(ways)

    def results(
        self,
        images: Sequence[InputImage],
        ways_back: Sequence[Resize],
        answers: Sequence[Detections],
        threshold: float,
        labels: Tensor | None = None,
    ) -> list[Result]:
        """What the detector answered of each image, in the image's pixels, on the CPU.

        labels  only these, (L,) places in `names`; all for None
        """
        results = []
        for image, way_back, answer in zip(images, ways_back, answers, strict=True):
            found = answer.to("cpu")
            keep = found.scores >= threshold
            if labels is not None:
                keep &= torch.isin(found.labels, labels)
            found = found[keep]
            results.append(
                Result(
                    boxes=way_back.back(found.boxes),
                    scores=found.scores,
                    labels=found.labels,
                    names=[self.names[label] for label in found.labels.tolist()],
                    classes=self.names,
                    image=image.image,
                    path=image.path,
                )
            )
        return results

    def _labels(self, classes: Iterable[str] | None) -> Tensor | None:
        if classes is None:
            return None
        wanted = [classes] if isinstance(classes, str) else list(classes)
        unknown = [name for name in wanted if name not in self.names]
        if unknown:
            raise ValueError(f"no class is called {', '.join(unknown)}; this model knows {', '.join(self.names)}")
        return torch.tensor([self.names.index(name) for name in wanted])


@contextmanager
def uncached(detector: Detector) -> Iterator[None]:
    """Within, the detector's proposer computes the boxes of every image anew."""
    known = detector.propose
    if isinstance(known, CachedProposer):
        detector.propose = lambda image: known.propose(image)[: known.count]
    try:
        yield
    finally:
        detector.propose = known


def _fraction(threshold: float) -> float:
    if not 0 <= threshold <= 1:
        raise ValueError(f"a score threshold is between 0 and 1, got {threshold}")
    return float(threshold)
