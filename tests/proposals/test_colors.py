"""Colour spaces against OpenCV's and scikit-image's."""

from __future__ import annotations

import cv2
import numpy as np
from skimage.color import rgb2lab

from boxwright.proposals.colors import SPACES

ALL_KINDS = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
ALL_KINDS[:8] //= 16  # dark colours, where the cube root is steep
ALL_KINDS[9, :4] = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 0, 255)


def planes(space: str) -> np.ndarray:
    return np.moveaxis(SPACES[space](ALL_KINDS), 0, 2).astype(float)


def test_hsv_is_opencvs():
    difference = np.abs(planes("hsv") - cv2.cvtColor(ALL_KINDS, cv2.COLOR_RGB2HSV))
    difference[..., 0] = np.minimum(difference[..., 0], 180 - difference[..., 0])  # hue is a circle
    assert difference.max() <= 1


def test_lab_is_cielab():
    lightness, a, b = np.moveaxis(rgb2lab(ALL_KINDS), 2, 0)
    expected = np.stack([lightness * 2.55, a + 128, b + 128], axis=2)
    assert np.abs(planes("lab") - expected).max() < 0.8  # OpenCV's own table errs by up to 2.6


def test_single_planes():
    assert np.abs(planes("grey")[..., 0] - cv2.cvtColor(ALL_KINDS, cv2.COLOR_RGB2GRAY)).max() <= 1
    assert np.array_equal(planes("hue")[..., 0], planes("hsv")[..., 0])
    assert np.array_equal(planes("rgi"), np.dstack([ALL_KINDS[..., :2], planes("grey")]))
