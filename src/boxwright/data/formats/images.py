"""The images of a dataset: in which folders they usually are, by name without suffix, and their sizes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from boxwright.data.formats.reading import BAD_IMAGE, image_size
from boxwright.data.image import is_image
from boxwright.types import Size

_IMAGE_FOLDERS = ("JPEGImages", "images", "JPEGImage", "imgs", "img", "")


def image_folders(bases: Iterable[Path]) -> list[Path]:
    """The usual folders of images that exist below each base, and the bases themselves."""
    return [folder for base in dict.fromkeys(bases) for folder in inner_folders(base, _IMAGE_FOLDERS)]


def inner_folders(folder: Path, names: Iterable[str]) -> list[Path]:
    """The sub-folders of these names that exist, whatever their upper and lower case; "" is the folder itself."""
    inner, found = sub_folders(folder), list[Path]()
    for name in names:
        first, _, rest = name.lower().partition("/")
        alike = [entry for entry in inner if entry.name.lower() == first] if first else [folder]
        found += [deeper for entry in alike for deeper in (inner_folders(entry, [rest]) if rest else [entry])]
    return found


def inner_folder(folder: Path, name: str) -> Path | None:
    """The sub-folder, whatever its upper and lower case; None if there is none."""
    return next(iter(inner_folders(folder, [name])), None)


def sub_folders(folder: Path) -> list[Path]:
    """All that are not hidden, sorted; the type comes with the listing, so that a folder of many files costs little."""
    try:
        with os.scandir(folder) as found:
            return sorted(Path(entry.path) for entry in found if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []


def entries(folder: Path) -> list[str]:
    """The names in a folder, sorted; [] if it cannot be listed, as `lost+found`."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def images_by_stem(folders: Iterable[Path]) -> dict[str, str]:
    """Path of each image by its name without suffix; the first folder that has it counts."""
    images: dict[str, str] = {}
    for folder in folders:
        for entry in filter(is_image, entries(folder)):
            images.setdefault(os.path.splitext(entry)[0], os.path.join(folder, entry))
    return images


def sizes_of(paths: Iterable[str]) -> list[Size | None]:
    """Of upright images, from the headers of their files; None for an image that cannot be read."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(_size_or_none, paths))


def _size_or_none(path: str) -> Size | None:
    try:
        return image_size(path)
    except BAD_IMAGE:
        return None  # `build` reads it again and reports the problem
