"""Where the label file of an image is: below `labels` where its path has `images`, or beside it."""

from __future__ import annotations

import os
from pathlib import Path

from boxwright.data.formats.reading import SPLIT_NAMES, look_alike_key
from boxwright.data.formats.text import spelled


class Labels:
    """Finds label files, with one listing per folder.

    Upper and lower case are alike in `images`, `labels`, the folders below them, and `.txt`. If images/val has no
    labels/val, another usual name of that split counts, such as labels/valid, unless there are images of that name.
    """

    def __init__(self) -> None:
        self._folders: dict[Path, Path] = {}  # of labels, by folder of images
        self._files: dict[Path, dict[str, Path]] = {}  # by stem, by folder
        self._alike: dict[Path, dict[str, list[Path]]] = {}  # by key, by folder

    def of(self, image: Path) -> Path | None:
        """The label file of an image; None if there is none."""
        parallel = self._listed(self.folder(image.parent)).get(image.stem)
        return parallel or self._listed(image.parent).get(image.stem)

    def alike(self, image: Path) -> Path | None:
        """The only label file whose name looks like the image's; for an image without one."""
        folder, key = self.folder(image.parent), look_alike_key(image.stem)
        if folder not in self._alike:
            keys = self._alike[folder] = {}
            for stem, file in self._listed(folder).items():
                keys.setdefault(look_alike_key(stem), []).append(file)
        files = self._alike[folder].get(key, ())
        return files[0] if len(files) == 1 else None

    def folder(self, images: Path) -> Path:
        """The folder of labels that belongs to a folder of images: the same one if there is no other."""
        if images not in self._folders:
            self._folders[images] = _parallel(images) or images
        return self._folders[images]

    def _listed(self, folder: Path) -> dict[str, Path]:
        if folder not in self._files:
            try:
                names = sorted(os.listdir(folder), reverse=True)  # a.txt after a.TXT, so that it counts
            except OSError:
                names = []
            divided = [(*os.path.splitext(name), name) for name in names if not name.startswith(".")]
            self._files[folder] = {stem: folder / name for stem, end, name in divided if end.lower() == ".txt"}
        return self._files[folder]


def expected_folder(images: Path) -> Path:
    """Where the labels of a folder of images should be."""
    last, parts = _last_images(images), images.parts
    return images if last is None else Path(*parts[:last], "labels", *parts[last + 1 :])


def _last_images(folder: Path) -> int | None:
    """Which part of the path is called `images`; the last one if there are several."""
    return max((k for k, part in enumerate(folder.parts) if part.lower() == "images"), default=None)


def _parallel(images: Path) -> Path | None:
    last, parts = _last_images(images), images.parts
    if last is None:
        return None
    labels = spelled(Path(*parts[:last]), "labels")
    for k in range(last + 1, len(parts)):
        labels = labels and (spelled(labels, parts[k]) or _renamed(labels, Path(*parts[:k]), parts[k]))
    return labels


def _renamed(labels: Path, images: Path, name: str) -> Path | None:
    """The folder of labels with another name of the same split, if no folder of images has that name."""
    split = SPLIT_NAMES.get(name.lower())
    others = [other for other, meant in SPLIT_NAMES.items() if meant == split and not spelled(images, other)]
    return next((folder for other in others if (folder := spelled(labels, other))), None)
