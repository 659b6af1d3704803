"""Boxes with readable labels on an image."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from zlib import crc32

import numpy as np
import PIL.Image
import torch
from PIL import ImageDraw
from torch import Tensor

from boxwright.boxes.geometry import intersection
from boxwright.draw.font import Font, drawable, load_font

Color = tuple[int, int, int]

# Hues far apart from each other that stand out on grass, sky, skin and in the dark.
PALETTE: tuple[Color, ...] = (
    (230, 25, 75), (60, 180, 75), (255, 225, 25), (67, 120, 255), (245, 130, 49), (170, 60, 220), (66, 212, 244),
    (240, 50, 230), (160, 230, 60), (0, 160, 150), (185, 120, 45), (250, 170, 195), (200, 170, 255),
)  # fmt: skip


def class_colors(names: Iterable[str]) -> dict[str, Color]:
    """A colour per class name, the same in every model unless an earlier class has it. More than 13 classes share."""
    colors: dict[str, Color] = {}
    free: list[int] = []
    for name in dict.fromkeys(names):
        free = free or list(range(len(PALETTE)))
        preferred = crc32(name.encode()) % len(PALETTE)
        index = min(free, key=lambda index: (index - preferred) % len(PALETTE))  # the preferred one, else the next free
        free.remove(index)
        colors[name] = PALETTE[index]
    return colors


def draw_boxes(
    image: np.ndarray, boxes: Tensor | np.ndarray, names: Sequence[str], scores: Sequence[float] | None = None,
    palette: Iterable[str] | None = None,
) -> PIL.Image.Image:  # fmt: skip
    """A copy of the image with a rectangle and a label per box; the first box, the best, is drawn on top.

    image    uint8 (H, W, 3), RGB
    boxes    (D, 4), xyxy in pixels, with the class `names` and `scores` of each; scores are written as per cent
    palette  all class names, so that a class has one colour in every image; those in `names` if not given
    """
    if not len(boxes) == len(names) == len(scores if scores is not None else names):
        raise ValueError(f"expected a name and a score for each of {len(boxes)} boxes, got {len(names)} names")
    drawing = PIL.Image.fromarray(image)
    canvas = ImageDraw.Draw(drawing)
    colors = class_colors([*(palette or ()), *names])
    side = (drawing.width * drawing.height) ** 0.5
    line = max(1, round(side / 180))
    corners = [[float(value) for value in box] for box in boxes]
    for row in reversed(range(len(corners))):
        _rectangle(canvas, corners[row], colors[names[row]], line, drawing.size)
    texts = [name if scores is None else f"{name} {round(100 * scores[row])}%" for row, name in enumerate(names)]
    texts = [drawable(text) for text in texts]
    fonts = [load_font(text, max(11, round(side / 30))) for text in texts]
    labels = _place_labels(canvas, corners, texts, fonts, line + 1, drawing.size)
    for row in reversed(range(len(corners))):
        _label(canvas, labels[row], texts[row], colors[names[row]], fonts[row], line + 1)
    return drawing


def encode(drawing: PIL.Image.Image, suffix: str) -> tuple[str, bytes]:
    """The suffix and content of an image file: of this suffix, or .png where that format has no image so large.

    A side of a JPEG has at most 65535 pixels, that of a WebP 16383. Raises ValueError where PNG fails too.
    """
    try:
        return suffix, _encoded(drawing, PIL.Image.registered_extensions()[suffix.lower()])
    except (OSError, ValueError):
        try:
            return ".png", _encoded(drawing, "PNG")
        except (OSError, ValueError) as error:
            raise ValueError(
                f"an image of {drawing.width}x{drawing.height} pixels cannot be written: {error}"
            ) from error


def _encoded(drawing: PIL.Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    drawing.save(stream, kind, quality=92, subsampling=0, compress_level=1)  # a PNG's level: far faster, little larger
    return stream.getvalue()


def _rectangle(canvas: ImageDraw.ImageDraw, box: list[float], color: Color, line: int, size: tuple[int, int]) -> None:
    # A box's far side lies between pixels: the last pixel inside is one less. A box on the border stays visible.
    left, top = (min(max(round(value), 0), limit - 1) for value, limit in zip(box[:2], size, strict=True))
    right, bottom = (min(max(round(value) - 1, 0), limit - 1) for value, limit in zip(box[2:], size, strict=True))
    canvas.rectangle([left, top, max(left, right), max(top, bottom)], outline=color, width=line)


def _place_labels(
    canvas: ImageDraw.ImageDraw, boxes: list[list[float]], texts: list[str], fonts: list[Font], pad: int,
    size: tuple[int, int],
) -> list[list[int]]:  # fmt: skip
    """The rectangle of each label, xyxy: in order, the spot that overlaps least with the labels before."""
    labels: list[list[int]] = []
    for box, text, font in zip(boxes, texts, fonts, strict=True):
        left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
        spots = _spots(box, int(right - left) + 2 * pad, int(bottom - top) + 2 * pad, size)
        covered = intersection(torch.tensor(spots)[:, None], torch.tensor(labels).reshape(1, -1, 4)).sum(1)
        labels.append(spots[int(covered.argmin())])
    return labels


def _spots(box: list[float], width: int, height: int, size: tuple[int, int]) -> list[list[int]]:
    """Rectangles for a label of this width and height inside the image, the preferred one first."""
    left, top, right, bottom = (round(side) for side in box)
    last = max(0, size[0] - width), max(0, size[1] - height)
    corners = [(left, top), (right - width, top), (left, bottom - height)]  # inside the box
    if bottom + height <= size[1]:
        corners.insert(2, (left, bottom))  # below
    if top >= height:
        corners = [(left, top - height), (right - width, top - height), *corners]  # above
    starts = [(min(max(x, 0), last[0]), min(max(y, 0), last[1])) for x, y in corners]
    return [[x, y, x + width, y + height] for x, y in starts]


def _label(canvas: ImageDraw.ImageDraw, rectangle: list[int], text: str, color: Color, font: Font, pad: int) -> None:
    left, top, _, _ = canvas.textbbox((0, 0), text, font=font)
    x, y, right, bottom = rectangle
    canvas.rectangle([x, y, right - 1, bottom - 1], fill=color)
    canvas.text((x + pad - left, y + pad - top), text, fill=_readable_on(color), font=font)


def _readable_on(color: Color) -> Color:
    """Black or white, whichever has more contrast: relative luminance as in WCAG 2, section 1.4.3."""
    linear = [(v / 255 / 12.92) if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in color]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else (255, 255, 255)
