"""The images and annotations of a run or a race as digests: whether they have changed since, and how."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np

from boxwright.data.dataset import Dataset
from boxwright.data.threads import in_threads
from boxwright.files import open_regular, parse_json, sha256, write_atomically
from boxwright.typed import check
from boxwright.units import counted

WHOLE = 1 << 30
"""Bytes of all image files, up to which they are digested from end to end."""

_END = 8 << 10
"""Bytes at both ends of a file that are digested, with its size, where all files are more than `WHOLE`. An edited JPEG
or PNG differs there: all that follows the first changed pixel is coded anew, and a PNG ends with a checksum."""

_DIGITS = 16
_LISTED = 3  # file names in a message


class ImagePrint(NamedTuple):
    """An image as digests.

    file     relative to the dataset's folder; only for messages
    content  of the file's bytes; "" where it cannot be read
    objects  of the image's size, and the boxes with class names and flags
    boxes    their number
    """

    file: str
    content: str
    objects: str
    boxes: int


@dataclass(frozen=True)
class Fingerprint:
    """Equal `digest`s mean equal data, wherever it is and whatever its files are called.

    names      classes
    splits     the images of each
    proposals  digest of the file that proposals are read from; "" where there is none
    whole      whether files are digested from end to end
    """

    names: list[str]
    splits: Mapping[str, Sequence[ImagePrint]]
    proposals: str
    whole: bool

    @cached_property
    def digest(self) -> str:
        """Of all that a result depends on, the order of images and classes included."""
        splits = {split: [image[1:] for image in images] for split, images in self.splits.items()}
        return sha256(json.dumps([self.names, splits, self.proposals, self.whole]).encode())[:_DIGITS]

    def write(self, path: Path) -> None:
        content = {"names": self.names, "splits": self.splits, "proposals": self.proposals, "whole": self.whole}
        write_atomically(path, json.dumps(content))

    @classmethod
    def read(cls, path: Path) -> Fingerprint | None:
        """None where there is no such file. Raises ValueError for anything that `write` did not write."""
        if not path.exists():
            return None
        try:
            with open_regular(path) as file:
                content = parse_json(file.read(), path)
            check(str(path), content, _Content)
        except ValueError as error:
            raise ValueError(f"{error}. Remove the file to go on without comparing the data") from error
        splits = {split: [ImagePrint(*image) for image in images] for split, images in content["splits"].items()}
        return cls(content["names"], splits, content["proposals"], content["whole"])


class _Content(TypedDict):
    names: list[str]
    splits: dict[str, list[tuple[str, str, str, int]]]
    proposals: str
    whole: bool


def fingerprint(
    splits: Mapping[str, Dataset], source: Path, proposals: Path | None = None, before: Fingerprint | None = None
) -> Fingerprint:
    """The fingerprint of data.

    source     the dataset's folder or file, as `Splits` has it
    proposals  the file that proposals are read from
    before     the fingerprint to compare with: files are digested as for it
    """
    paths = {split: [dataset.paths[i] for i in range(len(dataset))] for split, dataset in splits.items()}
    root = os.path.join(source if source.is_dir() else source.parent, "")
    prints = {}
    if before is not None:
        whole = before.whole
    else:
        whole = sum(in_threads(_size, [path for of_split in paths.values() for path in of_split])) <= WHOLE
    for split, dataset in splits.items():
        files = (path[len(root) :] if path.startswith(root) else os.path.relpath(path, root) for path in paths[split])
        contents = in_threads(partial(_content, whole=whole), paths[split])
        boxes = np.diff(dataset.offsets).tolist()
        prints[split] = list(map(ImagePrint, files, contents, _objects(dataset), boxes))
    names = list(next(iter(splits.values())).names)
    return Fingerprint(names, prints, file_digest(proposals) if proposals else "", whole)


def file_digest(path: Path) -> str:
    """Of a file's content; of its size and its ends where it is larger than `WHOLE`. "" where it cannot be read."""
    return _content(str(path), whole=_size(str(path)) <= WHOLE)


def _size(path: str) -> int:
    """0 where there is no such file."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _content(path: str, whole: bool) -> str:
    try:
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode):  # a pipe would wait
            return _digest(path, status.st_size, status.st_mtime_ns, whole)
    except OSError:
        pass  # the command that reads the image says so
    return ""


@cache
def _digest(path: str, size: int, changed: int, whole: bool) -> str:
    """`changed`, the time of the last change, only keeps this process from digesting a file twice."""
    with open(path, "rb") as file:
        if whole or size <= 2 * _END:
            return hashlib.file_digest(file, "sha256").hexdigest()[:_DIGITS]
        first = file.read(_END)
        file.seek(-_END, os.SEEK_END)
        return sha256(b"%d %b %b" % (size, first, file.read(_END)))[:_DIGITS]


def _objects(dataset: Dataset) -> Iterator[str]:
    """Of each image. Class names count, not labels, so that classes in another order are one change."""
    names = np.array(
        [int(sha256(name.encode(errors="surrogatepass"))[:_DIGITS], 16) for name in dataset.names], np.uint64
    )
    columns = (names[dataset.labels], dataset.boxes, dataset.area, dataset.crowd, dataset.difficult)
    rows = [np.ascontiguousarray(column).reshape(len(dataset.boxes), -1).view(np.uint8) for column in columns]
    boxes, sizes = np.concatenate(rows, 1), np.ascontiguousarray(dataset.sizes)  # (M, 30), (N, 2)
    for i, (start, end) in enumerate(zip(dataset.offsets[:-1].tolist(), dataset.offsets[1:].tolist(), strict=True)):
        yield sha256(sizes[i].tobytes() + boxes[start:end].tobytes())[:_DIGITS]


def changes(before: Fingerprint | None, now: Fingerprint) -> list[str]:
    """What is different, in words; [] where nothing is, or there is nothing to compare with."""
    if before is None or before.digest == now.digest:
        return []
    sentences = []
    if before.names != now.names:
        pairs = enumerate(zip_longest(before.names, now.names, fillvalue="missing"))
        index, (was, name) = next((index, pair) for index, pair in pairs if pair[0] != pair[1])
        sentences.append(f"class names[{index}] was {was}, now {name}")
    for split in {**before.splits, **now.splits}:
        if split not in before.splits:
            sentences.append(f"{split} is new, with {counted(len(now.splits[split]), 'image')}")
        elif split not in now.splits:
            sentences.append(f"{split} is missing, which had {counted(len(before.splits[split]), 'image')}")
        elif parts := _differences(before.splits[split], now.splits[split]):
            sentences.append(f"{split}: {', '.join(parts)}")
    if before.proposals != now.proposals:
        sentences.append("the file of proposals has other content")
    return sentences


def _differences(before: Sequence[ImagePrint], now: Sequence[ImagePrint]) -> list[str]:
    """Of a split. An image that only got another name is none."""
    if [image[1:] for image in before] == [image[1:] for image in now]:
        return []
    old, new = ({image.file: image for image in images} for images in (before, now))
    lost = [image for image in before if image.file not in new]
    come = [image for image in now if image.file not in old]
    both = [(old[file], new[file]) for file in old if file in new]
    found = {
        "added": _apart(come, lost),
        "removed": _apart(lost, come),
        "with other content": [image.file for was, image in both if was.content != image.content],
        "with other boxes, classes or size": [image.file for was, image in both if was.objects != image.objects],
    }
    parts = [f"{counted(len(files), 'image')} {what} ({_some(files)})" for what, files in found.items() if files]
    counts = [sum(image.boxes for image in images) for images in (before, now)]
    if counts[0] != counts[1]:
        parts.append(f"{counts[0]} boxes before, {counts[1]} now")
    return parts or ["the images are in another order"]


def _apart(images: Sequence[ImagePrint], others: Sequence[ImagePrint]) -> list[str]:
    """The files of images that are not among the others by content and objects."""
    left = Counter(image[1:] for image in images) - Counter(image[1:] for image in others)
    return [image.file for image in images if image[1:] in left]


def _some(files: Sequence[str]) -> str:
    return ", ".join(files[:_LISTED]) + (", …" if len(files) > _LISTED else "")
