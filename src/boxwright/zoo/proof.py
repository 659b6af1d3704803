"""A proof that a converted detector gives the original's detections: a comparison on photographs that can be repeated.

The original's detections are part of the proof, so that a file can be verified without the original library.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from boxwright.data.image import read_image
from boxwright.predict.predictor import InputImage, Predictor
from boxwright.proposals.cache import image_key
from boxwright.types import Detections
from boxwright.zoo.foreign import ForeignError

if TYPE_CHECKING:
    from boxwright.zoo.foreign import Detect

PHOTOS = Path(__file__).with_name("photos")
BOX, SCORE = 1e-3, 1e-5
"""Pixels of the photograph, and score: the largest differences that rounding causes on one machine."""
AMPLIFIED = 100
"""The same function may differ by so many times that: rounding is amplified by networks and differs by device."""
TOLERANCE = f"equal numbers, boxes within {AMPLIFIED * BOX} px and scores within {AMPLIFIED * SCORE}"

Photos = dict[str, np.ndarray]
"""Images by file name, uint8 RGB (H, W, 3)."""

Answers = Mapping[str, Sequence[Detections]]
"""By batch size the detections in each photograph, in its pixels and with labels as here."""


@dataclass(frozen=True)
class Difference:
    """How the detections of the original and the converted detector differ on one photograph.

    batch        the batch size
    original, converted  numbers of detections
    num_classes  the number of classes among the original's detections
    unmatched    detections of the original without a counterpart of their class
    box          pixels: the largest difference of a coordinate
    score        the largest difference of a score
    """

    photo: str
    batch: int
    original: int
    converted: int
    num_classes: int
    unmatched: int
    box: float
    score: float

    @property
    def within(self) -> bool:
        """Whether they are equal except for the last digits."""
        return self._distance <= 1

    @property
    def same(self) -> bool:
        """Whether they are equal except for amplified rounding, so that both detectors are the same function."""
        return self._distance <= AMPLIFIED

    @property
    def _distance(self) -> float:
        """In units of `BOX` and `SCORE`; inf if a detection has no counterpart."""
        paired = self.original == self.converted and not self.unmatched
        return max(self.box / BOX, self.score / SCORE) if paired else math.inf


def compare(photo: str, batch: int, original: Detections, converted: Detections) -> Difference:
    """Match each detection of the original, best first, with the nearest unmatched one of its class."""
    box, score, unmatched = 0.0, 0.0, 0
    free = torch.ones(len(converted), dtype=torch.bool)
    for row in range(len(original)):
        distance = (converted.boxes - original.boxes[row]).abs().amax(1)
        distance = distance.masked_fill(~free | (converted.labels != original.labels[row]), torch.inf)
        if not distance.isfinite().any():
            unmatched += 1
            continue
        nearest = int(distance.argmin())
        free[nearest] = False
        box = max(box, float(distance[nearest]))
        score = max(score, float((converted.scores[nearest] - original.scores[row]).abs()))
    num_classes = len(original.labels.unique())
    return Difference(photo, batch, len(original), len(converted), num_classes, unmatched, box, score)


def photographs(folder: str | Path | None = None) -> Photos:
    """The images in a folder; the bundled ones if none is given."""
    folder = PHOTOS if folder is None else Path(folder)
    if not folder.is_dir():
        raise ForeignError(f"{folder} is not a folder; expected one with photographs")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    if not paths:
        raise ForeignError(f"{folder} has no photographs: .jpg, .jpeg, .png or .webp")
    return {path.name: read_image(path) for path in paths}


def detect_all(detect: Detect, photos: Photos, batch: int) -> list[Detections]:
    """The detections in each photograph, with so many in a batch."""
    images = list(photos.values())
    return [of_image for start in range(0, len(images), batch) for of_image in detect(images[start : start + batch])]


def detect_with(predictor: Predictor) -> Detect:
    """All detections of a predictor, however low their score. As in the original, a batch has one canvas for all."""

    def detect(images: Sequence[np.ndarray]) -> list[Detections]:
        inputs = [InputImage.open(image) for image in images]
        prepared, views = predictor.prepare(inputs, predictor.proposals(inputs))
        return predictor.detections(predictor.program(prepared), views)

    return detect


def detect_in_batches(detect: Detect, photos: Photos, batches: Sequence[int]) -> Answers:
    """The detections in each photograph by batch size."""
    return {str(batch): detect_all(detect, photos, batch) for batch in batches}


def prove(
    answers: Answers, converted: Detect, photos: Photos, against: str, lowest_score: float = 0.0
) -> dict[str, Any]:
    """The metadata of a proof: `answers`, the original's detections, and `measured`, the differences.

    lowest_score  what scores less was left out of the answers, and is left out of what the converted detector finds
    """
    return {
        "against": against,
        "torch": torch.__version__,
        "date": date.today().isoformat(),
        "photos": {name: image_key(photo) for name, photo in photos.items()},
        "answers": {batch: [_to_json(of_photo) for of_photo in by_photo] for batch, by_photo in answers.items()},
        "lowest_score": lowest_score,
        "measured": [asdict(difference) for difference in differences(answers, converted, photos, lowest_score)],
    }


def repeat(proof: Mapping[str, Any], converted: Detect, photos: Photos) -> list[Difference]:
    """The comparison with the detections in a proof. Raises ForeignError if the photographs are not the same."""
    missing = [name for name, key in proof["photos"].items() if name not in photos or image_key(photos[name]) != key]
    if missing:
        raise ForeignError(
            f"the photographs of the proof are missing, or have other pixels: {', '.join(missing)}; "
            "give their folder with --photos"
        )
    of_proof = {name: photos[name] for name in proof["photos"]}
    original = {batch: [_from_json(of_photo) for of_photo in by_photo] for batch, by_photo in proof["answers"].items()}
    return differences(original, converted, of_proof, proof.get("lowest_score", 0.0))


def differences(original: Answers, converted: Detect, photos: Photos, lowest_score: float = 0.0) -> list[Difference]:
    """The original's detections in each photograph, by batch size, against those of the converted detector."""
    lowest_score -= AMPLIFIED * SCORE
    return [
        compare(name, int(batch), of_photo, found[found.scores >= lowest_score])
        for batch, by_photo in original.items()
        for name, of_photo, found in zip(photos, by_photo, detect_all(converted, photos, int(batch)), strict=True)
    ]


def worst(measured: Iterable[Difference]) -> str:
    """The largest differences in one line."""
    measured = list(measured)
    original, converted = sum(d.original for d in measured), sum(d.converted for d in measured)
    counts = f"{original} detections" if original == converted else f"{converted} detections instead of {original}"
    unmatched = sum(d.unmatched for d in measured)
    return (
        f"{counts} on {len({d.photo for d in measured})} photographs, "
        + (f"{unmatched} without a counterpart, " if unmatched else "")
        + f"boxes within {max(d.box for d in measured):.1e} px, scores within {max(d.score for d in measured):.1e}"
    )


def _to_json(detections: Detections) -> dict[str, Any]:
    """Each float32 with the fewest digits that identify it."""
    return {
        "boxes": [[float(str(side)) for side in box] for box in detections.boxes.numpy()],
        "scores": [float(str(score)) for score in detections.scores.numpy()],
        "labels": detections.labels.tolist(),
    }


def _from_json(values: Mapping[str, Any]) -> Detections:
    boxes = torch.tensor(values["boxes"], dtype=torch.float32).reshape(-1, 4)
    return Detections(boxes, torch.tensor(values["scores"], dtype=torch.float32), torch.tensor(values["labels"]).long())
