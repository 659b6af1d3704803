"""The colour spaces of selective search, each as planes (C, H, W) uint8 of an image (H, W, 3) uint8 RGB."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from boxwright.compiled import kernel

_STEPS = 1 << 14  # size of the lookup table for CIE's cube root


def _srgb_to_linear() -> np.ndarray:
    """IEC 61966-2-1: (256,) float32, the linear light 0..1 of each byte of sRGB."""
    value = np.arange(256) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4).astype(np.float32)


def _lightness() -> np.ndarray:
    """CIE 1976: (_STEPS + 1,) float32, the cube root of 0..1, linear near 0."""
    value = np.arange(_STEPS + 1) / _STEPS
    return np.where(value > (6 / 29) ** 3, np.cbrt(value), value * (29 / 6) ** 2 / 3 + 4 / 29).astype(np.float32)


@kernel
def hsv(image: np.ndarray) -> np.ndarray:
    """Hue in steps of two degrees, 0..179, saturation and value 0..255. (H, W, 3) -> (3, H, W)"""
    height, width, _ = image.shape
    planes = np.empty((3, height, width), np.uint8)
    for y in range(height):
        for x in range(width):
            r, g, b = np.int32(image[y, x, 0]), np.int32(image[y, x, 1]), np.int32(image[y, x, 2])
            high, low = max(r, g, b), min(r, g, b)
            span = high - low
            if span == 0:
                hue = np.float32(0)
            elif high == r:
                hue = np.float32(30 * (g - b)) / np.float32(span)
            elif high == g:
                hue = np.float32(30 * (b - r)) / np.float32(span) + np.float32(60)
            else:
                hue = np.float32(30 * (r - g)) / np.float32(span) + np.float32(120)
            if hue < 0:
                hue += np.float32(180)
            planes[0, y, x] = np.uint8(min(hue + np.float32(0.5), np.float32(179)))
            planes[1, y, x] = (255 * span + high // 2) // high if high else 0
            planes[2, y, x] = high
    return planes


@kernel
def _lab(image: np.ndarray, linear: np.ndarray, lightness: np.ndarray) -> np.ndarray:
    height, width, _ = image.shape
    planes = np.empty((3, height, width), np.uint8)
    steps, half = np.float32(len(lightness) - 1), np.float32(0.5)
    for y in range(height):
        for x in range(width):
            r, g, b = linear[image[y, x, 0]], linear[image[y, x, 1]], linear[image[y, x, 2]]
            # The rows of the matrix from sRGB to XYZ, each divided by the D65 white point.
            fx = np.float32(0.433953) * r + np.float32(0.376219) * g + np.float32(0.189828) * b
            fy = np.float32(0.212671) * r + np.float32(0.715160) * g + np.float32(0.072169) * b
            fz = np.float32(0.017758) * r + np.float32(0.109477) * g + np.float32(0.872766) * b
            fx = lightness[np.int32(min(fx, np.float32(1)) * steps + half)]
            fy = lightness[np.int32(min(fy, np.float32(1)) * steps + half)]
            fz = lightness[np.int32(min(fz, np.float32(1)) * steps + half)]
            planes[0, y, x] = np.uint8((np.float32(116) * fy - np.float32(16)) * np.float32(2.55) + half)
            planes[1, y, x] = np.uint8(np.float32(500) * (fx - fy) + np.float32(128.5))
            planes[2, y, x] = np.uint8(np.float32(200) * (fy - fz) + np.float32(128.5))
    return planes


def lab(image: np.ndarray) -> np.ndarray:
    """CIE L*a*b*: lightness stretched to 0..255, a and b shifted by 128. (H, W, 3) -> (3, H, W)"""
    return _lab(image, _srgb_to_linear(), _lightness())


def grey(image: np.ndarray) -> np.ndarray:
    """Luma of ITU-R BT.601. (H, W, 3) -> (1, H, W)"""
    r, g, b = np.moveaxis(image.astype(np.uint32), 2, 0)
    return ((299 * r + 587 * g + 114 * b + 500) // 1000).astype(np.uint8)[None]


def hue(image: np.ndarray) -> np.ndarray:
    """The hue of `hsv`. (H, W, 3) -> (1, H, W)"""
    return hsv(image)[:1]


def rgi(image: np.ndarray) -> np.ndarray:
    """Red, green and luma. (H, W, 3) -> (3, H, W)"""
    return np.concatenate([np.moveaxis(image[..., :2], 2, 0), grey(image)])


SPACES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "hsv": hsv, "lab": lab, "grey": grey, "hue": hue, "rgi": rgi,
}  # fmt: skip
