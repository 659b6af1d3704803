"""Images resized, padded and normalised, compared with torchvision's GeneralizedRCNNTransform."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes

from boxwright.data.batch import to_images
from boxwright.data.preprocess import Preprocess
from boxwright.types import Images, Size

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pixels 0..1, as in torchvision
FILL = (255 * MEAN[0], 255 * MEAN[1], 255 * MEAN[2])

SIZES = [
    Size(48, 64),
    Size(97, 61),  # scaled, both sides are just below an integer
    Size(67, 100),
    Size(20, 333),  # limited by its long side
    Size(200, 13),
    Size(3, 5),
    Size(50, 1),
    Size(150, 211),  # reduced, without antialiasing
]


def make_image(size: Size) -> np.ndarray:
    """(H, W, 3) uint8"""
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def preprocessed(arrays: list[np.ndarray], preprocess: Preprocess) -> tuple[Images, Tensor]:
    """The images, and their normalised pixels."""
    images = to_images([preprocess(image)[0] for image in arrays], preprocess)
    mean, std = (torch.tensor([255 * level for level in levels]).view(3, 1, 1) for levels in (MEAN, STD))
    return images, (images.pixels - mean) / std


def transformed(arrays: list[np.ndarray], transform: GeneralizedRCNNTransform) -> tuple[list[tuple[int, int]], Tensor]:
    images, _ = transform([torch.from_numpy(image).permute(2, 0, 1) / 255 for image in arrays])
    return images.image_sizes, images.tensors


def assert_equal(arrays: list[np.ndarray], preprocess: Preprocess, transform: GeneralizedRCNNTransform) -> None:
    images, pixels = preprocessed(arrays, preprocess)
    sizes, expected = transformed(arrays, transform)
    assert images.sizes.tolist() == [list(size) for size in sizes]
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("short", "long"), [(80, 133), (64, 64), (97, 201)])
@pytest.mark.parametrize("divisor", [32, 1])
def test_images_of_a_given_short_side(short: int, long: int, divisor: int) -> None:
    preprocess = Preprocess(short=short, long=long, divisor=divisor, fill=FILL, resample="plain", rounding="floor")
    transform = GeneralizedRCNNTransform(short, long, list(MEAN), list(STD), size_divisible=divisor).eval()
    images = [make_image(size) for size in SIZES]
    for image in images:
        assert_equal([image], preprocess, transform)
    assert_equal(images[:3], preprocess, transform)
    assert_equal(images, preprocess, transform)


@pytest.mark.parametrize(("height", "width"), [(75, 75), (60, 80)])
def test_images_of_a_fixed_size(height: int, width: int) -> None:
    preprocess = Preprocess("stretch", height=height, width=width, divisor=1, fill=FILL, resample="plain")
    transform = GeneralizedRCNNTransform(
        75, 75, list(MEAN), list(STD), size_divisible=1, fixed_size=(width, height)
    ).eval()
    assert_equal([make_image(size) for size in SIZES], preprocess, transform)


@pytest.mark.parametrize(
    ("short", "long", "sides"),
    [(80, 133, range(2, 240, 5)), (33, 50, range(5, 240, 4)), (800, 1333, (97, 375, 427, 480, 500, 612, 640))],
)
def test_sizes_on_a_grid(short: int, long: int, sides: Sequence[int]) -> None:
    preprocess = Preprocess(short=short, long=long, resample="plain", rounding="floor")
    transform = GeneralizedRCNNTransform(short, long, list(MEAN), list(STD)).eval()
    for before in itertools.starmap(Size, itertools.product(sides, repeat=2)):
        resized, _ = transform.resize(torch.zeros(1, *before))
        assert preprocess.size(before) == resized.shape[1:], before


def test_boxes_forward_and_back() -> None:
    before = Size(333, 500)
    _, view = Preprocess(resample="plain", rounding="floor", short=200, long=280)(make_image(before))
    boxes = torch.tensor([[1.5, 20, 333, 222.25], [0, 0, 500, 333]])
    expected = resize_boxes(boxes, list(view.source), list(view.output))
    assert view.output == (186, 280)  # 186.48
    torch.testing.assert_close(view.forward(boxes), expected)
    torch.testing.assert_close(view.back(expected), resize_boxes(expected, list(view.output), list(view.source)))
