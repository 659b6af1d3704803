"""From the files, folders and globs of a command line to images, and where what is made of each goes."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from boxwright.data.image import IMAGE_SUFFIXES, is_image


class Found(NamedTuple):
    """An image, and its place: the path, without suffix, that files made from it get inside their folder."""

    path: Path
    place: Path


def find_images(sources: Sequence[str], not_in: Path) -> tuple[list[Found], list[str]]:
    """All images, each once, in the order of the sources; and a line about each source that gave none.

    Folders are looked through with their subfolders, except for hidden files and the folder `not_in`, which holds what
    an earlier run drew. Images whose places would be the same get a number.
    """
    found: dict[Path, Path] = {}
    missing: list[str] = []
    for source in sources:
        pairs = list(_expand(source, not_in.resolve()))
        found |= {path: place for path, place in pairs if path not in found}
        if not pairs:
            missing.append(_nothing(source))
    return [Found(path, place) for path, place in zip(found, _distinct(found.values()), strict=True)], missing


def _expand(source: str, not_in: Path) -> Iterator[tuple[Path, Path]]:
    path = Path(source)
    if path.is_dir():
        for image in _walk(path, not_in):
            yield image, image.relative_to(path)
    elif path.exists():
        yield path, Path(path.name)
    elif glob.has_magic(source):
        for match in sorted(glob.glob(source, recursive=True)):
            if Path(match).is_file():
                yield Path(match), Path(Path(match).name)


def _walk(folder: Path, not_in: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and Path(parent, name).resolve() != not_in
        )
        for name in sorted(files):
            if is_image(name):
                yield Path(parent, name)


def _distinct(places: Iterable[Path]) -> Iterator[Path]:
    """The places without their suffix; cat, cat-2, cat-3 for cat.jpg, cat.png and another cat.jpg."""
    taken: set[Path] = set()
    for place in places:
        stem, number = place.with_suffix(""), 1
        candidate = stem
        while candidate in taken:
            number += 1
            candidate = stem.with_name(f"{stem.name}-{number}")
        taken.add(candidate)
        yield candidate


def _nothing(source: str) -> str:
    if Path(source).is_dir():
        return f"{source}: there is no image in this folder; looked for {', '.join(sorted(IMAGE_SUFFIXES))}"
    what = "nothing matches" if glob.has_magic(source) else "there is no such file or folder; check the path"
    return f"{source}: {what}"
