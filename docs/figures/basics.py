"""Figures of the task and of detection before proposals: IoU, AP, localizer, windows, NMS."""

from __future__ import annotations

from dataclasses import replace

import torch
from canvas import (
    BLUE,
    GREEN,
    GREY,
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
    label,
    save,
    show,
)
from matplotlib.axes import Axes

from boxwright.boxes.anchors import DeltaCodec
from boxwright.boxes.geometry import iou
from boxwright.detectors import FasterRCNNConfig
from boxwright.metrics.precision import ap_interpolated_area, interpolate, precision_recall
from boxwright.proposals import SlidingWindow, count_windows


def task() -> None:
    """IoU of three pairs of boxes, and the precision-recall curve of ten detections."""
    figure, panels = axes(9.2, 2.5, 4, width_ratios=(1, 1, 1, 1.7))
    truth = torch.tensor([20.0, 20.0, 80.0, 80.0])
    for panel, shift in zip(panels, (30.0, 20.0, 7.0), strict=False):
        detection = truth + torch.tensor([shift, shift / 2, shift, shift / 2])
        overlap = float(iou(truth, detection))
        draw(panel, [truth.tolist()], GREEN, 2)
        draw(panel, [detection.tolist()], BLUE if overlap >= 0.5 else RED, 2)
        panel.set(xlim=(10, 120), ylim=(105, 10), aspect="equal")
        bare(panel, f"IoU {overlap:.2f}: {'found' if overlap >= 0.5 else 'missed'}")
    correct = [True, True, False, True, True, False, False, True, False, False]
    curve = precision_recall(correct, n_objects=6)
    panel, envelope = panels[3], interpolate(curve).precision
    panel.fill_between([0, *curve.recall], [envelope[0], *envelope], step="pre", color=BLUE, alpha=0.15)
    panel.plot(curve.recall, curve.precision, "o-", color=BLUE, ms=4)
    panel.set(xlim=(0, 1.02), ylim=(0, 1.05), xlabel="recall", ylabel="precision")
    panel.set_title(f"10 detections of 6 objects: AP {ap_interpolated_area(curve):.2f}")
    save(figure, "task.png")


def localizer() -> None:
    """The whole image as the reference, and the box as four numbers relative to it."""
    image, result = astronaut(), bundled()(astronaut())
    height, width = image.shape[:2]
    whole, box = torch.tensor([0.0, 0.0, width, height]), result.boxes[0]
    tx, ty, tw, th = DeltaCodec().encode(box, whole).tolist()
    figure, (cells, output) = axes(8, 3.9, 2)
    show(cells, image, "input: 7 × 7 cells of features", fade=0.35)
    for step in range(8):
        cells.plot([step * width / 7] * 2, [0, height], color=BLUE, lw=1)
        cells.plot([0, width], [step * height / 7] * 2, color=BLUE, lw=1)
    show(output, image, "output: one class, one box")
    draw(output, [(2, 2, width - 2, height - 2)], ORANGE, 3, ls="--")
    draw(output, [box.tolist()], GREEN, 3)
    centre, middle = (width / 2, height / 2), ((box[:2] + box[2:]) / 2).tolist()
    output.annotate("", middle, centre, arrowprops={"arrowstyle": "->", "color": GREEN, "lw": 2.5})
    output.plot(*centre, "o", color=ORANGE)
    text = f"{result.label_names[0]}\n$t_x$ {tx:+.2f}   $t_y$ {ty:+.2f}\n$t_w$ {tw:+.2f}   $t_h$ {th:+.2f}"
    label(output, 300, 500, text, GREEN)
    save(figure, "localizer.jpg")


def windows() -> None:
    """Windows of one size, sizes and shapes at one position, and the number of windows."""
    image = astronaut()
    figure, panels = axes(9, 3.1, 3, width_ratios=(1, 1, 1.35))
    show(panels[0], image, "one size, one stride", fade=0.3)
    grid = SlidingWindow(scales=(0.25,), ratios=(1.0,), stride=0.5)(image)
    draw(panels[0], grid[1:].tolist(), BLUE, 0.9)
    draw(panels[0], grid[11:12].tolist(), ORANGE, 2.5)
    show(panels[1], image, "sizes and shapes at one position", fade=0.3)
    for scale, color in ((0.12, BLUE), (0.25, GREEN), (0.5, ORANGE)):
        for ratio in (0.5, 1.0, 2.0):
            h, w = 512 * scale * ratio**0.5, 512 * scale / ratio**0.5
            draw(panels[1], [(224 - w / 2, 130 - h / 2, 224 + w / 2, 130 + h / 2)], color, 1.6)
    numbers = {
        "all of 800 × 600": count_windows(600, 800),
        "according to the slide": 58_000_000,
        "SlidingWindow, at most": SlidingWindow().count,
        "region proposal network": FasterRCNNConfig().proposals,
    }
    _bars(panels[2], numbers)
    save(figure, "windows.jpg")


def _bars(panel: Axes, numbers: dict[str, int]) -> None:
    names = list(numbers)
    panel.barh(names, list(numbers.values()), color=[RED, PALE, BLUE, BLUE], height=0.55)
    panel.set_xscale("log")
    panel.set_xlim(30, 1e15)
    panel.invert_yaxis()
    for row, number in enumerate(numbers.values()):
        panel.text(number * 2, row, f"{number:,}", va="center", color=INK, fontsize=9)
    panel.set_title("boxes to classify")
    panel.tick_params(axis="y", length=0)
    panel.set_xticks([1e3, 1e6, 1e9, 1e12])
    panel.minorticks_off()
    panel.spines["bottom"].set_color(GREY)


def suppression() -> None:
    """Detections of voc9's region stage before and after NMS."""
    image = astronaut()
    detector = bundled().detector
    stage, (images, scale) = detector.regions, batch(image)
    with torch.inference_mode():
        maps = detector.features(images.pixels)
        proposals = detector.proposer.detect(detector.proposer(maps), images.sizes)
        select = stage.select
        results = []
        for iou_threshold in (1.0, select.iou):
            stage.select = replace(select, score=0.3, iou=iou_threshold)
            results.append(stage.detect(maps, proposals, images.sizes).trim()[0])
        stage.select = select
    figure, panels = axes(7, 3.7, 2)
    for panel, detections, when in zip(panels, results, ("before", "after"), strict=True):
        show(panel, image, f"{when}: {len(detections)} {'box' if len(detections) == 1 else 'boxes'}", fade=0.2)
        for box, score in zip((detections.boxes / scale).tolist(), detections.scores.tolist(), strict=True):
            draw(panel, [box], GREEN if when == "after" else BLUE, 2.5 if when == "after" else 1.0)
            if when == "after":
                label(panel, box[0] + 6, box[1] + 26, f"person {score:.2f}", GREEN)
    save(figure, "suppression.jpg")
