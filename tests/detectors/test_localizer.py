"""The localizer: the image as a proposal, the largest object as what there is to learn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from boxwright.assign import BACKGROUND, IGNORED, Prediction
from boxwright.detectors import Localizer, LocalizerConfig
from boxwright.detectors.localizer import largest, whole
from boxwright.types import Images, Target

SMALL, LARGE, HUGE = ([10.0, 10.0, 20.0, 20.0], [5.0, 5.0, 60.0, 40.0], [0.0, 0.0, 90.0, 60.0])
CONFIG = LocalizerConfig("mobilenet_v3_small", frozen_stages=0, channels=8, hidden=8)


def target(*boxes: list[float], crowd: tuple[int, ...] = ()) -> Target:
    """Object i is of class i."""
    labels = torch.arange(len(boxes))
    return Target(torch.tensor(boxes).reshape(-1, 4), labels, torch.isin(labels, torch.tensor(crowd)))


def images(count: int = 1) -> Images:
    pixels = 255 * torch.rand(count, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    return Images(pixels, torch.tensor([[64, 96], [60, 80]])[:count])


def localizer(**options: Any) -> Localizer:
    """Three classes; says that of every image class 1 is the likeliest, then 0, then 2, then background."""
    torch.manual_seed(0)
    detector = LocalizerConfig(**(vars(CONFIG) | options)).build(3).eval()
    head = detector.region.head
    torch.nn.init.zeros_(head.logits.weight)  # type: ignore[union-attr, arg-type]
    head.logits.bias.data[:] = torch.tensor([0.3, 0.4, 0.2, 0.1]).log()  # type: ignore[union-attr, operator]
    torch.nn.init.zeros_(head.deltas.weight)  # type: ignore[union-attr, arg-type]
    return detector


def test_the_image_without_its_padding_is_the_proposal() -> None:
    proposals = whole(images(2))
    assert proposals.boxes.tolist() == [[[0, 0, 96, 64]], [[0, 0, 80, 60]]]
    assert proposals.valid.tolist() == [[True], [True]]


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        (target(SMALL, LARGE), 1),
        (target(LARGE, SMALL), 0),
        (target(LARGE, LARGE), 0),
        (target(SMALL, HUGE, LARGE, crowd=(1,)), 2),
        (target(SMALL, crowd=(0,)), IGNORED),
        (target(), BACKGROUND),
        (target([5.0, 5.0, 5.0, 5.0]), 0),
    ],
    ids=["second", "first", "equal", "crowd", "only a crowd", "none", "without extent"],
)
def test_the_image_learns_the_largest_object(objects: Target, expected: int) -> None:
    """The objects, which the region stage adds to the candidates, learn nothing themselves."""
    candidates = torch.cat([torch.tensor([[0.0, 0.0, 96.0, 64.0]]), objects.boxes])
    assert largest(Prediction(candidates), objects).tolist() == [expected] + [IGNORED] * len(objects)


def test_losses_by_hand() -> None:
    """An object as large as the image is where the head says it is; half as wide in the middle, it is ln 2 off."""
    detector = localizer()
    losses = detector.loss(images(), [target(SMALL, [0.0, 0.0, 96.0, 64.0])])
    assert losses["class"].item() == pytest.approx(-torch.tensor(0.4).log().item())
    assert losses["box"].item() == pytest.approx(0, abs=1e-6)
    losses = detector.loss(images(), [target([24.0, 0.0, 72.0, 64.0])])
    assert losses["class"].item() == pytest.approx(-torch.tensor(0.3).log().item())
    assert losses["box"].item() == pytest.approx(5 * torch.tensor(2.0).log().item() - 1 / 18, rel=1e-5)
    losses = detector.loss(images(), [target()])
    assert losses["class"].item() == pytest.approx(-torch.tensor(0.1).log().item()) and losses["box"].item() == 0


def test_the_box_loss_has_its_weight() -> None:
    once, thrice = (localizer(box_weight=weight).loss(images(), [target(SMALL)]) for weight in (1.0, 3.0))
    assert once["box"] > 0 and once["class"] == thrice["class"]
    torch.testing.assert_close(thrice["box"], 3 * once["box"])


@pytest.mark.parametrize("agnostic", [True, False])
def test_answers_the_likeliest_class(agnostic: bool) -> None:
    """A tenth of the image further up: class 1 alone, or all alike."""
    detector = localizer(class_agnostic=agnostic)
    deltas: Tensor = detector.region.head.deltas.bias.data.view(-1, 4)  # type: ignore[union-attr, operator]
    deltas[0 if agnostic else 1, 1] = -10 * 0.1
    first, second = detector.detect(images(2))
    assert first.labels.tolist() == second.labels.tolist() == [1]
    torch.testing.assert_close(first.scores, torch.tensor([0.4]))
    torch.testing.assert_close(first.boxes, torch.tensor([[0, 0, 96, 57.6]]))
    torch.testing.assert_close(second.boxes, torch.tensor([[0, 0, 80, 54.0]]))


def test_several_answers_are_of_several_classes() -> None:
    (found,) = localizer(max_detections=5).detect(images())
    assert found.labels.tolist() == [1, 0, 2]


def test_a_image_that_is_background_has_no_answer() -> None:
    detector = localizer()
    detector.region.head.logits.bias.data[3] = 9.0  # type: ignore[union-attr, index]
    assert len(detector.detect(images())[0]) == 0


def test_looks_at_one_level() -> None:
    with pytest.raises(ValueError, match=r"one level .* is read, such as levels=\(5,\) \(--levels 5\), got \(3, 4\)"):
        LocalizerConfig(levels=(3, 4))
