"""Whether a converted detector finds what the original finds: measured on photographs, and kept to be measured again.

The answers of the original are part of the proof, so that a file can be verified where the original is not at hand.
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
from boxwright.predict.predictor import Predictor
from boxwright.proposals.cache import image_key
from boxwright.types import Detections
from boxwright.zoo.foreign import ForeignError

if TYPE_CHECKING:
    from boxwright.zoo.foreign import Answer

PHOTOS = Path(__file__).with_name("photos")
BOX, SCORE = 1e-3, 1e-5
"""Pixels of the photograph, and score: how far two detections lie apart at most where both do the same arithmetic."""
AMPLIFIED = 100
"""So many times that is still rounding: of a network that amplifies it, on another processor or device."""

Photos = dict[str, np.ndarray]
"""Images by the names of their files, uint8 RGB (H, W, 3)."""


@dataclass(frozen=True)
class Difference:
    """How two answers about one photograph differ.

    batch      photographs that were looked at together
    theirs, ours, classes  numbers of detections, and of the classes among theirs
    unmatched  detections of theirs for which ours has none of that class left
    box        pixels: the farthest that a side of a box lies from the other's
    score      the greatest difference
    """

    photo: str
    batch: int
    theirs: int
    ours: int
    classes: int
    unmatched: int
    box: float
    score: float

    @property
    def within(self) -> bool:
        """Whether they are the same but for the last digits."""
        return self.apart <= 1

    @property
    def same(self) -> bool:
        """Whether they are the same function: they find the same, and differ by rounding."""
        return self.apart <= AMPLIFIED

    @property
    def apart(self) -> float:
        """How far, in units of `BOX` and `SCORE`; inf where one finds what the other does not."""
        found = self.theirs == self.ours and not self.unmatched
        return max(self.box / BOX, self.score / SCORE) if found else math.inf


def compare(photo: str, batch: int, theirs: Detections, ours: Detections) -> Difference:
    """Each of theirs, best first, with that of ours which is nearest, among those of its class which are left."""
    box, score, unmatched = 0.0, 0.0, 0
    left = torch.ones(len(ours), dtype=torch.bool)
    for row in range(len(theirs)):
        apart = (ours.boxes - theirs.boxes[row]).abs().amax(1)
        apart = apart.masked_fill(~left | (ours.labels != theirs.labels[row]), torch.inf)
        if not left.any() or not apart.isfinite().any():
            unmatched += 1
            continue
        nearest = int(apart.argmin())
        left[nearest] = False
        box = max(box, float(apart[nearest]))
        score = max(score, float((ours.scores[nearest] - theirs.scores[row]).abs()))
    classes = len(theirs.labels.unique())
    return Difference(photo, batch, len(theirs), len(ours), classes, unmatched, box, score)


def photographs(folder: str | Path | None = None) -> Photos:
    """The images in a folder; those that come with boxwright if none is named."""
    folder = PHOTOS if folder is None else Path(folder)
    if not folder.is_dir():
        raise ForeignError(f"{folder} is no folder with photographs")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    if not paths:
        raise ForeignError(f"{folder} has no photographs: .jpg, .jpeg, .png or .webp")
    return {path.name: read_image(path) for path in paths}


def answers(answer: Answer, photos: Photos, batch: int) -> list[Detections]:
    """What is found in each photograph when so many are looked at together."""
    images = list(photos.values())
    return [found for start in range(0, len(images), batch) for found in answer(images[start : start + batch])]


def answer_of(predictor: Predictor) -> Answer:
    """A predictor as it is compared: all that it finds, however low the score."""

    def answer(images: Sequence[np.ndarray]) -> list[Detections]:
        results = predictor(images, threshold=0.0, batch=len(images))
        return [Detections(result.boxes, result.scores, result.labels) for result in results]

    return answer


def prove(
    theirs: Answer, ours: Answer, photos: Photos, against: str, batches: Sequence[int] = (1, 4)
) -> dict[str, Any]:
    """What goes into a file: `answers` of the original by batch, and `measured`, how ours differ from them."""
    said = {str(batch): answers(theirs, photos, batch) for batch in batches}
    return {
        "against": against,
        "torch": torch.__version__,
        "date": date.today().isoformat(),
        "photos": {name: image_key(photo) for name, photo in photos.items()},
        "answers": {batch: [_to_json(found) for found in each] for batch, each in said.items()},
        "measured": [asdict(each) for each in differences(said, ours, photos)],
    }


def repeat(proof: Mapping[str, Any], ours: Answer, photos: Photos) -> list[Difference]:
    """The comparison with the answers in a proof. Raises ForeignError where the photographs are not the same."""
    missing = [name for name, key in proof["photos"].items() if name not in photos or image_key(photos[name]) != key]
    if missing:
        raise ForeignError(
            f"the photographs of the proof are not here, or have other pixels: {', '.join(missing)}; "
            "name the folder they are in with --photos"
        )
    same = {name: photos[name] for name in proof["photos"]}
    said = {batch: [_from_json(found) for found in each] for batch, each in proof["answers"].items()}
    return differences(said, ours, same)


def differences(said: Mapping[str, Sequence[Detections]], ours: Answer, photos: Photos) -> list[Difference]:
    """Ours against what was said of the photographs, by batch."""
    return [
        compare(name, int(batch), theirs, mine)
        for batch, found in said.items()
        for name, theirs, mine in zip(photos, found, answers(ours, photos, int(batch)), strict=True)
    ]


def worst(measured: Iterable[Difference]) -> str:
    """A line that sums them up."""
    measured = list(measured)
    theirs, ours = (sum(getattr(each, side) for each in measured) for side in ("theirs", "ours"))
    counts = f"{theirs} detections" if theirs == ours else f"{theirs} detections against {ours} of ours"
    box, score = (max(getattr(each, name) for each in measured) for name in ("box", "score"))
    lost = sum(each.unmatched for each in measured)
    return (
        f"{counts} on {len({each.photo for each in measured})} photographs, "
        + (f"{lost} without a partner, " if lost else "")
        + f"boxes to within {box:.1e} px, scores to within {score:.1e}"
    )


def _to_json(found: Detections) -> dict[str, Any]:
    """Each float32 with as few digits as tell it from every other."""
    return {
        "boxes": [[float(str(side)) for side in box] for box in found.boxes.numpy()],
        "scores": [float(str(score)) for score in found.scores.numpy()],
        "labels": found.labels.tolist(),
    }


def _from_json(said: Mapping[str, Any]) -> Detections:
    boxes = torch.tensor(said["boxes"], dtype=torch.float32).reshape(-1, 4)
    return Detections(boxes, torch.tensor(said["scores"], dtype=torch.float32), torch.tensor(said["labels"]).long())
