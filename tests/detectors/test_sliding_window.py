"""The sliding window: where the windows lie, that a convolution is what reads them, and which of them learn."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from boxwright.assign import Prediction
from boxwright.detectors import SlidingWindowConfig
from boxwright.detectors.sliding_window import SlidingWindowDetector, WindowHead, windows_at
from boxwright.types import Images, Target

CPU = torch.device("cpu")
SHAPES = ((4, 4), (3, 5), (5, 3))
CONFIG = SlidingWindowConfig("mobilenet_v3_small", frozen_stages=0, channels=8, shapes=SHAPES, scales=3, samples=64)


def detector(**options: Any) -> SlidingWindowDetector:
    torch.manual_seed(0)
    return SlidingWindowConfig(**(vars(CONFIG) | options)).build(2).eval()


def images(height: int = 64, width: int = 96, padding: int = 0) -> Images:
    pixels = 255 * torch.rand(1, 3, height + padding, width + padding, generator=torch.Generator().manual_seed(0))
    return Images(pixels, torch.tensor([[height, width]]))


def test_windows_by_hand() -> None:
    """Windows of 2 x 3 cells, 10 pixels high and 8 wide each; the first has a row and a column of them outside."""
    windows = windows_at((2, 2), (2, 3), (10.0, 8.0), CPU)
    assert windows.tolist() == [[-8, -10, 16, 10], [0, -10, 24, 10], [-8, 0, 16, 20], [0, 0, 24, 20]]


def test_the_convolution_reads_each_window_by_itself() -> None:
    """What the head says at a place is what it says of the window's cells cut out (OverFeat, figure 5)."""
    torch.manual_seed(0)
    shapes, features = ((4, 4), (3, 5)), torch.randn(1, 8, 6, 7)
    head = WindowHead(8, shapes, hidden=16, num_classes=2)
    for (rows, columns), logits in zip(shapes, head(features), strict=True):
        windows = windows_at(logits.shape[2:], (rows, columns), (1.0, 1.0), CPU).long()  # type: ignore[arg-type]
        inside = (windows[:, :2] >= 0).all(1) & (windows[:, 2] <= 7) & (windows[:, 3] <= 6)
        assert inside.sum() == (6 - rows + 1) * (7 - columns + 1)
        for window, said in zip(windows[inside], logits.flatten(2)[0].T[inside], strict=True):
            left, top, right, bottom = window.tolist()
            index = shapes.index((rows, columns))
            alone = head(features[:, :, top:bottom, left:right])[index][0, :, rows // 2, columns // 2]
            torch.testing.assert_close(alone, said, atol=1e-5, rtol=1e-5)


def test_windows_of_all_sizes_and_shapes_are_everywhere() -> None:
    """64 x 96 pixels are 8 x 12, 6 x 9 (of 45 x 68) and 4 x 6 cells; 4 x 4 windows begin at one place more."""
    logits, windows = detector().classify(images())
    count = sum((h + 1) * (w + 1) + 2 * h * w for h, w in ((8, 12), (6, 9), (4, 6)))
    assert logits.shape == (1, count, 3) and windows.shape == (1, count, 4)
    assert windows.amin() == 0 and windows[0, :, 2].max() == 96 and windows[0, :, 3].max() == 64
    sides = {(round(box[2] - box[0]), round(box[3] - box[1])) for box in windows[0].tolist()}
    assert sides >= {(32, 32), (40, 24), (24, 40), (45, 46), (64, 64), (80, 48), (48, 64)}


def test_windows_end_where_their_image_does() -> None:
    logits, windows = detector().classify(images(padding=32))
    assert windows[0, :, 2].max() == 96 and windows[0, :, 3].max() == 64
    assert logits.shape[1] > detector().classify(images())[0].shape[1]


def test_loss_by_hand() -> None:
    """Of three columns each costs ln 3; where the head is sure of background, positives cost what it is sure."""
    know_nothing = detector()
    for parameter in know_nothing.head.logits.parameters():
        torch.nn.init.zeros_(parameter)
    object = Target(torch.tensor([[32.0, 16.0, 64.0, 48.0]]), torch.tensor([1]))
    assert know_nothing.loss(images(), [object])["class"].item() == pytest.approx(math.log(3))
    know_nothing.head.logits.bias.data[2] = 30.0  # type: ignore[index]
    assert know_nothing.loss(images(), [Target.empty()])["class"].item() == pytest.approx(0, abs=1e-6)
    _, windows = know_nothing.classify(images())
    positive = (know_nothing.assign(Prediction(windows[0]), object) >= 0).sum().item()
    assert 0 < positive <= 16, "all of them should find place among the positive quarter of 64 samples"
    assert know_nothing.loss(images(), [object])["class"].item() == pytest.approx(30 * positive / 64)


def test_windows_in_the_padding_do_not_learn() -> None:
    """An image of 8 x 8 pixels, and 96 more of padding: all that is learnt of it lies in those 8."""
    one = detector(samples=100_000)
    seen = []

    def all_valid_anchors(assigned: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
        seen.append(assigned >= -1)
        return seen[-1]

    one.sample = all_valid_anchors
    tiny = images(8, 8, padding=96)
    one.loss(tiny, [Target.empty()])
    _, windows = one.classify(tiny)
    extent = (windows[..., 2:] - windows[..., :2]).amin(-1)
    assert 0 < seen[0].sum() < 100 and torch.equal(seen[0], extent > 0)


def test_a_image_smaller_than_a_window_is_one_itself() -> None:
    _, windows = detector().classify(images(20, 30))
    assert [0.0, 0.0, 30.0, 20.0] in windows[0].tolist()


def test_looks_at_one_level() -> None:
    with pytest.raises(ValueError, match=r"one level .* is read, such as levels=\(5,\) \(--levels 5\), got \(3, 4\)"):
        SlidingWindowConfig(levels=(3, 4)).build(2)
