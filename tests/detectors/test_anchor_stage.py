"""The anchor stage with numbers that can be followed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from boxwright.assign import BalancedSampler, HardNegativeMining, MaxIoUAssigner, all_valid_anchors
from boxwright.boxes.anchors import AnchorGrid, DeltaCodec
from boxwright.detectors.anchor_stage import AnchorHead, AnchorStage, Dense
from boxwright.detectors.base import Select
from boxwright.losses import DeltaLoss, binary_cross_entropy, centerness_loss, cross_entropy, focal
from boxwright.types import Target

GRID = AnchorGrid(sizes=((8.0,), (16.0,)), ratios=(1.0,), strides=(8, 16), offset=0.5)
SHAPES = ((2, 3), (1, 2))  # 6 anchors of 8 x 8 side by side, then 2 of 16 x 16
ANCHORS = torch.cat(GRID(SHAPES))


def stage(classes: int = 2, **parts: Any) -> AnchorStage:
    defaults: dict[str, Any] = {
        "head": AnchorHead(4, 1, classes, depth=1, shared=True),
        "anchors": GRID,
        "codec": DeltaCodec(),
        "assign": MaxIoUAssigner(high=0.7, low=0.3),
        "sample": all_valid_anchors,
        "class_loss": binary_cross_entropy,
        "box_loss": DeltaLoss(beta=0),
        "select": Select(),
    }
    return AnchorStage(**(defaults | parts))


def silent(images: int = 1, classes: int = 2) -> Dense:
    """The output of an untrained head: one half for every class, and no move."""
    return Dense(torch.zeros(images, 8, classes), torch.zeros(images, 8, 1, 4), ANCHORS, (6, 2))


def target(*boxes: Tensor, labels: tuple[int, ...] = (1,), crowd: bool = False) -> Target:
    return Target(torch.stack(boxes), torch.tensor(labels), torch.full((len(boxes),), crowd))


@pytest.mark.parametrize("shared", [True, False])
def test_head_speaks_in_the_order_of_the_anchors(shared: bool) -> None:
    """A head whose numbers depend on its cell alone says of each anchor what it says of the anchor's cell."""
    head = AnchorHead(1, per_cell=3, logits=2, depth=0, shared=shared)
    for layer in (head.logits, head.deltas):
        nn.init.zeros_(layer.weight)
        layer.weight.data[:, 0, layer.kernel_size[0] // 2, layer.kernel_size[1] // 2] = 1.0
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    head.logits.bias.data[:] = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])  # type: ignore[union-attr]
    maps = [torch.arange(6.0).reshape(1, 1, 2, 3), 6 + torch.arange(2.0).reshape(1, 1, 1, 2)]
    logits, deltas = head(maps)
    assert logits.shape == (1, 24, 2) and deltas.shape == (1, 24, 1, 4)
    assert deltas[0, :, 0, 0].tolist() == [cell for cell in range(8) for _ in range(3)]
    torch.testing.assert_close(logits[0, 3:6], torch.tensor([[1.0, 1.1], [1.2, 1.3], [1.4, 1.5]]))


def test_head_starts_with_its_prior() -> None:
    head = AnchorHead(4, per_cell=2, logits=3, depth=2, shared=False, prior=0.01)
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
    by_samples = stage(divide_by="samples").loss(silent(), objects)["class"]
    assert by_samples.item() == pytest.approx(16 * math.log(2) / 8)
    two = [target(ANCHORS[1], ANCHORS[6], labels=(0, 1))]
    assert stage().loss(silent(), two)["class"].item() == pytest.approx(16 * math.log(2) / 2)


def test_only_samples_count() -> None:
    torch.manual_seed(0)
    sampled = stage(sample=BalancedSampler(4, positive=0.5), divide_by="samples")
    losses = sampled.loss(silent(), [target(ANCHORS[1] + torch.tensor([1.0, 0.0, 1.0, 0.0]))])
    assert losses["class"].item() == pytest.approx(2 * math.log(2))  # 4 anchors, 2 logits each, over 4
    assert losses["box"].item() == pytest.approx(0.125 / 4)


def test_each_image_learns_its_own_objects() -> None:
    """The same as one after the other, over the positives of both."""
    noise = torch.Generator().manual_seed(0)
    dense = Dense(torch.randn(3, 8, 2, generator=noise), torch.randn(3, 8, 1, 4, generator=noise), ANCHORS, (6, 2))
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
    losses = stage(assign=MaxIoUAssigner(0.7, 0.3, crowd=0.4)).loss(silent(), [target(crowd, crowd=True)])
    assert losses["class"].item() == pytest.approx(2 * 3 * math.log(2))
    assert losses["box"].item() == 0


def test_detects_the_anchor_that_scores_moved_by_its_delta() -> None:
    dense = silent()
    dense.logits[:] = -10.0
    dense.logits[0, 4, 1] = 3.0
    dense.deltas[0, 4, 0, 0] = 0.5  # half its width to the right
    (found,) = stage().detect(dense, torch.tensor([[16, 32]])).trim()
    assert found.labels.tolist() == [1]
    assert found.boxes.tolist() == [[12, 8, 20, 16]]
    torch.testing.assert_close(found.scores, torch.tensor([3.0]).sigmoid())


def test_the_surest_anchors_of_all_levels_come_first_where_scores_are_equal() -> None:
    """In float32 the sigmoids of 17 and 18 are both 1; the higher logit is on the coarser map."""
    dense = silent(classes=1)
    dense.logits[:] = -10.0
    dense.logits[0, 1], dense.logits[0, 6] = 17.0, 18.0
    surest = stage(classes=1, select=Select(within="level", slots=1)).detect(dense, torch.tensor([[16, 32]]))
    assert surest.boxes.tolist() == [ANCHORS[6:7].tolist()]
    assert surest.scores.tolist() == [[1.0]]


def test_each_image_by_its_own_positives() -> None:
    """Of two images, one with two objects and one with one: the mean of the two losses."""
    targets = [target(ANCHORS[1], ANCHORS[6], labels=(0, 1)), target(ANCHORS[4])]
    noise = torch.Generator().manual_seed(0)
    dense = Dense(torch.randn(2, 8, 2, generator=noise), torch.randn(2, 8, 1, 4, generator=noise), ANCHORS, (6, 2))
    both = stage(divide_by="own_positives").loss(dense, targets)
    alone = [stage().loss(Dense(dense.logits[[i]], dense.deltas[[i]], ANCHORS, (6, 2)), [targets[i]]) for i in range(2)]
    for name, loss in both.items():
        torch.testing.assert_close(loss, (alone[0][name] + alone[1][name]) / 2)


def test_losses_are_divided_in_three_ways_only() -> None:
    with pytest.raises(ValueError, match="samples, positives or own_positives, got 'anchors'"):
        stage(divide_by="anchors")


def test_a_softmax_has_the_background_in_its_last_column() -> None:
    """Three even columns: each of the eight anchors costs ln 3 and scores a third for both classes."""
    dense = silent(classes=3)
    soft = stage(softmax=True, class_loss=cross_entropy)
    assert soft.loss(dense, [target(ANCHORS[1])])["class"].item() == pytest.approx(8 * math.log(3))
    torch.testing.assert_close(soft.scores(dense), torch.full((1, 8, 2), 1 / 3))
    dense.logits[0, 4, 1] = math.log(2)
    (found,) = soft.detect(dense, torch.tensor([[16, 32]])).trim()
    assert found.labels[0] == 1 and found.boxes[0].tolist() == [8, 8, 16, 16]
    assert found.scores[0].item() == pytest.approx(1 / 2)


@pytest.mark.parametrize("boxes", [1, 2])
def test_a_class_loss_with_iou_targets_sees_how_well_boxes_lie(boxes: int) -> None:
    """The second anchor's box of class 1 lies an eighth of its width beside the object: an IoU of 7/9."""
    received = []

    def class_loss(logits: Tensor, labels: Tensor, overlaps: Tensor) -> Tensor:
        received.append(overlaps)
        return binary_cross_entropy(logits, labels)

    deltas = torch.zeros(1, 8, boxes, 4, requires_grad=True)
    dense = silent()._replace(deltas=deltas + torch.tensor([0.5, 0.125])[-boxes:, None] * torch.eye(4)[0])
    stage(class_loss=class_loss, iou_targets=True).loss(dense, [target(ANCHORS[1])])
    assert received[0].shape == (1, 8) and not received[0].requires_grad
    assert received[0][0].tolist() == pytest.approx([0, 7 / 9, *[0] * 6])


def test_hard_negatives_see_the_losses() -> None:
    """One positive, right, and three of the seven negatives: those two that are wrong, and any other."""
    dense = silent()
    dense.logits[:] = -20.0
    dense.logits[0, 1, 1] = 20.0
    dense.logits[0, [3, 7], 0] = 5.0
    losses = stage(sample=HardNegativeMining(ratio=3.0)).loss(dense, [target(ANCHORS[1])])
    assert losses["class"].item() == pytest.approx(2 * math.log1p(math.exp(5)))


def test_a_class_may_have_boxes_of_its_own() -> None:
    """The box of class 1 lies on its object; that of class 0 lies elsewhere and costs nothing."""
    noise = torch.full((1, 8, 1, 4), 3.0)
    dense = silent()._replace(deltas=torch.cat([noise, torch.zeros(1, 8, 1, 4)], 2))
    moved = ANCHORS[1] + torch.tensor([1.0, 0.0, 1.0, 0.0])
    assert stage().loss(dense, [target(moved)])["box"].item() == pytest.approx(0.125)
    assert stage().loss(dense, [target(moved, labels=(0,))])["box"].item() > 10
    dense.logits[0, 4, 1] = 3.0
    (found,) = stage().detect(dense, torch.tensor([[16, 32]])).trim()
    assert found.labels[0] == 1 and found.boxes[0].tolist() == [8, 8, 16, 16]


def test_head_speaks_of_each_class() -> None:
    head = AnchorHead(4, per_cell=3, logits=5, depth=1, shared=False, boxes=4)
    logits, deltas = head([torch.zeros(2, 4, 2, 3)])
    assert logits.shape == (2, 18, 5) and deltas.shape == (2, 18, 4, 4)


def test_a_lite_head_convolves_every_channel_by_itself() -> None:
    """Nine weights a channel in each tower, and outputs of one weight a channel."""
    head = AnchorHead(8, per_cell=3, logits=5, depth=1, shared=False, lite=True)
    weights = [parameter for parameter in head.parameters() if parameter.ndim == 4]
    assert [tuple(weight.shape) for weight in weights] == [(8, 1, 3, 3), (8, 1, 3, 3), (15, 8, 1, 1), (12, 8, 1, 1)]


def test_quality_multiplies_scores_and_is_learnt_by_positives() -> None:
    """Half and half: a geometric mean of a half. A point in the middle of its object has a centre-ness of 1."""
    dense = silent()._replace(quality=torch.zeros(1, 8))
    centered = stage(quality_loss=centerness_loss)
    torch.testing.assert_close(centered.scores(dense), torch.full((1, 8, 2), 0.5))
    losses = centered.loss(dense, [target(ANCHORS[1])])
    assert losses["quality"].item() == pytest.approx(math.log(2))
    dense.quality[0, 4] = 5.0  # type: ignore[index]
    (found,) = centered.detect(dense, torch.tensor([[16, 32]])).trim()
    assert found.boxes[0].tolist() == [8, 8, 16, 16]
    assert found.scores[0].item() == pytest.approx(math.sqrt(0.5 / (1 + math.exp(-5))), rel=1e-5)
