"""A sheet of samples has a cell per image that can be read, with the boxes where they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from boxwright.data.augment import PRESETS
from boxwright.data.formats import open_dataset
from boxwright.data.image import ImageError
from boxwright.draw.boxes import class_colors
from boxwright.draw.samples import contact_sheet


def dataset(folder: Path, count: int, box: tuple[int, int, int, int] = (10, 20, 30, 40), height: int = 80):
    """Grey images, 80 wide, each with a box xywh."""
    images = [{"id": i, "file_name": f"{i}.png", "width": 80, "height": height} for i in range(count)]
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": box} for i in range(count)]
    for i in range(count):
        PIL.Image.fromarray(np.full((height, 80, 3), 100 + i, np.uint8)).save(folder / f"{i}.png")
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    (folder / "test.json").write_text(json.dumps(content))
    return open_dataset(folder / "test.json")["test"]


def test_boxes_grow_with_their_image(tmp_path: Path):
    sheet = np.asarray(contact_sheet(dataset(tmp_path, 1)))
    assert sheet.shape == (336, 336, 3)  # a cell of 320 and 8 around it
    colored = (sheet == class_colors(["cat"])["cat"]).all(axis=2)
    assert colored[8 + 4 * 60 - 1, 8 + 40 : 8 + 160].all()  # the lower side of the box (10, 20, 40, 60), four times
    assert not colored[8 + 4 * 60, :].any()


def test_as_many_cells_as_there_are_images_that_can_be_read(tmp_path: Path):
    images = dataset(tmp_path, 5)
    assert contact_sheet(images, count=2).size == (2 * 328 + 8, 328 + 8)
    (tmp_path / "3.png").write_bytes(b"")
    assert contact_sheet(images, count=12).size == (2 * 328 + 8, 2 * 328 + 8)  # four are left
    for path in tmp_path.glob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(ImageError, match="none of the 5 images"):
        contact_sheet(images)


def test_rows_are_as_high_as_their_images(tmp_path: Path):
    images = dataset(tmp_path, 3, box=(10, 5, 30, 20), height=40)
    assert contact_sheet(images).size == (2 * 328 + 8, 2 * 168 + 8)


def test_the_seed_decides_what_is_shown(tmp_path: Path):
    images = dataset(tmp_path, 8)
    for augment in (None, PRESETS["strong"]):
        once, again, other = (np.asarray(contact_sheet(images, 4, seed, augment)) for seed in (1, 1, 2))
        np.testing.assert_array_equal(once, again)
        assert once.shape == other.shape and (once != other).any()
