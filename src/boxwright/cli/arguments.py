"""Checks of options. They import no torch: a wrong path is refused before anything slow begins."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

DataFormat = Annotated[
    Literal["coco", "voc", "yolo", "labelme", "csv"] | None,
    arg(
        metavar="coco|voc|yolo|labelme|csv",
        help="The format of the annotations, where the data holds more than one; detected if not given.",
        help_behavior_hint="",
    ),
]
"""The option --format of every command that opens a dataset."""

MaxMegapixels = Annotated[
    float | None,
    arg(
        metavar="FLOAT",
        help="The most megapixels of an image that are decoded. Larger JPEG and JPEG 2000 are decoded smaller, others "
        "refused. $BOXWRIGHT_MAX_MEGAPIXELS or 64 if not given.",
        help_behavior_hint="",
    ),
]
"""The option --max-megapixels of every command that opens images; `boxwright.cli` heeds it."""


def dataset_path(path: Path | None) -> Path:
    """The value of --data. Raises ValueError where it is not given or does not exist."""
    if path is None:
        raise ValueError("no data. Name a dataset with --data: its folder, COCO JSON, YOLO YAML or CSV")
    check_exists("a dataset's folder, COCO JSON, YOLO YAML or CSV", path)
    return path


def check_exists(expected: str, path: Path | None) -> None:
    """A path to read from; None is an option that was not given."""
    if path is not None and not path.exists():
        raise ValueError(f"expected {expected} at {path}, which does not exist")


def chosen_splits(source: Path, splits: Iterable[str], chosen: str | None) -> list[str]:
    """The chosen split, all if None. Raises ValueError where the dataset `source` does not have it."""
    if chosen is not None and chosen not in splits:
        raise ValueError(f"{source} has no {chosen} split; it has {', '.join(splits)}")
    return list(splits) if chosen is None else [chosen]


def check_folder(option: str, path: Path | None) -> None:
    """An option that names a folder to write to: it may be missing, but not be a file."""
    if path is not None and path.exists() and not path.is_dir():
        raise ValueError(f"{option} names a folder, and {path} is a file; give another")


def check_file(option: str, path: Path | None) -> None:
    """An option that names a file to write: it may be missing, but not be a folder."""
    if path is not None and path.is_dir():
        raise ValueError(f"{option} names a file, and {path} is a folder; name a file in it")


def check_at_least(minimum: int, **options: int | None) -> None:
    """Options by their field names; None is an option that was not given."""
    for name, value in options.items():
        if value is not None and value < minimum:
            raise ValueError(f"--{name.replace('_', '-')} is {minimum} or more, got {value}")


def check_detectors(names: Sequence[str]) -> None:
    """Names of detectors, at least one."""
    from boxwright.detectors.config import DETECTORS

    if not names:
        raise ValueError(f"no detector is named; there are {', '.join(DETECTORS)}")
    for name in names:
        if name not in DETECTORS:
            raise ValueError(no_detector(name))


def no_detector(name: str) -> str:
    """The message for a name that no detector has."""
    from boxwright.detectors.config import DETECTORS

    plain = {detector.replace("_", ""): detector for detector in DETECTORS}
    alike = plain.get(re.sub("[^a-z0-9]", "", name.lower()))  # as faster-rcnn, FasterRCNN and R-FCN
    near = [alike] if alike else get_close_matches(name.lower(), DETECTORS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(DETECTORS)}; --plugin FILE adds your own"
    return f"there is no detector '{name}'; {hint}"
