"""The images of a dataset: in which folders they usually are, by name without suffix, and their sizes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from boxwright.data.formats.reading import BAD_IMAGE, image_size
from boxwright.data.formats.text import spelled
from boxwright.data.image import is_image
from boxwright.types import Size

_IMAGE_FOLDERS = ("JPEGImages", "images", "JPEGImage", "imgs", "img", "")


def image_folders(bases: Iterable[Path]) -> list[Path]:
    """The usual folders of images that exist below each base, and the bases themselves."""
    found = (inner_folder(base, name) for base in dict.fromkeys(bases) for name in _IMAGE_FOLDERS)
    return [folder for folder in found if folder]


def inner_folder(folder: Path, name: str) -> Path | None:
    """The sub-folder, whatever its upper and lower case; None if there is none."""
    inner: Path | None = folder
    for part in filter(None, name.split("/")):
        inner = inner and spelled(inner, part)
    return inner if inner and inner.is_dir() else None


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
