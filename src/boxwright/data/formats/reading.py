"""What every annotation reader returns: unchecked rows with their file and line, and the problems found."""

from __future__ import annotations

import gc
import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from boxwright.data.image import ImageError
from boxwright.types import Size

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip

_KINDS = {
    "error": "unreadable annotations, missing split, malformed annotation, missing image, unreadable image, "
    "missing annotation, annotation without image, degenerate box, not a number, unknown class, duplicate id, "
    "image in two splits, box in shares, unreadable list, too many boxes",
    "warning": "box outside image, wrong size, duplicate image, duplicate box, ambiguous class, boxes scaled, "
    "shared annotation, split without labels, file not used, split not used, only crowds",
    "note": "image without annotation, image not listed, similar file name, unused columns, ids of two types, "
    "box of a mask",
}
SEVERITY = {kind: severity for severity, kinds in _KINDS.items() for kind in kinds.split(", ")}
"""Of each kind of problem. error: left out when the dataset is opened, or makes metrics wrong; warning: kept, perhaps
corrected; note: allowed, but worth knowing."""

_IN_FULL = (
    "box in shares",
    "boxes scaled",
    "split without labels",
    "shared annotation",
    "file not used",
    "split not used",
    "unreadable list",
    "ambiguous class",
)
"""Kinds that concern a whole file or split: they are printed in full when the dataset is opened."""


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
    """One split as annotated. `names` are the classes in the dataset's own order.

    measured  whether the sizes were read from the image files and boxes were made with them
    """

    names: list[str]
    images: list[ImageRow] = field(default_factory=list)
    boxes: list[BoxRow] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    measured: bool = False

    def report(
        self, kind: str, file: str | Path, line: int | None, message: str, mend: str, severity: str = ""
    ) -> None:
        """Add a problem."""
        self.problems.append(Problem(kind, str(file), line, message, mend, severity))


@contextmanager
def without_collector() -> Iterator[None]:
    """Within it, Python looks for no cycles: rows have none, and it would walk over millions of them many times."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def warn_about(problems: Iterable[Problem], source: Path) -> None:
    """One warning that counts what was left out and names the command that lists it; and for each kind of problem that
    concerns a whole file or split, one with the first of them."""
    problems = list(dict.fromkeys(problems))
    counts = Counter(problem.kind for problem in problems if problem.severity == "error")
    if listed := ", ".join(f"{count} × {kind}" for kind, count in counts.most_common() if kind not in _IN_FULL):
        warnings.warn(f"{source}: left out {listed}; `boxwright data check {source}` names each", stacklevel=3)
    for kind in _IN_FULL:
        if same := [str(problem) for problem in problems if problem.kind == kind]:
            more = f" ({len(same) - 1} more: `boxwright data check {source}`)" if len(same) > 1 else ""
            warnings.warn(same[0] + more, stacklevel=3)


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
    if None in new_index:
        kept = [row for row in reading.boxes if new_index[row.image] is not None]
        reading.boxes = [row._replace(image=new_index[row.image]) for row in kept]
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
        return [
            os.path.join(inner, other)
            for inner in folders
            for other in self._by_key(inner).get(look_alike_key(name), ())
        ]

    def _list(self, folder: str) -> frozenset[str]:
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(os.listdir(folder or os.curdir))
            except (OSError, ValueError):  # ValueError: a name that no folder can have
                self._names[folder] = frozenset()
        return self._names[folder]

    def _by_key(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._alike:
            keys = self._alike[folder] = {}
            for name in sorted(self._list(folder)):
                keys.setdefault(look_alike_key(name), []).append(name)
        return self._alike[folder]


def look_alike_key(name: str) -> str:
    """Equal for names that differ in case, Unicode form or percent-encoding alone; case folding may undo the form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", unquote(name)).casefold())


def unreadable(path: str, error: ImageError) -> Problem:
    """The problem of an image; the error states how to mend it after the last semicolon."""
    what, _, mend = str(error).removeprefix(f"{path}: ").rpartition("; ")
    return Problem("unreadable image", path, None, what, mend)
