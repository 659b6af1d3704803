"""The images of a dataset: in which folders they usually are, by name without suffix, and their sizes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from boxwright.data.formats.reading import BAD_IMAGE, image_size
from boxwright.data.image import is_image
from boxwright.types import Size

_IMAGE_FOLDERS = ("jpegimages", "images", "jpegimage", "imgs", "img", "")


def image_folders(bases: Iterable[Path]) -> list[Path]:
    """The usual folders of images that exist below each base, and the bases themselves."""
    found: list[Path] = []
    for base in dict.fromkeys(bases):
        inner = {"": base} | inner_folders(base)
        found += [inner[name] for name in _IMAGE_FOLDERS if name in inner]
    return found


def inner_folders(folder: Path | None) -> dict[str, Path]:
    """The sub-folders by their names in lower case; {} of None. One listing, since a folder may have many files."""
    if folder is None or not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        names = sorted((entry.name for entry in entries if entry.is_dir()), reverse=True)
    return {name.lower(): folder / name for name in names if not name.startswith(".")}


def images_by_stem(folders: Iterable[Path]) -> dict[str, str]:
    """Path of each image by its name without suffix; the first folder that has it counts."""
    images: dict[str, str] = {}
    for folder in folders:
        for entry in sorted(os.listdir(folder)) if folder.is_dir() else ():
            if is_image(entry):
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
