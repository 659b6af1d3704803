"""Figures of proposals: selective search, warped regions, anchors and the output of an RPN."""

from __future__ import annotations

import numpy as np
import torch
from canvas import (
    BLUE,
    COLORS,
    GREEN,
    ORANGE,
    astronaut,
    axes,
    batch,
    bundled,
    draw,
    label,
    save,
    show,
)

from boxwright.boxes.geometry import pairwise_iou
from boxwright.layers.warp import WarpRegions
from boxwright.proposals import SelectiveSearch
from boxwright.proposals.segmentation import gaussian, segment, smooth, sorted_edges

OBJECTS = {"person": (22, 5, 425, 512), "shuttle": (297, 0, 467, 393), "face": (172, 72, 276, 213)}
"""Boxes xyxy on the astronaut, drawn by hand."""


def selective_search() -> None:
    """Two segmentations, the first proposals, and the best proposal for each object."""
    image = astronaut()
    figure, panels = axes(9.4, 2.75, 4)
    planes = np.ascontiguousarray(np.moveaxis(image, 2, 0))
    edges, weights = sorted_edges(smooth(planes, gaussian(0.8)))
    for panel, k in zip(panels, (150, 450), strict=False):
        labels = segment(edges, weights, *image.shape[:2], k, 100)
        show(panel, _mean_colors(image, labels), f"k = {k}: {labels.max() + 1} regions")
    proposals = SelectiveSearch()(image)
    show(panels[2], image, "60 of the first 200 proposals", fade=0.3)
    for row, box in enumerate(proposals[:200][::-1][::3][:60]):
        draw(panels[2], [box.tolist()], COLORS[row % len(COLORS)], 0.8)
    show(panels[3], image, f"the best of {len(proposals):,}", fade=0.1)
    overlaps = pairwise_iou(torch.tensor(list(OBJECTS.values())).float(), torch.from_numpy(proposals))
    for (name, truth), row, color in zip(OBJECTS.items(), overlaps, (GREEN, ORANGE, BLUE), strict=True):
        best = int(row.argmax())
        draw(panels[3], [proposals[best].tolist()], color, 2.2)
        draw(panels[3], [truth], "white", 1.0, ls=":")
        left, top, _, bottom = proposals[best]
        label(panels[3], left + 4, bottom - 6 if name == "person" else max(top, 30), f"{name} {row[best]:.2f}", color)
    save(figure, "selective_search.jpg")


def _mean_colors(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    counts = np.bincount(labels.ravel())
    means = np.stack([np.bincount(labels.ravel(), image[..., c].ravel()) / counts for c in range(3)], axis=-1)
    return means[labels].astype(np.uint8)


def warped() -> None:
    """Regions of different shapes, warped to one size."""
    image = astronaut()
    boxes = torch.tensor([[22.0, 5, 425, 512], [297, 0, 467, 393], [172, 72, 276, 213], [0, 330, 130, 512]])
    warp = WarpRegions(224, context=16, fill=(124.0, 116.0, 104.0))
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    crops = warp([pixels], boxes[None]).permute(0, 2, 3, 1).clamp(0, 255).byte().numpy()
    figure, panels = axes(9.6, 2.2, 5)
    show(panels[0], image, "four regions", fade=0.1)
    for box, crop, panel, color in zip(boxes.tolist(), crops, panels[1:], COLORS, strict=False):
        draw(panels[0], [box], color, 2)
        show(panel, crop)
        draw(panel, [(16, 16, 208, 208)], color, 1.5, ls="--")
        width, height = box[2] - box[0], box[3] - box[1]
        panel.set_title(f"{width:.0f} × {height:.0f} → 224 × 224")
    save(figure, "warped.jpg")


def anchors() -> None:
    """The anchors of one cell on every level, objectness, and the proposals of voc9's RPN."""
    image = astronaut()
    detector, (images, scale) = bundled().detector, batch(image)
    with torch.inference_mode():
        dense = detector.proposer(detector.features(images.pixels))
        proposals = detector.proposer.detect(dense, images.sizes).trim()[0]
    figure, panels = axes(9.4, 3.3, 3)
    show(panels[0], image, "six anchors per cell, on each level", fade=0.3)
    per_cell = detector.proposer.anchors.per_cell
    for level, grid in enumerate((dense.anchors / scale).split(dense.levels)):
        middle = (grid[:, :2] + grid[:, 2:]).div(2).sub(torch.tensor([232.0, 150.0])).norm(dim=1).argmin()
        start = int(middle) // per_cell * per_cell
        draw(panels[0], grid[start : start + per_cell].tolist(), COLORS[level], 1.2)
        stride = detector.features.strides[level]
        panels[0].plot([], [], color=COLORS[level], label=f"stride {stride}")
    panels[0].set(xlim=(0, 512), ylim=(512, 0))
    panels[0].legend(loc="lower right", fontsize=8, frameon=True, framealpha=0.85, edgecolor="none")

    level, stride = 2, detector.features.strides[2]
    rows = slice(sum(dense.levels[:level]), sum(dense.levels[: level + 1]))
    objectness = dense.logits[0, rows, 0].sigmoid().unflatten(0, (-1, per_cell)).amax(1)
    width = images.pixels.shape[3] // stride
    height, cell = len(objectness) // width, stride / scale
    shown = show_heat(panels[1], image, objectness.view(height, width).numpy(), cell)
    panels[1].set_title(f"objectness of {dense.levels[level]} anchors, stride {stride}")
    figure.colorbar(shown, ax=panels[1], shrink=0.75, pad=0.02)
    show(panels[2], image, f"30 best proposals of {len(dense.anchors):,}", fade=0.2)
    draw(panels[2], (proposals.boxes[:30] / scale).tolist(), BLUE, 0.9)
    draw(panels[2], (proposals.boxes[:1] / scale).tolist(), GREEN, 2.5)
    save(figure, "anchors.jpg")


def show_heat(panel, image: np.ndarray, heat: np.ndarray, cell: float, top: float = 1.0):
    """A map drawn over its image; `cell` is the side of one of its cells in pixels of the image."""
    height, width = heat.shape
    show(panel, image, fade=0.2)
    extent = (0, width * cell, height * cell, 0)
    shown = panel.imshow(heat, extent=extent, cmap="inferno", alpha=0.7, vmin=0, vmax=top, interpolation="nearest")
    panel.set(xlim=(0, image.shape[1]), ylim=(image.shape[0], 0))
    return shown
