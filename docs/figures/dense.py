"""Figures of the single-stage detectors: SSD's default boxes, focal loss, FCOS's points."""

from __future__ import annotations

import torch
from canvas import BLUE, COLORS, GREEN, GREY, ORANGE, astronaut, axes, draw, label, save, show
from proposing import OBJECTS, show_heat

from boxwright.assign import CenterAssigner, Prediction
from boxwright.detectors import FCOSConfig, SSDConfig
from boxwright.losses import centerness, focal
from boxwright.types import Target

SIDE = 512
OBJECT_BOXES = torch.tensor(list(OBJECTS.values())).float()
TARGET = Target(OBJECT_BOXES, torch.arange(len(OBJECT_BOXES)))


def default_boxes() -> None:
    """Default boxes of each level, and those that are assigned to the astronaut, the shuttle and the face."""
    stage = SSDConfig().build(20).anchors
    strides = stage.anchors.strides
    levels = stage.anchors([(SIDE // stride, SIDE // stride) for stride in strides])
    anchors = torch.cat(levels)
    figure, panels = axes(8.2, 3.9, 2)
    show(panels[0], astronaut(), "default boxes of one cell on each level", fade=0.35)
    for level, (boxes, stride, per_cell) in enumerate(zip(levels, strides, stage.anchors.per_cell, strict=True)):
        cells = SIDE // stride
        start = (cells // 2 * cells + cells // 2) * per_cell
        draw(panels[0], boxes[start : start + per_cell].tolist(), COLORS[level], 1.3)
        panels[0].plot([], [], color=COLORS[level], label=f"stride {stride}")
    panels[0].legend(loc="upper left", fontsize=8, frameon=True, framealpha=0.85, edgecolor="none")
    assigned = stage.assign(Prediction(anchors), TARGET)
    positive = int((assigned >= 0).sum())
    show(panels[1], astronaut(), f"{positive} of {len(anchors):,} assigned to an object", fade=0.35)
    for row, color in zip(range(len(TARGET)), (GREEN, ORANGE, BLUE), strict=True):
        draw(panels[1], anchors[assigned == row].tolist(), color, 0.8)
        draw(panels[1], [OBJECT_BOXES[row].tolist()], color, 2.8, ls="--")
    for panel in panels:
        panel.set(xlim=(0, SIDE), ylim=(SIDE, 0))
    save(figure, "default_boxes.jpg")


def focal_loss() -> None:
    """Focal loss by predicted probability, and the shares of background and objects in the loss of an image."""
    figure, (curves, shares) = axes(8.6, 3.2, 2, width_ratios=(1.3, 1))
    correct = torch.linspace(0.005, 0.999, 300)
    label_0 = torch.zeros(1, dtype=torch.int64)
    for gamma, color in zip((0.0, 0.5, 1.0, 2.0, 5.0), (GREY, *COLORS), strict=False):
        loss = focal(torch.logit(correct)[:, None], label_0.expand(len(correct)), alpha=0.5, gamma=gamma) * 2
        name = f"γ = {gamma:g}" + {0.0: ": cross entropy", 2.0: ": RetinaNet"}.get(gamma, "")
        curves.plot(correct, loss, color=color, lw=3 if gamma == 2 else 1.6, label=name)
    curves.set(xlabel="predicted probability of the correct answer", ylabel="loss", ylim=(0, 4), xlim=(0, 1))
    curves.legend()

    easy = torch.logit(torch.full((10_000, 1), 0.02))
    hard = torch.logit(torch.full((10, 1), 0.3))
    for row, (alpha, gamma) in enumerate(((0.5, 0.0), (0.25, 2.0))):
        background = float(focal(easy, label_0.expand(10_000) - 1, alpha, gamma).sum())
        objects = float(focal(hard, label_0.expand(10), alpha, gamma).sum())
        share = background / (background + objects)
        shares.barh(row, share, color=GREY, height=0.5)
        shares.barh(row, 1 - share, left=share, color=GREEN, height=0.5)
        shares.text(0.02, row - 0.37, f"background {share:.0%}, objects {1 - share:.0%}", fontsize=9)
    shares.set_yticks([0, 1], ["cross\nentropy", "focal\nγ 2, α ¼"])
    shares.set(xlim=(0, 1), ylim=(1.5, -0.7), xticks=[])
    shares.set_title("share of the loss: 10,000 easy negatives\n(p = .02) and 10 hard positives (p = .30)")
    shares.tick_params(axis="y", length=0)
    for spine in shares.spines.values():
        spine.set_visible(False)
    save(figure, "focal.png")


def center() -> None:
    """The points assigned to an object, the four distances of one, and centre-ness."""
    config = FCOSConfig()
    stride, person = 64, OBJECT_BOXES[0]
    steps = torch.arange(SIDE // stride) * float(stride)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    fine = torch.arange(SIDE / 8) * 8.0
    cells = torch.stack([x, y, x + stride, y + stride], -1).flatten(0, 1)
    other = torch.tensor([[0.0, 0.0, side, side] for side in (stride / 2, stride * 2)])  # neighbouring levels
    assign = CenterAssigner(config.center_sampling_radius, config.regress_range)
    assigned = assign(Prediction(torch.cat([cells, other])), TARGET[:1])[: len(cells)]
    middles = (cells[:, :2] + cells[:, 2:]) / 2
    figure, panels = axes(8.4, 3.7, 2, width_ratios=(1, 1.13))
    show(panels[0], astronaut(), f"points of stride {stride}, and the targets of one", fade=0.3)
    panels[0].plot(*middles[assigned < 0].T, "o", color=GREY, ms=4)
    panels[0].plot(*middles[assigned >= 0].T, "o", color=GREEN, ms=8)
    draw(panels[0], [person.tolist()], GREEN, 2.5)
    px, py = middles[assigned >= 0][-1].tolist()
    left, top, right, bottom = person.tolist()
    for name, end in (("l", (left, py)), ("t", (px, top)), ("r", (right, py)), ("b", (px, bottom))):
        panels[0].annotate("", end, (px, py), arrowprops={"arrowstyle": "->", "color": ORANGE, "lw": 2})
        label(panels[0], (px + end[0]) / 2, (py + end[1]) / 2, name, ORANGE, va="center", ha="center")
    fy, fx = torch.meshgrid(fine, fine, indexing="ij")
    heat = centerness(torch.stack([fx, fy, fx + 8, fy + 8], -1), person)
    shown = show_heat(panels[1], astronaut(), heat.numpy(), 8.0)
    draw(panels[1], [person.tolist()], GREEN, 2.5)
    panels[1].set_title("centre-ness, a factor of the score")
    figure.colorbar(shown, ax=panels[1], shrink=0.85, pad=0.02)
    for panel in panels:
        panel.set(xlim=(0, SIDE), ylim=(SIDE, 0))
    save(figure, "center.jpg")
