"""The images of a dataset: in which folders they usually are, by name without suffix, and their sizes."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from boxwright.data.formats.reading import Folders, Reading
from boxwright.data.formats.text import find_path
from boxwright.data.image import ImageError, is_image, read_header
from boxwright.data.threads import in_threads
from boxwright.files import walk
from boxwright.types import Size

_MOST_FILES = 20_000
_IMAGE_FOLDERS = ("JPEGImages", "images", "JPEGImage", "imgs", "img", "")


def entries_of(folder: Path) -> list[str]:
    """The names in a folder; [] of what is no folder, or one that may not be read, such as `lost+found`."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def files_of(folder: Path, suffix: str) -> list[Path]:
    """The files with a suffix, in upper or lower case, that are not hidden; [] as for `entries_of`."""
    try:
        with os.scandir(folder) as entries:
            there = [entry for entry in entries if entry.name.lower().endswith(suffix) and not entry.is_dir()]
    except OSError:
        return []
    return [Path(path) for path in sorted(entry.path for entry in there if not entry.name.startswith("."))]


def inner_folders(folder: Path) -> list[Path]:
    """The sub-folders that are not hidden; [] as for `entries_of`."""
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []


def named_folders(folder: Path, names: Iterable[str]) -> list[Path]:
    """The folder's sub-folders of these names that exist, whatever their upper and lower case; "" is itself.

    The folder is listed once, since it may have many files.
    """
    inner, found = inner_folders(folder), list[Path]()
    for name in names:
        first, _, rest = name.lower().partition("/")
        alike = [entry for entry in inner if entry.name.lower() == first] if first else [folder]
        found += [deeper for entry in alike for deeper in (named_folders(entry, [rest]) if rest else [entry])]
    return found


def image_folders(bases: Iterable[Path]) -> list[Path]:
    """The usual folders of images that exist below each base, and the bases themselves."""
    return [folder for base in dict.fromkeys(bases) for folder in named_folders(base, _IMAGE_FOLDERS)]


def images_by_stem(folders: Iterable[Path]) -> dict[str, str]:
    """Path of each image by its name without suffix; the first folder that has it counts."""
    images: dict[str, str] = {}
    for folder in folders:
        for name in entries_of(folder):
            if is_image(name):
                images.setdefault(os.path.splitext(name)[0], os.path.join(folder, name))
    return images


def image_of(annotation: Path, named: str, images: Mapping[str, str], roots: Sequence[Path], folders: Folders) -> str:
    """The image of an annotation file, or where it should be.

    named   in the file, which is out of date once both are renamed
    images  by name without suffix, those of the annotation's split

    It has the name of the annotation; of two that differ in the suffix, the one that is named.
    """
    last = re.split(r"[/\\]", named)[-1] or f"{annotation.stem}.jpg"
    stem = os.path.splitext(last)[0]
    if found := images.get(annotation.stem):
        twin = os.path.join(os.path.dirname(found), last)
        return twin if stem == annotation.stem and twin in folders else found
    usual = os.path.dirname(next(iter(images.values()), "")) or str(roots[0])
    return images.get(stem) or locate(named or last, roots, folders) or os.path.join(usual, last)


def locate(name: str, roots: Sequence[Path], folders: Folders) -> str | None:
    """The path that an entry means, by `find_path`; one that looks alike, if there is no other, for `drop_missing`."""
    found = find_path(name, roots, folders.__contains__)
    return found or find_path(name, roots, lambda path: bool(folders.alike(path)))


def files_below(folder: Path, suffix: str) -> Iterator[Path]:
    """The files with a suffix among the first of a folder and its sub-folders, for messages: there may be millions."""
    return (file for file in islice(walk(folder), _MOST_FILES) if file.suffix.lower() == suffix)


def where(folder: Path, suffix: str) -> str:
    """In which folders files of a suffix are, such as "6 × .xml are in Annotations/train"; "" if there are none."""
    counts = Counter(file.parent.relative_to(folder).as_posix() for file in files_below(folder, suffix))
    return ", ".join(f"{count} × {suffix} are in {inner}" for inner, count in counts.most_common(3))


def measure(reading: Reading) -> None:
    """Give each image the size of its file, upright, from its header; None if the file cannot be read."""
    sizes = in_threads(_size_or_none, [image.path for image in reading.images])
    reading.images = [image._replace(size=size) for image, size in zip(reading.images, sizes, strict=True)]
    reading.measured = True


def _size_or_none(path: str) -> Size | None:
    try:
        return read_header(path).upright
    except ImageError:
        return None  # `build` reads it again and reports the problem
