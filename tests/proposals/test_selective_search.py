"""The whole search: properties that hold for every image, and agreement with OpenCV's."""

from __future__ import annotations

import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photos

from boxwright.boxes.geometry import pairwise_iou
from boxwright.install import install
from boxwright.proposals import SelectiveSearch


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_square_on_a_uniform_background():
    image = np.full((90, 120, 3), (30, 60, 200), np.uint8)
    image[20:60, 40:100] = (220, 30, 20)
    boxes = SelectiveSearch()(image).tolist()
    assert [0, 0, 120, 90] in boxes
    assert any(np.abs(np.subtract(box, [40, 20, 100, 60])).max() <= 1 for box in boxes)
    assert len(boxes) <= 6  # the square, its surroundings, the whole, and blurred borders in between


@pytest.mark.parametrize("mode", ["fast", "quality"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 1), (2, 2), (30, 40), (2, 700), (120, 90)])
def test_every_image_has_distinct_boxes_inside_it(shape: tuple[int, int], mode):
    for image in (noise(*shape), np.full((*shape, 3), 200, np.uint8)):
        boxes = SelectiveSearch(mode, longest=200)(image)
        assert boxes.dtype == np.float32 and boxes.shape[1] == 4
        assert boxes.min() >= 0 and (boxes[:, 2:].max(axis=0) <= shape[::-1]).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert len(np.unique(boxes, axis=0)) == len(boxes)
        assert [0, 0, shape[1], shape[0]] in boxes.tolist()


def test_a_uniform_image_is_one_region():
    assert SelectiveSearch()(np.full((50, 60, 3), 99, np.uint8)).tolist() == [[0, 0, 60, 50]]


def test_the_seed_changes_the_order_only():
    image = photos.chelsea()[:150, 100:300]
    first, again, other = (SelectiveSearch(seed=seed)(image) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert sorted(first.tolist()) == sorted(other.tolist())


def test_count_keeps_the_best():
    image = photos.chelsea()[:150, 100:300]
    all_boxes = SelectiveSearch(count=10**6)(image)
    assert len(all_boxes) > 60
    assert np.array_equal(SelectiveSearch(count=25)(image), all_boxes[:25])


def test_large_regions_tend_to_come_first():
    boxes = SelectiveSearch()(photos.chelsea()[:200])
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    third = len(areas) // 3
    assert np.median(areas[:third]) > 1.5 * np.median(areas[-third:])


def test_a_large_image_is_searched_reduced_and_its_boxes_scaled_back():
    image = photos.chelsea()
    reduced = np.asarray(Image.fromarray(image).resize((200, 133), Image.Resampling.BILINEAR))
    assert image.shape == (300, 451, 3)
    expected = SelectiveSearch()(reduced) * np.array([451 / 200, 300 / 133] * 2)
    boxes = SelectiveSearch(longest=200)(image)
    np.testing.assert_allclose(boxes, expected, rtol=1e-6)
    assert [0, 0, 451, 300] in boxes.tolist()
    assert np.array_equal(SelectiveSearch(longest=200)(reduced), SelectiveSearch(longest=500)(reduced))


def test_noncontiguous_arrays():
    image = noise(40, 60)
    assert np.array_equal(SelectiveSearch()(np.asfortranarray(image)), SelectiveSearch()(image))
    assert np.array_equal(SelectiveSearch()(image[:, ::-1]), SelectiveSearch()(image[:, ::-1].copy()))


@pytest.mark.parametrize("photo", [photos.astronaut, photos.coffee])
def test_opencvs_regions_are_found(photo):
    image = cv2.resize(photo(), (200, 160), interpolation=cv2.INTER_AREA)
    finder = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    finder.setBaseImage(np.ascontiguousarray(image[..., ::-1]))
    finder.switchToSelectiveSearchFast()
    opencv = torch.from_numpy(finder.process()).float()
    opencv[:, 2:] += opencv[:, :2]
    ours = torch.from_numpy(SelectiveSearch()(image))
    overlaps = pairwise_iou(opencv, ours)
    assert 0.8 < len(ours) / len(opencv) < 1.25
    assert (overlaps.amax(dim=1) >= 0.7).float().mean() > 0.8
    assert (overlaps.amax(dim=0) >= 0.7).float().mean() > 0.8


@pytest.mark.parametrize(
    ("wrong", "message"), [({"mode": "best"}, '"fast" or "quality", got'), ({"count": 0}, "count is 1 or more, got 0")]
)
def test_invalid_options(wrong: dict, message: str):
    with pytest.raises(ValueError, match=message):
        SelectiveSearch(**wrong)


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 3))])
def test_arrays_that_are_no_rgb_image(wrong: np.ndarray):
    with pytest.raises(ValueError, match="a proposer takes a uint8 RGB image"):
        SelectiveSearch()(wrong)


def test_numba_is_imported_when_it_is_needed_and_named_when_it_is_missing():
    code = """
import sys
import boxwright.proposals as proposals
assert not {"numba", "torch", "PIL"} & set(sys.modules), "imported with the package"
sys.modules["numba"] = None  # as if it were not installed
for use in (lambda: proposals.build_proposer("selective_search"), lambda: proposals.SelectiveSearch()(image)):
    try:
        import numpy
        image = numpy.zeros((2, 2, 3), numpy.uint8)
        use()
    except ImportError as error:
        print(error)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # as pytest has it
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert process.stdout.splitlines() == [f"selective search needs numba; install it with: {install('proposals')}"] * 2
