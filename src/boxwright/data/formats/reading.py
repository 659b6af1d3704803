"""What every annotation reader returns: unchecked rows with their file and line, and the problems found."""

from __future__ import annotations

import math
import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np
from PIL import Image

from boxwright.data.dataset import Dataset, Strings
from boxwright.data.image import upright_size
from boxwright.types import Size

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip

_KINDS = {
    "error": "unreadable annotations, missing split, malformed annotation, missing image, unreadable image, "
    "missing annotation, annotation without image, degenerate box, not a number, unknown class, duplicate id, "
    "image in two splits",
    "warning": "box outside image, wrong size, duplicate image, duplicate box, ambiguous class, "
    "shared annotation, split without labels",
    "note": "image without annotation, image not listed, similar file name, unused columns",
}
SEVERITY = {kind: severity for severity, kinds in _KINDS.items() for kind in kinds.split(", ")}
"""Of each kind of problem. error: left out when the dataset is opened, or makes metrics wrong; warning: kept, perhaps
corrected; note: allowed, but worth knowing."""

BAD_IMAGE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises for a file that is not an image."""


class DatasetError(ValueError):
    """The dataset cannot be opened. The message states what was expected, what was found, and how to mend it."""

    def __init__(self, message: str, file: Path | None = None, line: int | None = None) -> None:
        super().__init__(message)
        self.file, self.line = file, line


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a dataset: in which file, on which line (None if it has none), and how to mend it."""

    kind: str
    file: str
    line: int | None
    message: str
    mend: str
    severity: str = ""

    def __post_init__(self) -> None:
        if not self.severity:
            object.__setattr__(self, "severity", SEVERITY[self.kind])

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{where}: {self.severity}: {self.kind}: {self.message}; {self.mend}"


class ImageRow(NamedTuple):
    """An image as the annotations list it; `size` is the annotated size, None if there is none."""

    path: str
    id: int | str
    size: Size | None
    file: str
    line: int | None = None


class BoxRow(NamedTuple):
    """A box of `images[image]` in continuous xyxy pixels, with the file and line of its annotation."""

    image: int
    name: str
    box: tuple[float, float, float, float]
    file: str
    line: int | None = None
    crowd: bool = False
    difficult: bool = False
    area: float | None = None


@dataclass
class Reading:
    """One split as annotated. `names` are the classes in the dataset's own order."""

    names: list[str]
    images: list[ImageRow] = field(default_factory=list)
    boxes: list[BoxRow] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def report(
        self, kind: str, file: str | Path, line: int | None, message: str, mend: str, severity: str = ""
    ) -> None:
        """Add a problem."""
        self.problems.append(Problem(kind, str(file), line, message, mend, severity))


def image_size(path: str | Path) -> Size:
    """Size of the upright image, read from the file's header only."""
    with Image.open(path) as image:
        return upright_size(image)


def build(reading: Reading, names: Sequence[str] | None = None) -> tuple[Dataset, list[Problem]]:
    """The dataset without broken boxes and images, and all problems, including those of the reading.

    Boxes are clipped to the image. If a box exceeds it by more than a pixel, the annotated size may be wrong, so the
    size is first read from the image's header; likewise if no size is annotated.
    """
    names = tuple(reading.names if names is None else names)
    problems = list(reading.problems)
    rows = reading.boxes
    raw = np.array([row.box for row in rows], np.float64).reshape(-1, 4)
    owners = np.array([row.image for row in rows], np.int64)
    sizes, readable = _true_sizes(reading.images, raw, owners, problems)

    limits = np.tile(sizes[owners][:, ::-1], 2)  # (M, 4) width, height, width, height
    clipped = np.clip(raw, 0, limits).astype(np.float32)
    with np.errstate(invalid="ignore"):
        usable = (clipped[:, 2:] > clipped[:, :2]).all(1) & np.isfinite(raw).all(1) & readable[owners]
    for i in np.flatnonzero(~usable | (np.abs(clipped - raw) > 1).any(1)):
        if readable[owners[i]]:
            problems.append(_box_problem(rows[i], Size(*sizes[owners[i]].tolist())))

    kept = np.flatnonzero(usable)
    kept = kept[np.argsort(owners[kept], kind="stable")]
    boxes = clipped[kept]
    sides = boxes[:, 2:] - boxes[:, :2]
    given = np.array([math.nan if rows[i].area is None else rows[i].area for i in kept], np.float32)
    label_of = {name: label for label, name in enumerate(names)}
    dataset = Dataset(
        names=names,
        paths=Strings.pack(image.path for image in reading.images),
        ids=_column_of_ids([image.id for image in reading.images]),
        sizes=sizes,
        offsets=np.concatenate([[0], np.cumsum(np.bincount(owners[kept], minlength=len(sizes)))]).astype(np.int64),
        boxes=boxes,
        labels=np.array([label_of[rows[i].name] for i in kept], np.int64),
        crowd=np.array([rows[i].crowd for i in kept], bool),
        difficult=np.array([rows[i].difficult for i in kept], bool),
        area=np.where(np.isfinite(given), given, sides[:, 0] * sides[:, 1]).astype(np.float32),
    )
    return (dataset if readable.all() else dataset.select(np.flatnonzero(readable))), problems


def warn_about(problems: Iterable[Problem], source: Path) -> None:
    """One warning that counts what was left out and names the command that lists it."""
    counts = Counter(problem.kind for problem in problems if problem.severity == "error")
    if counts:
        listed = ", ".join(f"{count} × {kind}" for kind, count in counts.most_common())
        warnings.warn(f"{source}: left out {listed}; `boxwright data check {source}` names each", stacklevel=3)


def drop_missing(reading: Reading) -> None:
    """Remove images whose file does not exist, with their boxes, and report them.

    A file whose name differs in case, Unicode form or %20 alone is taken instead, where there is one such file and
    no other entry names it.
    """
    folders = Folders()
    listed = {image.path for image in reading.images}
    new_index: list[int | None] = []  # by old index
    images: list[ImageRow] = []
    for image in reading.images:
        if image.path not in folders:
            alike = folders.alike(image.path)
            if len(alike) != 1 or alike[0] in listed:
                message = f"expected an image at {image.path}, there is none"
                message += f", only {' and '.join(alike)}" if alike else ""
                reading.report("missing image", image.file, image.line, message, "put it there, or remove its entry")
                new_index.append(None)
                continue
            message = f"{alike[0]} is read for {image.path}, which does not exist"
            mend = "write the file's name as it is; other programs may not find it"
            reading.report("similar file name", image.file, image.line, message, mend)
            image = image._replace(path=alike[0])
            listed.add(alike[0])
        new_index.append(len(images))
        images.append(image)
    reading.boxes = [row._replace(image=index) for row in reading.boxes if (index := new_index[row.image]) is not None]
    reading.images = images


class Folders:
    """Tests `path in folders` with one directory listing per folder instead of one `stat` per file."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}
        self._alike: dict[str, dict[str, list[str]]] = {}

    def __contains__(self, path: str) -> bool:
        folder, name = os.path.split(path)
        return name in self._list(folder) or os.path.exists(path)  # `exists` for case-insensitive file systems

    def alike(self, path: str) -> list[str]:
        """Existing paths that differ from a missing one in case, Unicode form or percent-encoding alone."""
        folder, name = os.path.split(path)
        if not name or folder == path:
            return []
        folders = [folder] if os.path.isdir(folder or os.curdir) else self.alike(folder)
        return [os.path.join(inner, other) for inner in folders for other in self._by_key(inner).get(_key(name), ())]

    def _list(self, folder: str) -> frozenset[str]:
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(os.listdir(folder or os.curdir))
            except OSError:
                self._names[folder] = frozenset()
        return self._names[folder]

    def _by_key(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._alike:
            keys = self._alike[folder] = {}
            for name in sorted(self._list(folder)):
                keys.setdefault(_key(name), []).append(name)
        return self._alike[folder]


def _key(name: str) -> str:
    """Equal for names that look alike; the form is composed again because case folding may undo it."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", unquote(name)).casefold())


def _true_sizes(
    images: list[ImageRow], boxes: np.ndarray, owners: np.ndarray, problems: list[Problem]
) -> tuple[np.ndarray, np.ndarray]:
    """Sizes (N, 2), as annotated or, where that is in doubt, from the image's header; and which are readable (N,)."""
    sizes = np.array([image.size or (0, 0) for image in images], np.int64).reshape(-1, 2)
    with np.errstate(invalid="ignore"):
        over = (boxes[:, 2:] > sizes[owners][:, ::-1] + 1).any(axis=1) & np.isfinite(boxes).all(axis=1)
    doubtful = np.union1d(np.flatnonzero((sizes <= 0).any(axis=1)), owners[over])
    readable = np.ones(len(images), bool)
    for i in doubtful:
        try:
            sizes[i] = image_size(images[i].path)
        except BAD_IMAGE as error:
            readable[i] = False
            problems.append(unreadable(images[i].path, error))
    return sizes, readable


def unreadable(path: str, error: Exception) -> Problem:
    """An `ImageError` states how to mend the file after the last semicolon; Pillow's errors do not."""
    what, _, mend = str(error).removeprefix(f"{path}: ").rpartition("; ")
    if not what:
        what, mend = f"expected an image: {error}", "copy it again from its source, or remove it"
    return Problem("unreadable image", path, None, what, mend)


def _box_problem(row: BoxRow, size: Size) -> Problem:
    x1, y1, x2, y2 = row.box
    text = f"box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) of class {row.name}"
    if not all(map(math.isfinite, row.box)):
        return Problem("not a number", row.file, row.line, f"{text} is not finite", "draw the box again or remove it")
    if np.float32(x2) <= np.float32(x1) or np.float32(y2) <= np.float32(y1):
        message = f"{text} is {x2 - x1:g} wide and {y2 - y1:g} high; both must be above 0"
        return Problem("degenerate box", row.file, row.line, message, "draw the box again or remove it")
    disjoint = x1 >= size.width or y1 >= size.height or x2 <= 0 or y2 <= 0
    how, mend = ("lies outside", "remove it") if disjoint else ("reaches outside", "clip it to the image")
    message = f"{text} {how} its image of {size.width}×{size.height}"
    return Problem("box outside image", row.file, row.line, message, mend, "error" if disjoint else "warning")


def _column_of_ids(ids: list[int | str]) -> np.ndarray | Strings:
    if all(isinstance(value, int) and abs(value) < 2**63 for value in ids):
        return np.array(ids, np.int64)
    return Strings.pack(str(value) for value in ids)
