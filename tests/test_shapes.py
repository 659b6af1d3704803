"""Synthetic images: boxes against the pixels, and the same dataset in all three formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.data.formats import FORMATS, open_dataset
from boxwright.types import Size
from shapes import NAMES, draw_shapes, write_shapes


def is_drawn(image: np.ndarray) -> np.ndarray:
    """(H, W) bool: noise is 96..159 in every channel, shapes in none."""
    return np.asarray(np.all((image < 96) | (image >= 160), axis=2))


def test_boxes_contain_every_pixel_that_is_not_noise() -> None:
    for index in range(30):
        image, target = draw_shapes(0, index)
        drawn = is_drawn(image)
        inside = np.zeros_like(drawn)
        for x1, y1, x2, y2 in target.boxes.int().tolist():
            crop = drawn[y1:y2, x1:x2]
            assert crop.any(0).all() and crop.any(1).all()
            inside[y1:y2, x1:x2] = True
        assert not drawn[~inside].any()


def test_shapes_fill_the_geometric_share_of_their_boxes() -> None:
    shares: dict[int, list[float]] = {label: [] for label in range(3)}
    for index in range(60):
        image, target = draw_shapes(1, index, Size(200, 200))
        drawn = is_drawn(image)
        for (x1, y1, x2, y2), label in zip(target.boxes.int().tolist(), target.labels.tolist(), strict=True):
            shares[label].append(float(drawn[y1:y2, x1:x2].mean()))
    for name, expected in {"circle": np.pi / 4, "square": 1, "triangle": 0.5}.items():
        assert np.mean(shares[NAMES.index(name)]) == pytest.approx(expected, abs=0.02)


def test_the_same_arguments_give_the_same_image() -> None:
    image, target = draw_shapes(3, 5)
    again, same = draw_shapes(3, 5)
    assert (image == again).all() and torch.equal(target.boxes, same.boxes)
    assert not (image == draw_shapes(4, 5)[0]).all() and not (image == draw_shapes(3, 6)[0]).all()
    assert image.shape == (96, 128, 3) and image.dtype == np.uint8 and target.boxes.dtype == torch.float32


def test_from_one_to_the_most_shapes() -> None:
    counts = {len(draw_shapes(0, index, most=3)[1]) for index in range(60)}
    assert counts == {1, 2, 3}


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_gives_the_boxes_that_were_drawn(format: str, tmp_path: Path) -> None:
    splits = open_dataset(write_shapes(tmp_path, {"train": 3, "val": 2}, seed=7, format=format))
    assert splits.format == format and not splits.drawn
    assert {split: len(data) for split, data in splits.items()} == {"train": 3, "val": 2}
    assert set(splits.names) <= set(NAMES)
    for split, first in (("train", 0), ("val", 3)):
        for i in range(len(splits[split])):
            image, expected = draw_shapes(7, first + i)
            target = splits[split].target(i)
            assert (target.boxes - expected.boxes).abs().max() <= (1e-4 if format == "yolo" else 0)
            assert [splits.names[k] for k in target.labels] == [NAMES[k] for k in expected.labels]
            assert splits[split].size(i) == image.shape[:2]
            assert (np.asarray(Image.open(splits[split].path(i))) == image).all()


@pytest.mark.parametrize("format", FORMATS)
def test_without_splits(format: str, tmp_path: Path) -> None:
    splits = open_dataset(write_shapes(tmp_path, 12, format=format))
    assert splits.drawn and sum(map(len, splits.values())) == 12


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="out of coco, voc, yolo, labelme, csv, got kitti"):
        write_shapes(tmp_path, 1, format="kitti")
