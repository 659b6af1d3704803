"""From a file, an array or a PIL image to named boxes in its own pixels."""

from __future__ import annotations

import json
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, cast, overload

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from boxwright.boxes.geometry import clip, xyxy_to_xywh
from boxwright.boxes.view import View
from boxwright.data.batch import as_boxes, to_images
from boxwright.data.image import IMAGE_SUFFIXES, ImageError, ImageSource, read_reduced, to_rgb
from boxwright.data.preprocess import Preprocess
from boxwright.detectors.base import Detector
from boxwright.device import InferencePrecision, choose_device
from boxwright.draw.boxes import draw_boxes, encode
from boxwright.files import Outputs
from boxwright.predict.program import Eager, Program
from boxwright.proposals import CachedProposer, Propose
from boxwright.types import Detections, Images, Size, Slots

_SHOWN = (1024, 1024)  # pixels, at most, of an image in a notebook
_WAITING = 4  # batches of images that a stream holds at most, to find those of one canvas


@dataclass(frozen=True, eq=False)
class InputImage:
    """An image in memory: uint8 (H, W, 3) RGB, and the file it was read from, if any.

    view  from the whole image to `image`, where that was decoded smaller; boxes are in pixels of the whole image
    """

    image: np.ndarray
    path: Path | None = None
    view: View | None = None

    @classmethod
    def open(cls, source: ImageLike) -> InputImage:
        """A file is turned upright by its EXIF orientation; an array or a PIL image is taken as given (`to_rgb`).

        Raises ImageError if there is no usable image.
        """
        if isinstance(source, InputImage):
            return source
        if isinstance(source, str | PathLike):
            return cls._decoded(source, Path(source))
        if isinstance(source, np.ndarray | PIL.Image.Image):
            return cls(to_rgb(source))
        if isinstance(source, Tensor):
            return cls(to_rgb(_channels_last(source)))
        if isinstance(source, bytes | bytearray | memoryview):
            return cls._decoded(bytes(source))
        if not hasattr(source, "read"):
            raise ImageError(
                "expected a path, the bytes of a file, an open file, an array, a tensor or a PIL image, "
                f"got {type(source).__name__}"
            )
        return cls._decoded(source)

    @classmethod
    def _decoded(cls, source: ImageSource, path: Path | None = None) -> InputImage:
        image, view = read_reduced(source)
        return cls(image, path, None if view.output == view.source else view)

    @property
    def size(self) -> Size:
        """That of the whole image."""
        return Size(*self.image.shape[:2]) if self.view is None else self.view.source


ImageLike = ImageSource | bytearray | memoryview | np.ndarray | Tensor | PIL.Image.Image | InputImage
"""What an image can be taken from: a path, the bytes of a file, a file open in binary mode, an array (H, W, 3), a
tensor (3, H, W), a PIL image."""


def _channels_last(image: Tensor) -> np.ndarray:
    """A tensor (C, H, W), as torchvision reads images, as an array (H, W, C). Raises ImageError for another shape."""
    if image.ndim != 3 or image.shape[0] not in (1, 3, 4):
        last = image.ndim == 3 and image.shape[2] in (1, 3, 4)
        mend = "move the channels first: image.permute(2, 0, 1)" if last else "pass one image, or a batch (N, C, H, W)"
        raise ImageError(f"expected a tensor (C, H, W) of C = 1, 3 or 4, got shape {tuple(image.shape)}; {mend}")
    image = image.detach().cpu().movedim(0, -1)
    return (image.float() if image.dtype in (torch.bfloat16, torch.float16) else image).numpy()


class Detection(NamedTuple):
    """An object in an image."""

    name: str
    score: float  # 0..1
    box: tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels of the image
    label: int  # 0..K-1


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The detections in one image, best first: `for name, score, box, label in result`.

    A notebook shows it as the image with its boxes.
    """

    boxes: Tensor  # (D, 4) float32, xyxy in pixels of the whole image, of `size`
    scores: Tensor  # (D,) float32 in 0..1
    labels: Tensor  # (D,) int64, 0..K-1
    names: tuple[str, ...]  # (K,) the class names of the detector
    image: np.ndarray  # uint8 (H, W, 3), RGB: a file turned upright, anything else as it was given
    path: Path | None = None  # the file, or None for an array, a tensor or a PIL image
    threshold: float | None = None  # no detection scores less; None where it is not known
    view: View | None = None  # from the whole image to `image`, where a large file was decoded smaller

    def __len__(self) -> int:
        return len(self.boxes)

    def __iter__(self) -> Iterator[Detection]:
        rows = zip(self.label_names, self.scores.tolist(), self.boxes.tolist(), self.labels.tolist(), strict=True)
        return (Detection(name, score, (x1, y1, x2, y2), label) for name, score, (x1, y1, x2, y2), label in rows)

    @overload
    def __getitem__(self, rows: int) -> Detection: ...

    @overload
    def __getitem__(self, rows: slice | Tensor) -> Result: ...

    def __getitem__(self, rows: int | slice | Tensor) -> Detection | Result:
        """One detection by its number, or the result with some of them: a slice, indices, or a mask (D,)."""
        if isinstance(rows, int):
            return [*self][rows]
        return replace(self, boxes=self.boxes[rows], scores=self.scores[rows], labels=self.labels[rows])

    def __repr__(self) -> str:
        return f"Result({f'{self.path}: ' if self.path else ''}{self.summary()})"

    @property
    def label_names(self) -> list[str]:
        """The class name of each of the D detections."""
        return [self.names[label] for label in self.labels.tolist()]

    @property
    def size(self) -> Size:
        """That of the whole image."""
        return Size(*self.image.shape[:2]) if self.view is None else self.view.source

    def summary(self) -> str:
        """The detections counted by class: "2 person, 1 dog", or "nothing"."""
        return ", ".join(f"{count} {name}" for name, count in Counter(self.label_names).most_common()) or "nothing"

    def draw(self) -> PIL.Image.Image:
        """The image with its boxes, their names and scores."""
        boxes = self.boxes if self.view is None else self.view.forward(self.boxes)
        return draw_boxes(self.image, boxes, self.label_names, self.scores.tolist(), palette=self.names)

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the image with its boxes, or for .json the detections of `to_dict`; folders on the way are made.

        As all files of boxwright, it replaces what boxwright wrote earlier, and nothing else. Returns the path: that of
        a PNG where the format has no image so large. Raises ValueError for another suffix.
        """
        path, outputs = Path(path), Outputs([self.path] if self.path else [])
        suffix, content = path.suffix.lower(), b""
        if suffix == ".json":
            content = (json.dumps(self.to_dict(), indent=1) + "\n").encode()
        elif suffix in IMAGE_SUFFIXES & PIL.Image.registered_extensions().keys():
            suffix, content = encode(self.draw(), suffix)
            path = path if suffix == path.suffix.lower() else path.with_suffix(suffix)
        else:
            raise ValueError(f"a result is saved as .json or an image such as .jpg or .png, got {path}")
        outputs.check("save", [path])
        outputs.write(path, content)
        return path

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        drawing = self.draw()
        drawing.thumbnail(_SHOWN)
        return encode(drawing, ".png")[1]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: boxes as [x1, y1, x2, y2] to a hundredth of a pixel, scores to four places."""
        detections = [
            {"name": name, "label": label, "score": round(score, 4), "box": [round(side, 2) for side in box]}
            for name, score, box, label in self
        ]
        about = {"path": None if self.path is None else str(self.path)}
        about |= {"width": self.size.width, "height": self.size.height}
        about |= {} if self.threshold is None else {"threshold": round(self.threshold, 4)}
        return {**about, "detections": detections}

    def to_coco(self, image_id: int | str, category_ids: Mapping[str, int] | None = None) -> list[dict[str, Any]]:
        """COCO's result entries, unrounded: image_id, category_id, bbox as [x, y, width, height], score; and the name.

        `category_ids` are a dataset's own ids by class name; without them they are 1, 2, ... in the order of `names`.
        Raises ValueError for a detection whose class they lack.
        """
        ids = {name: label + 1 for label, name in enumerate(self.names)} if category_ids is None else category_ids
        if lacking := ", ".join(dict.fromkeys(name for name in self.label_names if name not in ids)):
            has = ", ".join(ids) or "none"
            raise ValueError(f"category_ids has no id for {lacking}; it has {has}. Add it, or choose other classes")
        rows = zip(self.label_names, xyxy_to_xywh(self.boxes).tolist(), self.scores.tolist(), strict=True)
        return [
            {"image_id": image_id, "category_id": ids[name], "category_name": name, "bbox": bbox, "score": score}
            for name, bbox, score in rows
        ]


class Predictor:
    """From images to named boxes in their own pixels, with any program: `predictor("photo.jpg").boxes`.

    Its steps, each callable by itself: `InputImage.open`, `proposals`, `prepare`, `program`, `detections`, `results`.

    program     a detector, which is moved to `device`; or any `Program`: compiled, exported, a function
    names       (K,) its class names
    preprocess  how images are resized for it
    threshold   the score threshold of detections, unless a call gives another
    device      where batches go; where the detector is if not given, and the CPU for any other program
    propose     from an image, uint8 (H, W, 3), to boxes (P, 4) in its pixels, for a program that takes proposals; a
                detector brings its own
    """

    def __init__(
        self,
        program: Program | Detector,
        names: Sequence[str],
        preprocess: Preprocess,
        threshold: float = 0.5,
        device: str | torch.device | None = None,
        propose: Propose | None = None,
    ) -> None:
        if isinstance(program, Detector):
            device = choose_device(device or next((weight.device for weight in program.parameters()), "cpu"))
            propose = propose or program.propose
            program = Eager(program.to(device))
        self.program: Program = program
        self.device = choose_device(device or "cpu")
        self.names = tuple(names)
        self.preprocess = preprocess
        self.threshold = _fraction(threshold)
        self.propose = propose
        self.max_detections: int | None = None  # detections of a result, at most; None: as the program gives

    @property
    def detector(self) -> Detector:
        """The detector that the program runs. TypeError for a program that has none."""
        detector = getattr(self.program, "detector", None)
        if not isinstance(detector, Detector):
            raise TypeError(f"the program {self.program!r} has no detector; Eager, Compiled and Captured do")
        return detector

    @property
    def floor(self) -> float:
        """Detections that score less are incomplete: the highest score threshold of the detector, 0 if unknown."""
        selection = getattr(getattr(self.program, "detector", None), "selection", None)
        values = 0.0 if selection is None else selection.score_threshold
        return max(values) if isinstance(values, tuple) else values

    def with_program(self, program: Program) -> Predictor:
        """A copy with another program."""
        other = copy(self)
        other.program = program
        return other

    def with_precision(self, precision: InferencePrecision) -> Predictor:
        """A copy that runs its detector eagerly in this precision. TypeError where the program has no detector."""
        return self.with_program(Eager(self.detector, precision=precision))

    def with_selection(
        self, nms: float | None = None, agnostic_nms: bool = False, max_detections: int | None = None
    ) -> Predictor:
        """A copy of the same weights that selects its detections otherwise; what is not given stays.

        nms             IoU, 0..1, above which the lower-scored of two boxes of a class is dropped; 1 drops none
        agnostic_nms    boxes of all classes suppress each other, those of classes that a call leaves out too
        max_detections  detections per image at most: the best of the classes that a call asks for

        Raises ValueError where the program is not eager: it would have to be compiled anew. Fewer detections it can.
        """
        changes: dict[str, Any] = {} if nms is None else {"iou_threshold": _fraction(nms, "nms is an IoU")}
        changes |= {"within": "image"} if agnostic_nms else {}
        if max_detections is not None and max_detections < 1:
            raise ValueError(f"max_detections is 1 or more, got {max_detections}")
        selection = getattr(getattr(self.program, "detector", None), "selection", None)
        if max_detections is not None and selection is not None and max_detections > selection.slots:
            changes["slots"] = max_detections
        if changes and not isinstance(self.program, Eager):
            raise ValueError(f"{self.program!r} cannot select its detections otherwise; an eager program can")
        other = copy(self)
        if isinstance(self.program, Eager) and changes:
            other.program = self.program.with_selection(**changes)
        other.max_detections = self.max_detections if max_detections is None else max_detections
        return other

    def uncached(self) -> Predictor:
        """A copy whose proposer computes the boxes of every image anew."""
        other, cached = copy(self), self.propose
        if isinstance(cached, CachedProposer):
            other.propose = lambda image: cached.propose(image)[: cached.count]
        return other

    @overload
    def __call__(
        self, source: ImageLike, threshold: float | None = ..., classes: Iterable[str] | None = ..., batch: int = ...
    ) -> Result: ...

    @overload
    def __call__(
        self, source: Iterable[ImageLike], threshold: float | None = ..., classes: Iterable[str] | None = ...,
        batch: int = ...,
    ) -> list[Result]: ...  # fmt: skip

    def __call__(
        self, source: ImageLike | Iterable[ImageLike], threshold: float | None = None,
        classes: Iterable[str] | None = None, batch: int = 1,
    ) -> Result | list[Result]:  # fmt: skip
        """The objects in an image, or in each of several.

        source     a path, the bytes of a file, a file open in binary mode, an array (H, W, 3) or a tensor (3, H, W) in
                   RGB, a PIL image; or a list or other iterable of them, or a batch (N, 3, H, W) or (N, H, W, 3) of a
                   tensor or an array. A file is turned upright by its EXIF orientation. Anything else, also a crop or a
                   resized image, is taken as given: boxes are in its pixels
        threshold  the lowest score, 0..1; the predictor's own if not given. Below the `floor`, an eager program detects
                   down to it in this call, and any other warns
        classes    only these, by name
        batch      images per batch at most; more than one helps on a GPU
        """
        if isinstance(source, Tensor | np.ndarray) and source.ndim == 4:
            return list(self.stream(source, threshold, classes, batch))
        kinds = (str, PathLike, bytes, bytearray, memoryview, np.ndarray, Tensor, PIL.Image.Image, InputImage)
        if isinstance(source, kinds) or hasattr(source, "read") or not isinstance(source, Iterable):
            return next(self.stream([cast("ImageLike", source)], threshold, classes, batch))
        return list(self.stream(cast("Iterable[ImageLike]", source), threshold, classes, batch))

    def stream(
        self, sources: Iterable[ImageLike], threshold: float | None = None, classes: Iterable[str] | None = None,
        batch: int = 1,
    ) -> Iterator[Result]:  # fmt: skip
        """As a call, but results come one by one, in the order of the images.

        A batch holds images of one canvas only, so that none is padded otherwise than alone: results do not depend on
        `batch`, up to rounding. Where shapes are mixed, up to four batches of images are in memory at a time.

        Invalid options raise here, not at the first result.
        """
        program = self.program if threshold is None else self._down_to(_fraction(threshold))
        threshold = self.threshold if threshold is None else _fraction(threshold)
        labels = self._labels(classes)
        if batch < 1:
            raise ValueError(f"batch is the number of images per batch: 1 or more, got {batch}")
        return self._stream(program, map(InputImage.open, sources), threshold, labels, batch)

    def _stream(
        self, program: Program, images: Iterator[InputImage], threshold: float, labels: Tensor | None, batch: int
    ) -> Iterator[Result]:
        done: dict[int, Result] = {}
        number = 0  # of the next result
        for group in self._by_canvas(images, batch):
            numbers, inputs = zip(*group, strict=True)
            prepared, views = self.prepare(inputs, self.proposals(inputs))
            detections = self.detections(program(prepared), views)
            done |= zip(numbers, self.results(inputs, detections, threshold, labels), strict=True)
            while number in done:
                yield done.pop(number)
                number += 1

    def _by_canvas(self, images: Iterator[InputImage], batch: int) -> Iterator[list[tuple[int, InputImage]]]:
        """Numbered images in batches of one canvas. No image waits until `_WAITING` batches more have been read."""
        waiting: dict[Size, list[tuple[int, InputImage]]] = {}  # the group of the oldest image first
        for number, image in enumerate(images):
            canvas = self.preprocess.canvas([self.preprocess.size(Size(*image.image.shape[:2]))])
            waiting.setdefault(canvas, []).append((number, image))
            if len(waiting[canvas]) == batch:
                yield waiting.pop(canvas)
            oldest = next(iter(waiting), None)
            if oldest is not None and number - waiting[oldest][0][0] >= _WAITING * batch - 1:
                yield waiting.pop(oldest)
        yield from waiting.values()

    def proposals(self, images: Sequence[InputImage]) -> list[Tensor] | None:
        """Boxes (P, 4) in pixels of each array `image`, for a program that takes proposals; None for any other."""
        if self.propose is None:
            return None
        return [as_boxes(self.propose(image.image)) for image in images]

    def prepare(self, images: Sequence[InputImage], proposals: Sequence[Tensor] | None) -> tuple[Images, list[View]]:
        """The images resized, as a batch on the device, and the view of each whole image; proposals (P, 4) move."""
        resized, views = zip(*(self.preprocess(image.image) for image in images), strict=True)
        if proposals is not None:
            proposals = [view.forward(boxes) for view, boxes in zip(views, proposals, strict=True)]
        views = [view if image.view is None else view @ image.view for view, image in zip(views, images, strict=True)]
        return to_images(resized, self.preprocess, proposals, self.device), views

    def detections(self, slots: Slots, views: Sequence[View]) -> list[Detections]:
        """The detections of each image in its own pixels, clipped to it, on the CPU."""
        return [
            detections.replace(boxes=clip(view.back(detections.boxes), view.source))
            for detections, view in zip(slots.to("cpu").trim(), views, strict=True)
        ]

    def results(
        self, images: Sequence[InputImage], detections: Sequence[Detections], threshold: float,
        labels: Tensor | None = None,
    ) -> list[Result]:  # fmt: skip
        """The detections of each image with a score of at least `threshold`; only these labels (L,), all for None."""
        results = []
        for image, of_image in zip(images, detections, strict=True):
            keep = of_image.scores >= threshold
            if labels is not None:
                keep &= torch.isin(of_image.labels, labels)
            kept = of_image[keep][: self.max_detections]
            columns = kept.boxes, kept.scores, kept.labels
            results.append(Result(*columns, self.names, image.image, image.path, threshold, image.view))
        return results

    def _down_to(self, threshold: float) -> Program:
        if threshold >= self.floor:
            return self.program
        if isinstance(self.program, Eager):
            return self.program.down_to(threshold)
        warnings.warn(
            f"detections below {self.floor:g}, the score threshold of the detector, are missing at the threshold "
            f"{threshold:g}: {self.program!r} cannot lower it, an eager program can",
            stacklevel=4,
        )
        return self.program

    def _labels(self, classes: Iterable[str] | None) -> Tensor | None:
        if classes is None:
            return None
        chosen = [classes] if isinstance(classes, str) else list(classes)
        unknown = [name for name in chosen if name not in self.names]
        if unknown:
            raise ValueError(f"no class is called {', '.join(unknown)}; this model has {', '.join(self.names)}")
        return torch.tensor([self.names.index(name) for name in chosen])


def _fraction(threshold: float | str, what: str = "a score threshold is a number") -> float:
    try:
        number = float(threshold)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1:
        raise ValueError(f"{what} between 0 and 1, got {threshold!r}")
    return number
