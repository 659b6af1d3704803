"""The anchor stage with numbers that can be followed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from boxwright.assign import Balanced, ByOverlap, everything
from boxwright.boxes.anchors import AnchorGrid
from boxwright.boxes.codec import DeltaCodec
from boxwright.detectors.anchor_stage import AnchorHead, AnchorStage, Dense
from boxwright.detectors.select import Select
from boxwright.losses import DeltaLoss, binary_cross_entropy, focal
from boxwright.types import Target

GRID = AnchorGrid(sizes=((8.0,), (16.0,)), ratios=(1.0,), strides=(8, 16), offset=0.5)
SHAPES = ((2, 3), (1, 2))  # 6 anchors of 8 x 8 side by side, then 2 of 16 x 16
ANCHORS = torch.cat(GRID(SHAPES))


def stage(classes: int = 2, **parts: Any) -> AnchorStage:
    defaults: dict[str, Any] = {
        "head": AnchorHead(4, 1, classes, depth=1, shared=True),
        "anchors": GRID,
        "codec": DeltaCodec(),
        "assign": ByOverlap(high=0.7, low=0.3),
        "sample": everything,
        "class_loss": binary_cross_entropy,
        "box_loss": DeltaLoss(beta=0),
        "select": Select(),
        "by_positives": True,
    }
    return AnchorStage(**(defaults | parts))


def silent(images: int = 1, classes: int = 2) -> Dense:
    """What a head says that knows nothing: one half for every class, and no move."""
    return Dense(torch.zeros(images, 8, classes), torch.zeros(images, 8, 4), ANCHORS, (6, 2))


def target(*boxes: Tensor, labels: tuple[int, ...] = (1,), crowd: bool = False) -> Target:
    return Target(torch.stack(boxes), torch.tensor(labels), torch.full((len(boxes),), crowd))


@pytest.mark.parametrize("shared", [True, False])
def test_head_speaks_in_the_order_of_the_anchors(shared: bool) -> None:
    """A head whose numbers depend on its cell alone says of each anchor what it says of the anchor's cell."""
    head = AnchorHead(1, per_cell=3, classes=2, depth=0, shared=shared)
    for layer in (head.logits, head.deltas):
        nn.init.zeros_(layer.weight)
        layer.weight.data[:, 0, layer.kernel_size[0] // 2, layer.kernel_size[1] // 2] = 1.0
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    head.logits.bias.data[:] = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])  # type: ignore[union-attr]
    maps = [torch.arange(6.0).reshape(1, 1, 2, 3), 6 + torch.arange(2.0).reshape(1, 1, 1, 2)]
    logits, deltas = head(maps)
    assert logits.shape == (1, 24, 2) and deltas.shape == (1, 24, 4)
    assert deltas[0, :, 0].tolist() == [cell for cell in range(8) for _ in range(3)]
    torch.testing.assert_close(logits[0, 3:6], torch.tensor([[1.0, 1.1], [1.2, 1.3], [1.4, 1.5]]))


def test_head_starts_with_its_prior() -> None:
    head = AnchorHead(4, per_cell=2, classes=3, depth=2, shared=False, prior=0.01)
    logits, _ = head([torch.zeros(1, 4, 2, 2)])
    torch.testing.assert_close(logits.sigmoid(), torch.full((1, 8, 3), 0.01))


def test_anchors_lie_on_the_maps() -> None:
    dense = stage()([torch.zeros(2, 4, *shape) for shape in SHAPES])
    assert dense.levels == (6, 2) and dense.logits.shape == (2, 8, 2)
    assert dense.anchors[[0, 5, 7]].tolist() == [[0, 0, 8, 8], [16, 8, 24, 16], [16, 0, 32, 16]]


def test_losses_by_hand() -> None:
    """One object, an eighth of its width beside the second anchor: with an IoU of 7/9 that one is the only positive.

    All 16 logits are at one half, so each costs ln 2; the positive's box is off by t_x = 1/8.
    """
    losses = stage().loss(silent(), [target(ANCHORS[1] + torch.tensor([1.0, 0.0, 1.0, 0.0]))])
    assert losses["class"].item() == pytest.approx(16 * math.log(2))
    assert losses["box"].item() == pytest.approx(0.125)


def test_the_class_picks_its_column() -> None:
    dense = silent()
    dense.logits[0, :, :] = -20.0
    dense.logits[0, 1, 1] = 20.0
    assert stage().loss(dense, [target(ANCHORS[1])])["class"].item() == pytest.approx(0, abs=1e-6)
    assert stage().loss(dense, [target(ANCHORS[1], labels=(0,))])["class"].item() == pytest.approx(40)


def test_sums_are_divided_by_samples_or_by_positives() -> None:
    objects = [target(ANCHORS[1])]
    by_samples = stage(by_positives=False).loss(silent(), objects)["class"]
    assert by_samples.item() == pytest.approx(16 * math.log(2) / 8)
    two = [target(ANCHORS[1], ANCHORS[6], labels=(0, 1))]
    assert stage().loss(silent(), two)["class"].item() == pytest.approx(16 * math.log(2) / 2)


def test_only_samples_count() -> None:
    torch.manual_seed(0)
    sampled = stage(sample=Balanced(4, positive=0.5), by_positives=False)
    losses = sampled.loss(silent(), [target(ANCHORS[1] + torch.tensor([1.0, 0.0, 1.0, 0.0]))])
    assert losses["class"].item() == pytest.approx(2 * math.log(2))  # 4 anchors, 2 logits each, over 4
    assert losses["box"].item() == pytest.approx(0.125 / 4)


def test_each_image_learns_its_own_objects() -> None:
    """The same as one after the other, over the positives of both."""
    noise = torch.Generator().manual_seed(0)
    dense = Dense(torch.randn(3, 8, 2, generator=noise), torch.randn(3, 8, 4, generator=noise), ANCHORS, (6, 2))
    targets = [target(ANCHORS[1], ANCHORS[6], labels=(0, 1)), Target.empty(), target(ANCHORS[4])]
    losses = stage(class_loss=focal).loss(dense, targets)
    for name, positives in (("class", (2, 1, 1)), ("box", (2, 1, 1))):  # none counts as one
        single = [
            stage(class_loss=focal).loss(Dense(logits[None], deltas[None], ANCHORS, (6, 2)), [one])[name] * count
            for logits, deltas, one, count in zip(dense.logits, dense.deltas, targets, positives, strict=True)
        ]
        torch.testing.assert_close(losses[name], sum(single) / 3)


def test_ignored_anchors_cost_nothing() -> None:
    """An object of IoU 1/2 with one anchor: neither learnt nor background."""
    half = ANCHORS[1] * 1.0
    half[3] = 4.0
    losses = stage().loss(silent(), [target(half)])
    assert losses["class"].item() == pytest.approx(14 * math.log(2))
    assert losses["box"].item() == 0


def test_a_crowd_is_not_learnt_and_costs_nothing() -> None:
    """A crowd over the upper half: the three anchors and the two large ones inside are left out."""
    crowd = torch.tensor([0.0, 0.0, 32.0, 8.0])
    losses = stage(assign=ByOverlap(0.7, 0.3, crowd=0.4)).loss(silent(), [target(crowd, crowd=True)])
    assert losses["class"].item() == pytest.approx(2 * 3 * math.log(2))
    assert losses["box"].item() == 0


def test_detects_the_anchor_that_scores_moved_by_its_delta() -> None:
    dense = silent()
    dense.logits[:] = -10.0
    dense.logits[0, 4, 1] = 3.0
    dense.deltas[0, 4, 0] = 0.5  # half its width to the right
    (found,) = stage().detect(dense, torch.tensor([[16, 32]])).trim()
    assert found.labels.tolist() == [1]
    assert found.boxes.tolist() == [[12, 8, 20, 16]]
    torch.testing.assert_close(found.scores, torch.tensor([3.0]).sigmoid())
