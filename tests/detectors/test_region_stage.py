"""The region stage with numbers that can be followed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from boxwright.assign import BalancedSampler, MaxIoUAssigner
from boxwright.boxes.anchors import DeltaCodec
from boxwright.detectors.base import Select, least_background
from boxwright.detectors.region_stage import Cascade, GlobalAveragePool, RegionHead, RegionStage, mlp_head
from boxwright.losses import DeltaLoss, GIoULoss
from boxwright.types import Slots, Target

FIRST, SECOND, THIRD = (torch.tensor([start, 0.0, start + 10, 10.0]) for start in (0.0, 20.0, 40.0))
CANVAS = torch.tensor([[100, 100]])


class Speaker(nn.Module):
    """The given logits and deltas for every region, whatever is in it."""

    def __init__(self, logits: Tensor, deltas: Tensor) -> None:
        super().__init__()
        self.logits, self.deltas = logits, deltas

    def forward(self, count: int) -> tuple[Tensor, Tensor]:
        return self.logits.expand(count, -1), self.deltas.expand(count, -1, -1)


class Counting(nn.Module):
    """Pools nothing but the number of regions, which is all that `Speaker` needs."""

    def forward(self, maps: list[Tensor], boxes: Tensor) -> int:
        return boxes.shape[0] * boxes.shape[1]


def stage(logits: Tensor | None = None, deltas: Tensor | None = None, **parts: Any) -> RegionStage:
    """Two classes and background, all logits and deltas 0 unless given."""
    logits = torch.zeros(3) if logits is None else logits
    deltas = torch.zeros(2, 4) if deltas is None else deltas
    defaults: dict[str, Any] = {
        "pool": Counting(),
        "head": Speaker(logits, deltas),
        "codec": DeltaCodec(),
        "assign": MaxIoUAssigner(0.5, 0.5),
        "sample": BalancedSampler(8, positive=0.5),
        "box_loss": DeltaLoss(beta=0),
        "select": Select(slots=4),
    }
    return RegionStage(**(defaults | parts))


def proposals(*boxes: Tensor, padding: int = 0) -> Slots:
    valid = torch.tensor([[True] * len(boxes) + [False] * padding])
    places = torch.cat([torch.stack(boxes), torch.zeros(padding, 4)])[None]
    return Slots(places, valid.float(), torch.zeros_like(valid, dtype=torch.int64), valid)


def target(*boxes: Tensor, labels: tuple[int, ...] = (1,), crowd: bool = False) -> Target:
    return Target(torch.stack(boxes), torch.tensor(labels), torch.full((len(boxes),), crowd))


@pytest.mark.parametrize(("agnostic", "predictions"), [(True, 1), (False, 5)])
def test_head_gives_a_background_and_boxes_per_class_or_once(agnostic: bool, predictions: int) -> None:
    head = RegionHead(mlp_head(4 * 7 * 7, 16), 16, num_classes=5, class_agnostic=agnostic)
    logits, deltas = head(torch.randn(3, 4, 7, 7))
    assert logits.shape == (3, 6) and deltas.shape == (3, predictions, 4)


@pytest.mark.parametrize("answer", ["map", "maps"])
def test_a_network_on_every_region_says_the_mean_of_its_last_map(answer: str) -> None:
    regions = torch.arange(16.0).reshape(2, 2, 2, 2)
    network = nn.Identity() if answer == "map" else Fine()
    assert GlobalAveragePool(network)(regions).tolist() == [[1.5, 5.5], [9.5, 13.5]]


class Fine(nn.Module):
    """Gives two maps, as `Features` does, of which the last is what came in."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x * 0, x]


def test_losses_by_hand() -> None:
    """Of three columns each costs ln 3. The proposal and the object itself are positive; the former is off by 0.1."""
    object = FIRST + torch.tensor([1.0, 0.0, 1.0, 0.0])
    losses = stage().loss([], proposals(FIRST, THIRD), [target(object)])
    assert losses["class"].item() == pytest.approx(math.log(3))
    assert losses["box"].item() == pytest.approx(0.1 / 3)  # over two positives and one background


def test_background_is_the_last_column() -> None:
    sure = torch.tensor([0.0, 0.0, 30.0])
    assert stage(sure).loss([], proposals(FIRST), [Target.empty()])["class"].item() == pytest.approx(0, abs=1e-6)
    assert stage(sure).loss([], proposals(FIRST), [target(FIRST)])["class"].item() == pytest.approx(30)


@pytest.mark.parametrize(
    ("deltas", "expected"), [(torch.eye(2, 4), 1.0), (torch.eye(2, 4)[:1], 1.0), (torch.zeros(1, 4), 0)]
)
def test_the_box_loss_reads_the_column_of_the_class_or_the_only_one(deltas: Tensor, expected: float) -> None:
    """Nothing is wanted, so the loss is what was predicted: 1 in t_y for class 1, or 1 in t_x for all."""
    losses = stage(deltas=deltas).loss([], proposals(FIRST), [target(FIRST)])
    assert losses["box"].item() == pytest.approx(expected)


def test_class_0_reads_its_own_prediction() -> None:
    deltas = torch.tensor([[0.0, 0.0, 0.0, 0.0], [5.0, 5.0, 5.0, 5.0]])
    assert stage(deltas=deltas).loss([], proposals(FIRST), [target(FIRST, labels=(0,))])["box"].item() == 0


def test_the_quota_of_positives() -> None:
    """Eight places, half for positives: four of five positives, four of five backgrounds, which cost nothing."""
    sure = torch.tensor([0.0, 0.0, 30.0])
    torch.manual_seed(0)
    losses = stage(sure).loss([], proposals(*[FIRST] * 4, *[THIRD] * 5), [target(FIRST)])
    assert losses["class"].item() == pytest.approx(30 * 4 / 8)


def test_padding_is_not_learnt() -> None:
    padded = stage().loss([], proposals(FIRST, THIRD, padding=5), [target(FIRST)])
    plain = stage().loss([], proposals(FIRST, THIRD), [target(FIRST)])
    assert padded == plain


def test_a_crowd_is_neither_learnt_nor_background() -> None:
    """The proposal in the crowd is left out, and so is the crowd; the other one is background."""
    sure = torch.tensor([0.0, 0.0, 30.0])
    sampled = stage(sure)._draw(torch.stack([FIRST, THIRD]), torch.tensor([True, True]), target(FIRST, crowd=True))
    boxes, counts, labels, _ = sampled
    assert counts.tolist() == [True] + [False] * 7
    assert boxes[0].tolist() == THIRD.tolist() and labels[0] == -1


def test_draws_boxes_labels_and_their_objects() -> None:
    object = FIRST + torch.tensor([2.0, 0.0, 2.0, 0.0])
    objects = target(SECOND, object, labels=(0, 1))
    boxes, counts, labels, true = stage()._draw(torch.stack([FIRST, THIRD]), torch.tensor([True, True]), objects)
    assert counts.sum() == 4
    drawn = {
        tuple(box.tolist()): (label, tuple(of.tolist()))
        for box, label, of in zip(boxes[:4], labels[:4].tolist(), true[:4], strict=True)
    }
    assert drawn[tuple(FIRST.tolist())] == (1, tuple(object.tolist()))
    assert drawn[tuple(SECOND.tolist())] == (0, tuple(SECOND.tolist()))
    assert drawn[tuple(THIRD.tolist())][0] == -1


def test_no_valid_proposal_and_no_object() -> None:
    losses = stage().loss([], proposals(FIRST, padding=0).replace(valid=torch.tensor([[False]])), [Target.empty()])
    assert losses["class"].item() == 0 and losses["box"].item() == 0


def test_detects_the_best_class_of_each_proposal() -> None:
    """Class 1 with probability 3/4, moved down by its own height; class 0 with 1/8 stays where the proposal is."""
    logits = torch.tensor([1 / 8, 3 / 4, 1 / 8]).log()
    deltas = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    (found,) = stage(logits, deltas).detect([], proposals(FIRST, padding=3), CANVAS).trim()
    torch.testing.assert_close(found.scores, torch.tensor([3 / 4, 1 / 8]))
    assert found.labels.tolist() == [1, 0]
    assert found.boxes.tolist() == [[0, 10, 10, 20], [0, 0, 10, 10]]


def test_one_prediction_moves_all_classes_alike() -> None:
    logits = torch.tensor([1 / 4, 1 / 2, 1 / 4]).log()
    (found,) = stage(logits, torch.tensor([[1.0, 0.0, 0.0, 0.0]])).detect([], proposals(FIRST), CANVAS).trim()
    assert found.boxes.tolist() == [[10, 0, 20, 10], [10, 0, 20, 10]]


def test_padding_is_never_detected() -> None:
    """Not even where the head says nan of it."""
    nothing = proposals(FIRST, SECOND).replace(valid=torch.tensor([[False, False]]))
    for logits in (torch.tensor([9.0, 0.0, 0.0]), torch.full((3,), float("nan"))):
        assert not stage(logits).detect([], nothing, CANVAS).valid.any()


def test_the_box_loss_has_its_weight() -> None:
    object = FIRST + torch.tensor([1.0, 0.0, 1.0, 0.0])
    losses = stage(box_weight=3.0).loss([], proposals(FIRST, THIRD), [target(object)])
    assert losses["class"].item() == pytest.approx(math.log(3))
    assert losses["box"].item() == pytest.approx(3 * 0.1 / 3)


def test_the_loss_of_overlap_by_hand() -> None:
    """One of two positives is off by a tenth of its width: an IoU of 9 / 11 in a hull without more; the other by 0."""
    object = FIRST + torch.tensor([1.0, 0.0, 1.0, 0.0])
    losses = stage(box_loss=GIoULoss(), box_weight=5.0).loss([], proposals(FIRST, THIRD), [target(object)])
    assert losses["box"].item() == pytest.approx(5 * (1 - 9 / 11) / 3)


class BoxPool(nn.Module):
    """Pools the boxes themselves, and remembers how many came at once."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = []

    def forward(self, maps: list[Tensor], boxes: Tensor) -> Tensor:
        self.counts.append(boxes.shape[1])
        return boxes.flatten(0, 1)


class Reader(nn.Module):
    """The first three corners of each region as logits, and all four as deltas."""

    def forward(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        return boxes[:, :3], boxes[:, None].expand(-1, 2, -1)


@pytest.mark.parametrize(("chunk", "counts"), [(None, [5]), (2, [2, 2, 1]), (5, [5]), (9, [5])])
def test_chunks_change_nothing_but_how_much_is_read_at_once(chunk: int | None, counts: list[int]) -> None:
    boxes = torch.rand(3, 5, 4)
    pool = BoxPool()
    logits, deltas = stage(pool=pool, head=Reader(), chunk=chunk)([], boxes)
    assert pool.counts == counts
    assert torch.equal(logits, boxes[..., :3]) and torch.equal(deltas, boxes[:, :, None].expand(-1, -1, 2, -1))


class Scores(nn.Module):
    """The given probabilities of the regions in turn; none is moved."""

    def __init__(self, probabilities: list[list[float]]) -> None:
        super().__init__()
        self.logits = torch.tensor(probabilities).log()

    def forward(self, count: int) -> tuple[Tensor, Tensor]:
        return self.logits, torch.zeros(count, 2, 4)


SCORES = Scores([[0.45, 0.40, 0.15], [0.10, 0.50, 0.40], [0.02, 0.28, 0.70]])
"""Of two classes and the background, for FIRST, SECOND and THIRD."""


def test_chooses_every_class_above_the_threshold() -> None:
    found = stage(head=SCORES, select=Select(score_threshold=0.25, slots=8)).detect(
        [], proposals(FIRST, SECOND, THIRD), CANVAS
    )
    (found,) = found.trim()
    torch.testing.assert_close(found.scores, torch.tensor([0.50, 0.45, 0.40, 0.28]))
    assert found.labels.tolist() == [1, 0, 1, 1]


def test_a_threshold_for_each_class() -> None:
    select = Select(score_threshold=(0.05, 0.45), slots=8)
    (found,) = stage(head=SCORES, select=select).detect([], proposals(FIRST, SECOND, THIRD), CANVAS).trim()
    torch.testing.assert_close(found.scores, torch.tensor([0.50, 0.45, 0.10]))
    assert found.labels.tolist() == [1, 0, 0]


def test_chooses_the_regions_least_likely_background_each_once() -> None:
    """FIRST, with .15, and SECOND, with .4, as the class that each has rather; THIRD is one too many."""
    select = Select(score_threshold=0.0, slots=2)
    parts = {"head": SCORES, "select": select, "choose": least_background}
    (found,) = stage(**parts).detect([], proposals(FIRST, SECOND, THIRD), CANVAS).trim()
    torch.testing.assert_close(found.scores, torch.tensor([0.85, 0.60]))
    assert found.labels.tolist() == [0, 1]
    assert torch.equal(found.boxes, torch.stack([FIRST, SECOND]))


def test_what_is_least_background_is_never_padding() -> None:
    nothing = proposals(FIRST, SECOND, THIRD).replace(valid=torch.tensor([[True, False, False]]))
    parts = {"head": SCORES, "select": Select(score_threshold=0.0, slots=3), "choose": least_background}
    assert stage(**parts).detect([], nothing, CANVAS).valid.tolist() == [[True, False, False]]


def moving(logits: Tensor, by: float, iou: float, **parts: Any) -> RegionStage:
    """Moves every box to the right by a share of its width, and scores it alike."""
    deltas = torch.tensor([[by, 0.0, 0.0, 0.0]])
    return stage(logits, deltas, assign=MaxIoUAssigner(iou, iou), **parts)


def test_each_stage_of_a_cascade_refines_the_boxes_of_the_one_before() -> None:
    """10 pixels wide, moved by 2 and then by 1; the score is the mean of 3/4 and 1/4."""
    first = moving(torch.tensor([1 / 8, 3 / 4, 1 / 8]).log(), 0.2, 0.5)
    second = moving(torch.tensor([1 / 8, 1 / 4, 5 / 8]).log(), 0.1, 0.6)
    (found,) = Cascade(first, last=second).detect([], proposals(FIRST, padding=2), CANVAS).trim()
    assert found.labels.tolist() == [1, 0]
    torch.testing.assert_close(found.scores, torch.tensor([1 / 2, 1 / 8]))
    torch.testing.assert_close(found.boxes, torch.tensor([[3.0, 0.0, 13.0, 10.0]] * 2))


def test_each_stage_of_a_cascade_learns_from_the_boxes_of_the_one_before() -> None:
    """The object lies 4 pixels beside the proposal: an IoU of 6 / 14, and of 10 / 10 once that was moved by 4. For the
    first stage it is background, at 0.45 of the box; the second one finds it and counts half."""
    sure = torch.tensor([0.0, 0.0, 30.0])
    object = FIRST + torch.tensor([4.0, 0.0, 4.0, 0.0])
    first, second = moving(sure, 0.4, 0.45), moving(sure, 0.0, 0.9, box_weight=3.0)
    losses = Cascade(first, last=second).loss([], proposals(FIRST), [target(object)])
    assert list(losses) == ["class1", "box1", "class2", "box2"]
    assert losses["class1"].item() == pytest.approx(30 / 2)  # of the object, one of two boxes
    assert losses["box1"].item() == pytest.approx(0.4 / 2)  # the object itself was moved, too
    assert losses["class2"].item() == pytest.approx(0.5 * 30 * 2 / 3)  # the object again, and the moved proposal
    assert losses["box2"].item() == pytest.approx(0)


def test_a_stage_of_a_cascade_does_not_learn_through_the_boxes_of_the_one_before() -> None:
    deltas = [torch.tensor([[0.1, 0.0, 0.0, 0.0]], requires_grad=True) for _ in range(2)]
    first, second = (stage(deltas=d) for d in deltas)
    losses = Cascade(first, last=second).loss([], proposals(FIRST), [target(FIRST)])
    losses["box2"].backward()
    assert deltas[0].grad is None and deltas[1].grad is not None


def test_padding_stays_padding_through_a_cascade() -> None:
    both = Cascade(stage(deltas=torch.zeros(1, 4)), last=stage(deltas=torch.zeros(1, 4)))
    nothing = proposals(FIRST, SECOND).replace(valid=torch.tensor([[False, False]]))
    assert not both.detect([], nothing, CANVAS).valid.any()
    padded = both.loss([], proposals(FIRST, THIRD, padding=5), [target(FIRST)])
    assert padded == both.loss([], proposals(FIRST, THIRD), [target(FIRST)])
    assert all(loss.item() == 0 for loss in both.loss([], nothing, [Target.empty()]).values())
