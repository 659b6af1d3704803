"""Boxes with readable labels on a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from zlib import crc32

import numpy as np
import PIL.Image
from PIL import ImageDraw, ImageFont
from torch import Tensor

Color = tuple[int, int, int]

# Hues far apart from each other that stand out on grass, sky, skin and in the dark.
PALETTE: tuple[Color, ...] = (
    (230, 25, 75), (60, 180, 75), (255, 225, 25), (67, 120, 255), (245, 130, 49), (170, 60, 220), (66, 212, 244),
    (240, 50, 230), (160, 230, 60), (0, 160, 150), (185, 120, 45), (250, 170, 195), (200, 170, 255),
)  # fmt: skip


def class_colors(names: Iterable[str]) -> dict[str, Color]:
    """A colour per class: a name has the same one in every model, unless another class before it took it.

    Colours repeat only where there are more classes than the palette has.
    """
    colors: dict[str, Color] = {}
    free: list[int] = []
    for name in dict.fromkeys(names):
        free = free or list(range(len(PALETTE)))
        wanted = crc32(name.encode()) % len(PALETTE)
        place = min(free, key=lambda index: (index - wanted) % len(PALETTE))  # the wanted one, else the next free
        free.remove(place)
        colors[name] = PALETTE[place]
    return colors


def draw_boxes(
    image: np.ndarray,
    boxes: Tensor | np.ndarray,
    names: Sequence[str],
    scores: Sequence[float] | None = None,
    palette: Iterable[str] | None = None,
) -> PIL.Image.Image:
    """A copy of the picture with a rectangle and a label per box; the best, which comes first, is drawn on top.

    image    uint8 (H, W, 3), RGB
    boxes    (D, 4), xyxy in pixels
    names    the class of each box
    scores   of each box, written as a per cent after its name
    palette  all class names, so that one class has one colour in every picture; without it those in `names`
    """
    if not len(boxes) == len(names) == len(scores if scores is not None else names):
        raise ValueError(f"expected a name and a score for each of {len(boxes)} boxes, got {len(names)} names")
    picture = PIL.Image.fromarray(image)
    canvas = ImageDraw.Draw(picture)
    colors = class_colors([*(palette or ()), *names])
    side = (picture.width * picture.height) ** 0.5
    line = max(1, round(side / 180))
    font = ImageFont.load_default(size=max(11, round(side / 30)))
    for row in reversed(range(len(boxes))):
        color = colors[names[row]]
        text = names[row] if scores is None else f"{names[row]} {round(100 * scores[row])}%"
        corners = [float(side) for side in boxes[row]]
        _rectangle(canvas, corners, color, line, picture.size)
        _label(canvas, corners, text, color, font, line, picture.size)
    return picture


def _rectangle(canvas: ImageDraw.ImageDraw, box: list[float], color: Color, line: int, size: tuple[int, int]) -> None:
    # A box's far side lies between pixels: the last pixel inside is one less. A box on the border stays visible.
    left, top = (min(max(round(value), 0), limit - 1) for value, limit in zip(box[:2], size, strict=True))
    right, bottom = (min(max(round(value) - 1, 0), limit - 1) for value, limit in zip(box[2:], size, strict=True))
    canvas.rectangle([left, top, max(left, right), max(top, bottom)], outline=color, width=line)


def _label(
    canvas: ImageDraw.ImageDraw,
    box: list[float],
    text: str,
    color: Color,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    line: int,
    size: tuple[int, int],
) -> None:
    """Above the box where there is room, else inside its top; pushed back into the picture at the sides."""
    left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
    pad = line + 1
    width, height = right - left + 2 * pad, bottom - top + 2 * pad
    x = max(0, min(round(box[0]), size[0] - width))
    above = round(box[1]) - height
    y = above if above >= 0 else max(0, min(round(box[1]), size[1] - height))
    canvas.rectangle([x, y, x + width - 1, y + height - 1], fill=color)
    canvas.text((x + pad - left, y + pad - top), text, fill=_readable_on(color), font=font)


def _readable_on(color: Color) -> Color:
    """Black or white, whichever contrasts more: relative luminance as in WCAG 2, section 1.4.3."""
    linear = [(v / 255 / 12.92) if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in color]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else (255, 255, 255)
