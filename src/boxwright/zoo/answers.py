"""What a user's own model detects in photographs, as JSON: read, to be compared with what the import of it detects.

A file is of one photograph: {"boxes": [[x1, y1, x2, y2], ...], "scores": [...], "labels": [...]}, boxes in pixels of
the photograph, labels as the model has them or class names; or a list in the layout of COCO's results,
[{"bbox": [x, y, width, height], "score": ..., "category_id": ...}, ...], whose category ids count as labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from boxwright.data.formats.documents import read_json
from boxwright.data.formats.text import listed
from boxwright.data.image import read_image
from boxwright.types import Detections
from boxwright.units import shown
from boxwright.zoo.foreign import ForeignError
from boxwright.zoo.proof import Photos

Files = Mapping[str, str | Path] | Mapping[Path, str | Path]
"""Of photographs, to those of the detections in them."""


def read_answers(files: Files, names: Sequence[str], first_label: int) -> tuple[Photos, list[Detections]]:
    """The photographs by file name, and the detections in each, with labels as here.

    names        (K,) of the classes
    first_label  the model's label of class 0

    Raises ForeignError, with the file and the number of the detection, for what cannot be read, and where there is no
    detection at all.
    """
    photos: Photos = {}
    answers = []
    for photo, file in files.items():
        name = Path(photo).name
        if name in photos:
            raise ForeignError(f"two photographs of the answers are called {name}; rename one")
        photos[name] = read_image(photo)
        answers.append(_read(Path(file), names, first_label))
    if not any(map(len, answers)):
        raise ForeignError(f"the answers in {', '.join(map(str, files.values()))} have no detection, and prove nothing")
    return photos, answers


def _read(path: Path, names: Sequence[str], first_label: int) -> Detections:
    try:
        boxes, scores, labels = _columns(read_json(path))
        if not len(boxes) == len(scores) == len(labels):
            raise ForeignError(f"{len(boxes)} boxes, {len(scores)} scores and {len(labels)} labels; expected as many")
        indices = [_label(label, names, first_label) for label in labels]
        rows, levels = torch.tensor(boxes, dtype=torch.float32), torch.tensor(scores, dtype=torch.float32)
        if len(boxes) and not (rows.shape == (len(boxes), 4) and levels.ndim == 1):
            raise ForeignError("a box is no four numbers, or a score no number")
        found = Detections(rows.reshape(-1, 4), levels, torch.tensor(indices).long())
        if not (found.boxes.isfinite().all() and found.scores.isfinite().all()):
            raise ForeignError("a box or a score is not a finite number")
        if not (found.boxes[:, 2:] >= found.boxes[:, :2]).all():
            raise ForeignError(
                "boxes are [x1, y1, x2, y2] with x1 <= x2 and y1 <= y2; are these [x, y, width, height]?"
            )
    except (OSError, ValueError, TypeError, AttributeError, KeyError, OverflowError, RuntimeError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else error
        expected = '{"boxes": [[x1, y1, x2, y2], ...], "scores": [...], "labels": [...]}'
        raise ForeignError(f"{path}: expected the detections in one photograph as {expected}: {why}") from error
    return found[found.scores.argsort(descending=True, stable=True)]


def _columns(content: Any) -> tuple[list, list, list]:
    """Boxes (xyxy), scores and labels of one object, or of a list of COCO's results."""
    if isinstance(content, dict):
        return content["boxes"], content["scores"], content["labels"]
    images = {str(entry.get("image_id")) for entry in content}
    if len(images) > 1:
        raise ForeignError(f"the results are of {len(images)} images; write those of each to a file of its own")
    boxes = [[x, y, x + width, y + height] for x, y, width, height in (entry["bbox"] for entry in content)]
    return boxes, [entry["score"] for entry in content], [entry["category_id"] for entry in content]


def _label(label: int | str, names: Sequence[str], first_label: int) -> int:
    """The index of a class here."""
    if isinstance(label, str):
        if label not in names:
            raise ForeignError(f"there is no class '{shown(label)}'; there are {listed(names)}")
        return names.index(label)
    if not isinstance(label, int) or isinstance(label, bool):
        raise ForeignError(f"label {shown(label)}; expected an integer or the name of a class")
    if not 0 <= label - first_label < len(names):
        last = first_label + len(names) - 1
        raise ForeignError(f"label {shown(label)}; the labels of the {len(names)} classes are {first_label}..{last}")
    return label - first_label
