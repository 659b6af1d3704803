"""From files, folders and globs to images, and the names of the files made from each."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from boxwright.files import Outputs, walk

if TYPE_CHECKING:
    import PIL.Image

STDIN = Path("-")
"""The image that is read from standard input."""

_DRAWN = (".jpg", ".jpeg", ".png", ".webp")  # formats of drawings; other images are drawn as JPEG
_RESERVED = "classes"  # of the file of class names beside labels in YOLO's format
_MOST = 5  # suffixes that are listed


class ImageFile(NamedTuple):
    """An image file, and the path without suffix that files made from it get inside their folder."""

    path: Path
    stem: Path

    def output(self, folder: Path, suffix: str) -> Path:
        """The file made from it. The suffix is added, not replaced as in pathlib: the stem of my.cat.jpg is my.cat."""
        return folder / self.stem.with_name(self.stem.name + suffix)

    def drawing(self, folder: Path) -> Path:
        """The file that it is drawn to, of its own format where that is usual."""
        return self.output(folder, self.path.suffix if self.path.suffix.lower() in _DRAWN else ".jpg")


class Found(NamedTuple):
    """The images of some sources."""

    images: list[ImageFile]
    failed: list[str]
    """A message for each source without any image."""
    left_out: str
    """How many files of the folders are no images by their names, by suffix; "" if there is none."""


def find_images(sources: Sequence[str], excluded: Path, stdin: bool = False) -> Found:
    """All images, each once, in the order of the sources; with `stdin`, `-` is standard input.

    Folders are searched with their subfolders, linked ones too, without hidden folders and `excluded`, which holds
    earlier drawings. Images whose stems would be the same, or differ in case only, get a number.
    """
    stems: dict[Path, Path] = {}
    failed: list[str] = []
    others: Counter[str] = Counter()
    for source in sources:
        pairs = [(STDIN, Path("stdin"))] if stdin and source == str(STDIN) else list(_expand(source, excluded, others))
        stems |= {path: stem for path, stem in pairs if path not in stems}
        if not pairs:
            failed.append(_nothing(source))
    images = [ImageFile(path, stem) for path, stem in zip(stems, _distinct(stems.values()), strict=True)]
    return Found(images, failed, _left_out(others))


def _expand(source: str, excluded: Path, others: Counter[str]) -> Iterator[tuple[Path, Path]]:
    """The images of a source, and what their stems are made of; other files of a folder are counted by suffix."""
    path = Path(source)
    if path.is_dir():
        from boxwright.data.image import is_image

        for file in walk(path, excluded):
            if is_image(file.name):
                yield file, file.relative_to(path)
            else:
                others[file.suffix.lower() or "without suffix"] += 1
    elif path.exists():
        yield path, Path(path.name)
    elif glob.has_magic(source):
        for match in sorted(glob.glob(source, recursive=True)):
            if Path(match).is_file():
                yield Path(match), Path(Path(match).name)


def _left_out(others: Counter[str]) -> str:
    if not others:
        return ""
    kinds = [f"{count} {suffix}" for suffix, count in others.most_common(_MOST)]
    rest = others.total() - sum(count for _, count in others.most_common(_MOST))
    kinds += [f"{rest} others"] if rest else []
    return f"left out, by their names no images: {', '.join(kinds)}; an image that is named itself is read all the same"


def _distinct(paths: Iterable[Path]) -> Iterator[Path]:
    """The paths without their suffix; cat, cat-2, cat-3 for cat.jpg, cat.png and another Cat.jpg."""
    taken = {_RESERVED}
    numbers: Counter[str] = Counter()  # the last one given to each
    for path in paths:
        candidate = path.with_suffix("")
        first = str(candidate).casefold()
        while str(candidate).casefold() in taken:
            numbers[first] = max(numbers[first], 1) + 1
            candidate = path.with_name(f"{path.stem}-{numbers[first]}")
        taken.add(str(candidate).casefold())
        yield candidate


def save_drawing(drawing: PIL.Image.Image, path: Path, outputs: Outputs, option: str) -> Path:
    """The file written: `path`, or a PNG where its format has no image so large. Raises ValueError where that fails."""
    from boxwright.draw.boxes import encode

    suffix, content = encode(drawing, path.suffix)
    if suffix != path.suffix:
        path = path.with_name(path.name.removesuffix(path.suffix) + suffix)
        outputs.check(option, [path])
    outputs.write(path, content)
    return path


def _nothing(source: str) -> str:
    if Path(source).is_dir():
        from boxwright.data.image import IMAGE_SUFFIXES

        return f"{source}: there is no image in this folder; looked for {', '.join(sorted(IMAGE_SUFFIXES))}"
    reason = "nothing matches" if glob.has_magic(source) else "there is no such file or folder; check the path"
    return f"{source}: {reason}"
