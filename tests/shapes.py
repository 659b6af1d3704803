"""A synthetic dataset: coloured circles, squares and triangles on noise, with exact boxes, reproducible by seed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import torch
from PIL import Image

from boxwright.data.dataset import Dataset, Strings
from boxwright.data.formats.coco import write_coco
from boxwright.types import Size, Target

NAMES = ("circle", "square", "triangle")

SMALL = Size(96, 128)


def draw_shapes(seed: int, index: int, size: Size = SMALL, most: int = 4) -> tuple[np.ndarray, Target]:
    """Image `index`, (H, W, 3) uint8, with one to `most` shapes that do not touch, and their boxes.

    A box is the smallest that contains every pixel of its shape, so its coordinates are integers. Colour and size are
    independent of the class. Determined by the arguments alone.
    """
    rng = np.random.default_rng((seed, index))
    image = rng.integers(96, 160, (*size, 3)).astype(np.uint8)
    free = np.ones(size, bool)
    boxes, labels = [], []
    count = rng.integers(1, most + 1)
    for _ in range(8 * count):
        label, mask = _random_shape(rng, size)
        box = _bounds(mask)
        if free[_box_slices(box, margin=2)].all():
            image[mask] = _color(rng)
            free[_box_slices(box)] = False
            boxes.append(box)
            labels.append(label)
        if len(boxes) == count:
            break
    return image, Target(torch.tensor(boxes, dtype=torch.float32), torch.tensor(labels))


def write_shapes(
    folder: str | Path,
    count: int | Mapping[str, int],
    seed: int = 0,
    format: str = "coco",
    size: Size = SMALL,
) -> Path:
    """Write such images as a dataset that `open_dataset` reads, and return its folder.

    count   the number of images, or of images for each of "train", "val", "test"
    format  "coco" (JSON beside images/), "voc" (as published), "yolo" (data.yaml; classes.txt without splits),
            "labelme" (JSON beside its image) or "csv" (beside images/)
    """
    writers = {
        "coco": _write_coco,
        "voc": _write_voc,
        "yolo": _write_yolo,
        "labelme": _write_labelme,
        "csv": _write_csv,
    }
    if format not in writers:
        raise ValueError(f"expected a format out of {', '.join(writers)}, got {format}")
    folder = Path(folder)
    counts = {"": count} if isinstance(count, int) else dict(count)
    first = 0
    for split, number in counts.items():
        writers[format](folder, split, _drawn(range(first, first + number), seed, size))
        first += number
    if format == "yolo" and "" not in counts:
        lines = ["path: .", *(f"{split}: images/{split}" for split in counts), f"names: [{', '.join(NAMES)}]"]
        (folder / "data.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    elif format == "yolo":
        (folder / "classes.txt").write_text("\n".join(NAMES) + "\n", encoding="utf-8")
    return folder


Drawn = list[tuple[str, np.ndarray, Target]]


def _drawn(indices: range, seed: int, size: Size) -> Drawn:
    return [(f"{index:05d}", *draw_shapes(seed, index, size)) for index in indices]


def _random_shape(rng: np.random.Generator, size: Size) -> tuple[int, np.ndarray]:
    """A label and the mask (H, W) of its shape, inside the image."""
    label = int(rng.integers(len(NAMES)))
    radius = rng.uniform(0.08, 0.25) * min(size)
    x = rng.uniform(radius, size.width - radius)
    y = rng.uniform(radius, size.height - radius)
    rows, columns = np.ogrid[: size.height, : size.width]
    across, down = np.abs(columns + 0.5 - x), rows + 0.5 - y  # from the shape's centre to the pixels' centres
    if NAMES[label] == "circle":
        return label, across**2 + down**2 <= radius**2
    inside = np.abs(down) <= radius
    if NAMES[label] == "square":
        return label, inside & (across <= radius)
    return label, inside & (across <= (down + radius) / 2)


def _bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _box_slices(box: tuple[int, int, int, int], margin: int = 0) -> tuple[slice, slice]:
    x1, y1, x2, y2 = box
    return slice(max(0, y1 - margin), y2 + margin), slice(max(0, x1 - margin), x2 + margin)


def _color(rng: np.random.Generator) -> np.ndarray:
    """A colour unlike the grey of the noise in every channel."""
    return np.where(rng.random(3) < 0.5, rng.integers(0, 64, 3), rng.integers(192, 256, 3)).astype(np.uint8)


def _save(folder: Path, drawn: Drawn) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png" for name, _, _ in drawn]
    for path, (_, image, _) in zip(paths, drawn, strict=True):
        Image.fromarray(image).save(path)
    return paths


def _write_coco(folder: Path, split: str, drawn: Drawn) -> None:
    paths = _save(folder / "images", drawn)
    targets = [target for _, _, target in drawn]
    dataset = Dataset(
        names=NAMES,
        paths=Strings.pack(map(os.fspath, paths)),
        ids=np.array([int(name) for name, _, _ in drawn], np.int64),
        sizes=np.array([image.shape[:2] for _, image, _ in drawn], np.int64).reshape(-1, 2),
        offsets=np.cumsum([0, *map(len, targets)], dtype=np.int64),
        **{
            column: np.concatenate([getattr(target, column).numpy() for target in targets])
            for column in ("boxes", "labels", "crowd", "difficult", "area")
        },
    )
    write_coco(dataset, folder / f"{split or 'annotations'}.json")


def _write_voc(folder: Path, split: str, drawn: Drawn) -> None:
    _save(folder / "JPEGImages", drawn)
    (folder / "Annotations").mkdir(exist_ok=True)
    for name, image, target in drawn:
        height, width = image.shape[:2]
        objects = "".join(map(_voc_object, target.boxes.int().tolist(), target.labels.tolist()))
        size = f"<size>\n  <width>{width}</width>\n  <height>{height}</height>\n  <depth>3</depth>\n </size>"
        text = f"<annotation>\n <filename>{name}.png</filename>\n {size}\n{objects}</annotation>\n"
        (folder / "Annotations" / f"{name}.xml").write_text(text, encoding="utf-8")
    if split:
        lists = folder / "ImageSets" / "Main"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name, _, _ in drawn), encoding="utf-8")


def _voc_object(box: list[int], label: int) -> str:
    x1, y1, x2, y2 = box
    corners = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}  # VOC counts pixels from 1, both ends included
    inner = "".join(f"<{tag}>{value}</{tag}>" for tag, value in corners.items())
    return f" <object>\n  <name>{escape(NAMES[label])}</name>\n  <bndbox>{inner}</bndbox>\n </object>\n"


def _write_yolo(folder: Path, split: str, drawn: Drawn) -> None:
    _save(folder / "images" / split, drawn)
    labels = folder / "labels" / split
    labels.mkdir(parents=True, exist_ok=True)
    for name, image, target in drawn:
        height, width = image.shape[:2]
        lines = []
        for (x1, y1, x2, y2), label in zip(target.boxes.tolist(), target.labels.tolist(), strict=True):
            center = f"{(x1 + x2) / 2 / width} {(y1 + y2) / 2 / height}"
            lines.append(f"{label} {center} {(x2 - x1) / width} {(y2 - y1) / height}\n")
        (labels / f"{name}.txt").write_text("".join(lines), encoding="utf-8")


def _write_labelme(folder: Path, split: str, drawn: Drawn) -> None:
    for path, (name, image, target) in zip(_save(folder / split, drawn), drawn, strict=True):
        shapes = [
            {"label": NAMES[label], "points": [[x2, y1], [x1, y2]], "group_id": None, "shape_type": "rectangle"}
            for (x1, y1, x2, y2), label in zip(target.boxes.tolist(), target.labels.tolist(), strict=True)
        ]
        content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": path.name, "imageData": None}
        content |= {"imageHeight": image.shape[0], "imageWidth": image.shape[1]}
        (folder / split / f"{name}.json").write_text(json.dumps(content, indent=2), encoding="utf-8")


def _write_csv(folder: Path, split: str, drawn: Drawn) -> None:
    lines = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
    for path, (_, image, target) in zip(_save(folder / "images", drawn), drawn, strict=True):
        for box, label in zip(target.boxes.tolist(), target.labels.tolist(), strict=True):
            row = (path.name, image.shape[1], image.shape[0], NAMES[label], *box)
            lines.append(",".join(map(str, row)))
    (folder / f"{split or 'annotations'}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
