"""From files, folders and globs to images, and the names of the files made from each."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple


class ImageFile(NamedTuple):
    """An image file, and the path without suffix that files made from it get inside their folder."""

    path: Path
    stem: Path


def find_images(sources: Sequence[str], excluded: Path) -> tuple[list[ImageFile], list[str]]:
    """All images, each once, in the order of the sources; and a message for each source without any.

    Folders are searched with their subfolders, without hidden folders and `excluded`, which holds earlier drawings.
    Images whose stems would be the same get a number.
    """
    stems: dict[Path, Path] = {}
    messages: list[str] = []
    for source in sources:
        pairs = list(_expand(source, excluded.resolve()))
        stems |= {path: stem for path, stem in pairs if path not in stems}
        if not pairs:
            messages.append(_nothing(source))
    return [ImageFile(path, stem) for path, stem in zip(stems, _distinct(stems.values()), strict=True)], messages


def _expand(source: str, excluded: Path) -> Iterator[tuple[Path, Path]]:
    path = Path(source)
    if path.is_dir():
        for image in _walk(path, excluded):
            yield image, image.relative_to(path)
    elif path.exists():
        yield path, Path(path.name)
    elif glob.has_magic(source):
        for match in sorted(glob.glob(source, recursive=True)):
            if Path(match).is_file():
                yield Path(match), Path(Path(match).name)


def _walk(folder: Path, excluded: Path) -> Iterator[Path]:
    from boxwright.data.image import is_image

    for parent, folders, files in os.walk(folder):
        visible = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in visible if Path(parent, name).resolve() != excluded]
        yield from (Path(parent, name) for name in sorted(files) if is_image(name))


def _distinct(paths: Iterable[Path]) -> Iterator[Path]:
    """The paths without their suffix; cat, cat-2, cat-3 for cat.jpg, cat.png and another cat.jpg."""
    taken: set[Path] = set()
    for path in paths:
        candidate, number = path.with_suffix(""), 1
        while candidate in taken:
            number += 1
            candidate = path.with_name(f"{path.stem}-{number}")
        taken.add(candidate)
        yield candidate


def _nothing(source: str) -> str:
    if Path(source).is_dir():
        from boxwright.data.image import IMAGE_SUFFIXES

        return f"{source}: there is no image in this folder; looked for {', '.join(sorted(IMAGE_SUFFIXES))}"
    reason = "nothing matches" if glob.has_magic(source) else "there is no such file or folder; check the path"
    return f"{source}: {reason}"
