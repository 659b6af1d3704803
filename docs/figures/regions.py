"""Figures of region stages: pyramid pooling, RoI pool and align, variants of Faster R-CNN, R-FCN's votes."""

from __future__ import annotations

import numpy as np
import torch
from canvas import (
    BLUE,
    COLORS,
    GREEN,
    INK,
    ORANGE,
    PALE,
    RED,
    astronaut,
    axes,
    bare,
    batch,
    bundled,
    draw,
    save,
    show,
)
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from torch import Tensor

from boxwright.detectors import FasterRCNNConfig
from boxwright.layers.regions import PositionSensitivePool, PyramidPool
from boxwright.layers.regions_by_hand import (
    _nearest,
    _sample_points,
    _snapped_cells,
    roi_align_by_hand,
    roi_pool_by_hand,
)


def pyramid() -> None:
    """One channel of a feature map, and the maxima in four grids for two regions."""
    image, (images, scale) = astronaut(), batch(astronaut())
    features = bundled().detector.features
    with torch.inference_mode():
        maps = features.backbone((images.pixels - features.mean) / features.std)[1]  # stride 16
    stride = features.strides[1]
    channel = int(maps[0].amax((1, 2)).sub(maps[0].mean((1, 2)).mul(4)).argmax())
    chosen = maps[:, channel : channel + 1]
    boxes = torch.tensor([[22.0, 26, 425, 512], [297, 0, 467, 393]])
    figure, panels = axes(8.6, 3.6, 6, 2, width_ratios=(1.1, 1, 1, 1, 1, 0.05))
    top = float(chosen.max())
    for row, (box, color) in enumerate(zip(boxes, (GREEN, ORANGE), strict=True)):
        first, *grids, spare = panels[6 * row : 6 * row + 6]
        bare(spare)
        cell = stride / scale
        shown = chosen[0, 0].numpy()
        extent = (0, shown.shape[1] * cell, shown.shape[0] * cell, 0)
        show(first, image, fade=0.2)
        first.imshow(shown, extent=extent, cmap="inferno", alpha=0.6, vmin=0, vmax=top, interpolation="nearest")
        first.set(xlim=(0, 512), ylim=(512, 0))
        draw(first, [box.tolist()], color, 2.5)
        if row == 0:
            first.set_title("one channel")
        for panel, size in zip(grids, (6, 3, 2, 1), strict=True):
            pooled = PyramidPool((stride,), (size,))([chosen], box[None, None] * scale)
            panel.imshow(pooled.view(size, size), cmap="inferno", vmin=0, vmax=top)
            bare(panel, f"{size} × {size}" if row == 0 else "")
    save(figure, "pyramid.jpg")


REGION = torch.tensor([0.0, 1.35, 0.8, 6.3, 4.55])
"""The index of the image, then a box xyxy in cells of the map."""


def pooling() -> None:
    """One region, rounded and sampled, and the value of a cell as the region moves."""
    generator = torch.Generator().manual_seed(7)
    coarse = torch.rand(1, 1, 4, 5, generator=generator)
    features = torch.nn.functional.interpolate(coarse, (7, 8), mode="bicubic").clamp(0, 1)
    figure, (snapped, sampled, moved) = axes(9.4, 2.9, 3, width_ratios=(1, 1, 1.25))
    for panel, title in ((snapped, "RoI pool: rounded twice"), (sampled, "RoI align: not rounded")):
        panel.imshow(features[0, 0], extent=(0, 8, 7, 0), cmap="Greys", vmin=-0.1, vmax=1.6)
        for step in range(9):
            panel.plot([step, step], [0, 7], color="white", lw=1)
            panel.plot([0, 8], [min(step, 7)] * 2, color="white", lw=1)
        bare(panel, title)
    left, top, right, bottom = REGION[1:]
    rows = _snapped_cells(_nearest(top), _nearest(bottom), 2, 7)
    columns = _snapped_cells(_nearest(left), _nearest(right), 2, 8)
    for index, (y, x) in enumerate((y, x) for y in rows for x in columns):
        color = COLORS[index]
        corner, extent = (x.start + 0.06, y.start + 0.06), (x.stop - x.start - 0.12, y.stop - y.start - 0.12)
        snapped.add_patch(Rectangle(corner, *extent, fc=color, alpha=0.28, ec="none"))
        snapped.add_patch(Rectangle(corner, *extent, fill=False, ec=color, lw=1.6))
        best = int(features[0, 0, y, x].argmax())
        width = x.stop - x.start
        snapped.plot(x.start + best % width + 0.5, y.start + best // width + 0.5, "o", color=color, ms=7)
    # Coordinate p of the map has index p - .5 among the features; it is drawn at p.
    points_y = _sample_points(top - 0.5, bottom - 0.5, 2, 2, True) + 0.5
    points_x = _sample_points(left - 0.5, right - 0.5, 2, 2, True) + 0.5
    for row, y in enumerate(points_y.tolist()):
        for column, x in enumerate(points_x.tolist()):
            sampled.plot(x, y, "o", color=COLORS[row // 2 * 2 + column // 2], ms=6)
    middle = [(float(left + right) / 2, float(top), float(left + right) / 2, float(bottom))]
    draw(sampled, middle, INK, 1)
    draw(sampled, [(float(left), float(top + bottom) / 2, float(right), float(top + bottom) / 2)], INK, 1)
    for panel in (snapped, sampled):
        draw(panel, [REGION[1:].tolist()], INK, 1.8, ls="--" if panel is snapped else "-")
        panel.set(xlim=(0, 8), ylim=(7, 0))

    shifts = torch.linspace(0, 2, 201)
    regions = REGION.repeat(len(shifts), 1)
    regions[:, 1] += shifts - 1
    regions[:, 3] += shifts - 1
    for pool, name, color in ((roi_pool_by_hand, "pool", ORANGE), (roi_align_by_hand, "align", BLUE)):
        moved.plot(shifts - 1, pool(features, regions, 2, 1.0)[:, 0, 0, 0], color=color, lw=2, label=name)
    moved.set(xlabel="region moved to the right, in features", ylabel="upper left cell")
    moved.set_title("value of one cell as the region moves")
    moved.legend()
    save(figure, "pooling.png")


def variants() -> None:
    """What the three variants of Faster R-CNN share, and what they compute for each region."""
    height, width = 320, 416
    figure, panels = axes(9.4, 3.3, 3)
    for panel, variant in zip(panels, ("c4", "dc5", "fpn"), strict=True):
        torch.manual_seed(0)
        detector = FasterRCNNConfig(variant=variant).build(20).eval()
        with torch.inference_mode():
            maps = detector.features(torch.zeros(1, 3, height, width))
            pooled = detector.regions.pool(maps, torch.tensor([[[0.0, 0.0, 64.0, 64.0]]]))
            anchors = sum(detector.proposer(maps).levels)
        shapes = [_shape(m) for m in maps]
        rows = [
            ("pixels", [f"3 × {height} × {width}"], PALE),
            (f"shared: {_millions(detector.features)} weights", shapes, BLUE),
            (f"proposals: {_millions(detector.proposer)} weights", [f"{anchors:,} anchors"], ORANGE),
            (f"each region: {_millions(detector.regions.head)} weights", [_shape(pooled)], GREEN),
        ]
        _stack(panel, rows)
        panel.set_title({"c4": "C4", "dc5": "DC5", "fpn": "FPN"}[variant])
    save(figure, "variants.png")


def _shape(maps: Tensor) -> str:
    return " × ".join(map(str, maps.shape[1:]))


def _millions(module: torch.nn.Module) -> str:
    return f"{sum(p.numel() for p in module.parameters()) / 1e6:.1f} M"


def _stack(panel: Axes, rows: list[tuple[str, list[str], str]]) -> None:
    """Blocks from top to bottom, each with a name above its lines."""
    y = 0.0
    for name, lines, color in rows:
        height = 0.9 + 0.62 * len(lines)
        patch = FancyBboxPatch((0.2, y), 7.6, height, boxstyle="round,pad=0,rounding_size=0.2", fc=color, alpha=0.2)
        patch.set_edgecolor("none")
        panel.add_patch(patch)
        panel.text(4, y + 0.5, name, ha="center", va="center", fontsize=9, weight="bold")
        for row, line in enumerate(lines):
            panel.text(4, y + 1.1 + 0.62 * row, line, ha="center", va="center", fontsize=8.5)
        y += height + 0.35
    panel.set(xlim=(0, 8), ylim=(9.6, -0.2))
    bare(panel)


def position_sensitive() -> None:
    """Nine maps of the correlation with each part of a horse, and the votes for a good and a bad box."""
    from skimage import data
    from skimage.feature import match_template

    horse = np.pad(~data.horse().astype(bool), 110).astype(float)[::4, ::4]
    rows, columns = (np.flatnonzero(horse.any(axis)) for axis in (1, 0))
    good = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=torch.float32)
    bad = good + torch.tensor([24.0, 10.0, 24.0, 10.0])
    left, top, right, bottom = good.int().tolist()
    ys, xs = np.linspace(top, bottom, 4).astype(int), np.linspace(left, right, 4).astype(int)
    maps = [
        match_template(horse, horse[ys[row] : ys[row + 1], xs[column] : xs[column + 1]], pad_input=True)
        for row in range(3)
        for column in range(3)
    ]
    maps = torch.from_numpy(np.stack(maps)).float()[None]
    votes = PositionSensitivePool((1,), 3)([maps], torch.stack([good, bad])[None])[:, 0]

    figure, photo, cells, pooled = _mosaic()
    photo.imshow(1 - horse * 0.75, cmap="gray", vmin=0, vmax=1)
    bare(photo, "two boxes, 3 × 3 cells each")
    for box, color in ((good, GREEN), (bad, RED)):
        _grid(photo, box, color)
    for index, panel in enumerate(cells):
        panel.imshow(maps[0, index], cmap="inferno", vmin=0, vmax=1)
        bare(panel, "nine maps, one for each part" if index == 1 else "")
        for box, color in ((good, GREEN), (bad, RED)):
            x1, y1, x2, y2 = box.tolist()
            w, h = (x2 - x1) / 3, (y2 - y1) / 3
            x, y = x1 + index % 3 * w, y1 + index // 3 * h
            draw(panel, [(x, y, x + w, y + h)], color, 1.6)
    for panel, vote, color in zip(pooled, votes, (GREEN, RED), strict=True):
        panel.imshow(vote, cmap="inferno", vmin=0, vmax=1)
        bare(panel, f"vote: {vote.mean():.2f}")
        draw(panel, [(-0.5, -0.5, 2.5, 2.5)], color, 4)
    save(figure, "position_sensitive.png")


def _mosaic() -> tuple[Figure, Axes, list[Axes], list[Axes]]:
    figure = plt.figure(figsize=(9.4, 3.0))
    left, middle, right = figure.subfigures(1, 3, width_ratios=(1.25, 1.35, 0.55))
    return figure, left.subplots(), list(middle.subplots(3, 3).flat), list(right.subplots(2, 1).flat)


def _grid(panel: Axes, box: Tensor, color: str) -> None:
    x1, y1, x2, y2 = box.tolist()
    for step in range(4):
        x, y = x1 + step * (x2 - x1) / 3, y1 + step * (y2 - y1) / 3
        panel.plot([x, x], [y1, y2], color=color, lw=1.5)
        panel.plot([x1, x2], [y, y], color=color, lw=1.5)
