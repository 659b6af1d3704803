"""Style of the figures: colours, photographs, boxes on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from boxwright.predict.predictor import Predictor
from boxwright.types import Images

IMAGES = Path(__file__).parents[1] / "learn" / "images"
INK, GREY, PALE = "#1f2933", "#868e96", "#ced4da"
BLUE, ORANGE, GREEN, RED, PURPLE = "#1c7ed6", "#f76707", "#2f9e44", "#e03131", "#9c36b5"
COLORS = (BLUE, ORANGE, GREEN, PURPLE, RED)

plt.rcParams.update({
    "font.size": 10, "axes.titlesize": 10, "axes.titlepad": 6, "text.color": INK, "axes.labelcolor": INK,
    "axes.edgecolor": GREY, "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False,
    "axes.spines.right": False, "figure.constrained_layout.use": True, "legend.frameon": False, "savefig.dpi": 110,
})  # fmt: skip


def axes(width: float, height: float, columns: int = 1, rows: int = 1, **options) -> tuple[Figure, list[Axes]]:
    """A figure of `width` by `height` inches, and its panels row by row."""
    figure, panels = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, **options)
    return figure, list(panels.flat)


def save(figure: Figure, name: str) -> Path:
    """Writes a figure: with photographs as .jpg, without as .png, both small enough for a repository."""
    path = IMAGES / name
    options = {"quality": 82, "optimize": True} if path.suffix == ".jpg" else {"optimize": True}
    figure.savefig(path, pil_kwargs=options)
    plt.close(figure)
    return path


def show(panel: Axes, image: np.ndarray, title: str = "", fade: float = 0.0) -> None:
    """An image in pixel coordinates; `fade` from 0 to 1 whitens it, so that drawings on it stand out."""
    height, width = image.shape[:2]
    pale = image if not fade else (image * (1 - fade) + 255 * fade).astype(np.uint8)
    panel.imshow(pale, extent=(0, width, height, 0), interpolation="bilinear")
    bare(panel, title)


def bare(panel: Axes, title: str = "") -> None:
    """Removes ticks and frame."""
    panel.set_xticks([])
    panel.set_yticks([])
    for spine in panel.spines.values():
        spine.set_visible(False)
    panel.set_title(title)


def draw(panel: Axes, boxes: Iterable[Sequence[float]], color: str = BLUE, width: float = 1.5, **options) -> None:
    """Outlines of boxes xyxy."""
    for left, top, right, bottom in boxes:
        rectangle = Rectangle((left, top), right - left, bottom - top, fill=False, ec=color, lw=width, **options)
        panel.add_patch(rectangle)


def label(panel: Axes, x: float, y: float, text: str, color: str = BLUE, **options) -> None:
    """Text on a coloured background."""
    box = {"facecolor": color, "edgecolor": "none", "pad": 2.0}
    panel.text(x, y, text, color="white", fontsize=9, bbox=box, **{"va": "bottom", "ha": "left", **options})


@cache
def astronaut() -> np.ndarray:
    """Eileen Collins, NASA, public domain; ships with scikit-image: (512, 512, 3)."""
    from skimage import data

    return data.astronaut()


@cache
def coffee() -> np.ndarray:
    """A cup on a table, Rachel Michetti, CC0; ships with scikit-image: (400, 600, 3)."""
    from skimage import data

    return data.coffee()


@cache
def bundled() -> Predictor:
    """The bundled detector voc9, a Faster R-CNN."""
    import boxwright

    return boxwright.load()


def batch(image: np.ndarray) -> tuple[Images, float]:
    """An image preprocessed for voc9, and the scale from pixels of the photograph to pixels of the input."""
    from boxwright.predict.predictor import InputImage

    images, (view,) = bundled().prepare([InputImage(image)], None)
    return images, view.scale[0]
