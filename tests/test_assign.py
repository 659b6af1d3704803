"""Assigners by overlap, by position and by predictions, and samplers, on candidates that can be counted."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hotcoco.primitives import lsap
from torch import Tensor, nn
from torchvision.models.detection._utils import Matcher, SSDMatcher
from torchvision.ops import box_iou

from boxwright import assign as assignment
from boxwright.assign import (
    BACKGROUND,
    IGNORED,
    ATSSAssigner,
    BalancedSampler,
    CenterAssigner,
    HardNegativeMining,
    MaxIoUAssigner,
    Prediction,
    TaskAlignedAssigner,
    all_valid_anchors,
    match,
)
from boxwright.boxes.anchors import AnchorGrid, DeltaCodec
from boxwright.boxes.geometry import cxcywh_to_xyxy, pairwise_iou, xyxy_to_cxcywh
from boxwright.detectors.anchor_stage import AnchorHead, AnchorStage, Dense
from boxwright.detectors.base import Select
from boxwright.losses import DeltaLoss, GIoULoss, binary_cross_entropy
from boxwright.types import Target


def target(*boxes: tuple[float, float, float, float], crowd: tuple[bool, ...] | None = None) -> Target:
    """Object i is of class i."""
    flags = torch.tensor(crowd if crowd is not None else [False] * len(boxes), dtype=torch.bool)
    return Target(torch.tensor(boxes), torch.arange(len(boxes)), flags)


def column(*heights: float) -> Prediction:
    """Boxes 10 wide and so high, from the origin: against one of height 10 their IoU is a tenth of their height."""
    return Prediction(torch.tensor([[0.0, 0.0, 10.0, height] for height in heights]))


OBJECT = (0.0, 0.0, 10.0, 10.0)


def test_positive_ignored_background() -> None:
    """From `high` up and from `low` up, the borders included."""
    assigned = MaxIoUAssigner(high=0.7, low=0.3)(column(9, 7, 6, 3, 2), target(OBJECT))
    assert assigned.tolist() == [0, 0, IGNORED, IGNORED, BACKGROUND]


def test_one_threshold_leaves_nothing_ignored() -> None:
    assert MaxIoUAssigner(high=0.5, low=0.5)(column(6, 5, 4), target(OBJECT)).tolist() == [0, 0, BACKGROUND]


def test_a_candidate_learns_the_object_that_it_overlaps_most() -> None:
    two = target((0.0, 0.0, 10.0, 6.0), (0.0, 0.0, 10.0, 10.0))
    assert MaxIoUAssigner(high=0.5)(column(6, 10, 7.5), two).tolist() == [0, 1, 0]  # 6/7.5 = 0.8, 7.5/10 = 0.75


def test_without_low_quality_matches_an_object_may_have_none() -> None:
    assert MaxIoUAssigner(high=0.7, low=0.3)(column(4, 2), target(OBJECT)).tolist() == [IGNORED, BACKGROUND]


def test_low_quality_matches_are_the_best_however_little_they_overlap() -> None:
    assign = MaxIoUAssigner(high=0.7, low=0.3, allow_low_quality_matches=True)
    assert assign(column(4, 2), target(OBJECT)).tolist() == [0, BACKGROUND]
    assert assign(column(2, 1), target(OBJECT)).tolist() == [0, BACKGROUND]


def test_low_quality_matches_are_all_that_are_equally_best() -> None:
    assign = MaxIoUAssigner(high=0.7, low=0.3, allow_low_quality_matches=True)
    assert assign(column(4, 4, 2), target(OBJECT)).tolist() == [0, 0, BACKGROUND]


def test_a_low_quality_match_needs_some_overlap() -> None:
    far = target((100.0, 100.0, 110.0, 110.0))
    assign = MaxIoUAssigner(high=0.7, low=0.3, allow_low_quality_matches=True)
    assert assign(column(4, 2), far).tolist() == [BACKGROUND, BACKGROUND]


def test_the_best_prior_of_an_object_is_its_own_even_if_it_covers_another_better() -> None:
    """Of heights 10 and 4, the second object's best candidate is the only one, which the first covers to the full."""
    both = target(OBJECT, (0.0, 0.0, 10.0, 4.0))
    assert MaxIoUAssigner(high=0.5)(column(10), both).tolist() == [0]
    forced = MaxIoUAssigner(high=0.5, match_best_prior=True)
    assert forced(column(10), both).tolist() == [1]
    assert forced(column(10, 6), both).tolist() == [0, 1]
    assert forced(column(10, 9), target(OBJECT)).tolist() == [0, 0]


def test_best_priors_equal_torchvision() -> None:
    noise = torch.Generator().manual_seed(1)
    for objects in (1, 7, 30):
        corners = torch.rand(60 + objects, 2, generator=noise) * 60
        boxes = torch.cat([corners, corners + 5 + 40 * torch.rand(60 + objects, 2, generator=noise)], 1)
        candidates, true = boxes[:60], boxes[60:]
        matched = SSDMatcher(0.5)(box_iou(true, candidates))
        ours = MaxIoUAssigner(0.5, 0.5, match_best_prior=True)(
            Prediction(candidates), Target(true, torch.zeros(objects, dtype=torch.int64))
        )
        assert torch.equal(ours, matched)


def test_without_objects_all_is_background() -> None:
    for assign in (MaxIoUAssigner(allow_low_quality_matches=True), MaxIoUAssigner(match_best_prior=True)):
        assert assign(column(4, 2), Target.empty()).tolist() == [BACKGROUND, BACKGROUND]


def test_without_candidates_there_is_nothing() -> None:
    for objects in (target(OBJECT), Target.empty(), target(OBJECT, crowd=(True,))):
        assigned = MaxIoUAssigner()(Prediction(torch.zeros(0, 4)), objects)
        assert assigned.shape == (0,) and assigned.dtype == torch.int64


def test_a_crowd_is_neither_learnt_nor_background() -> None:
    """The first lies in the crowd, the second by half (not more), the third outside."""
    three = Prediction(torch.tensor([[0.0, 0.0, 5.0, 5.0], [5.0, 0.0, 15.0, 5.0], [20.0, 0.0, 25.0, 5.0]]))
    assert MaxIoUAssigner()(three, target(OBJECT, crowd=(True,))).tolist() == [IGNORED, BACKGROUND, BACKGROUND]


def test_an_object_in_a_crowd_is_learnt_under_its_own_row() -> None:
    crowd, inside = (0.0, 0.0, 100.0, 100.0), (0.0, 0.0, 10.0, 10.0)
    prediction = Prediction(torch.cat([column(9).candidates, torch.tensor([[50.0, 50.0, 60.0, 60.0]])]))
    assigned = MaxIoUAssigner(allow_low_quality_matches=True)(prediction, target(crowd, inside, crowd=(True, False)))
    assert assigned.tolist() == [1, IGNORED]


def test_a_crowd_does_not_take_a_candidate_that_covers_it() -> None:
    assign = MaxIoUAssigner(allow_low_quality_matches=True)
    assert assign(column(10), target(OBJECT, crowd=(True,))).tolist() == [IGNORED]


def test_degenerate_boxes_are_no_error() -> None:
    flat = torch.tensor([[5.0, 5.0, 5.0, 5.0]])
    assign = MaxIoUAssigner(allow_low_quality_matches=True)
    assert assign(Prediction(flat), target(OBJECT)).tolist() == [BACKGROUND]
    assert assign(column(10), target((5.0, 5.0, 5.0, 5.0))).tolist() == [BACKGROUND]


def test_equals_torchvision_where_objects_overlap_something() -> None:
    noise = torch.Generator().manual_seed(0)
    for objects in (1, 7):
        corners = torch.rand(400 + objects, 2, generator=noise) * 60
        boxes = torch.cat([corners, corners + 5 + 40 * torch.rand(400 + objects, 2, generator=noise)], 1)
        candidates, true = boxes[:400], boxes[400:]
        matched = Matcher(0.7, 0.3, allow_low_quality_matches=True)(box_iou(true, candidates))
        ours = MaxIoUAssigner(0.7, 0.3, allow_low_quality_matches=True)(
            Prediction(candidates), Target(true, torch.zeros(objects, dtype=torch.int64))
        )
        assert torch.equal(ours, matched)  # -1 and -2 mean the same there
        assert len(matched.unique()) >= 3


ANYWHERE = CenterAssigner(radius=float("inf"))


def cells(height: int, width: int) -> Prediction:
    """The cells of a map of stride 8."""
    (level,) = AnchorGrid(((8.0,),), (1.0,), (8,), offset=0.5)([(height, width)])
    return Prediction(level)


def test_a_point_inside_learns_the_object() -> None:
    """Points at 4, 12, 20, 28 of one row."""
    assert ANYWHERE(cells(1, 4), target((10.0, 0.0, 24.0, 8.0))).tolist() == [BACKGROUND, 0, 0, BACKGROUND]


def test_a_point_on_the_border_is_outside() -> None:
    assert ANYWHERE(cells(1, 2), target((4.0, 0.0, 16.0, 8.0))).tolist() == [BACKGROUND, 0]


def test_only_points_near_the_middle() -> None:
    """A centre at 20: at radius 1.5 the points less than 12 pixels away."""
    wide = target((0.0, 0.0, 40.0, 8.0))
    assert ANYWHERE(cells(1, 5), wide).tolist() == [0] * 5
    assert CenterAssigner(radius=1.5)(cells(1, 5), wide).tolist() == [BACKGROUND, 0, 0, 0, BACKGROUND]
    assert CenterAssigner(radius=0.5)(cells(1, 5), wide).tolist() == [BACKGROUND, BACKGROUND, 0, BACKGROUND, BACKGROUND]


def test_of_two_objects_the_smaller() -> None:
    both = target((0.0, 0.0, 40.0, 8.0), (16.0, 0.0, 24.0, 8.0))
    assert ANYWHERE(cells(1, 5), both).tolist() == [0, 0, 1, 0, 0]


def test_levels_are_for_sizes() -> None:
    """Cells of strides 8, 16 and 32 around one point: at reach 2 they learn what ends within 16, 32 and any pixels."""
    middle, by_size = 100.0, CenterAssigner(reach=2.0)
    around = torch.tensor([[middle - half] * 2 + [middle + half] * 2 for half in (4.0, 8.0, 16.0)])
    for half, expected in ((10.0, [0, -1, -1]), (20.0, [-1, 0, -1]), (40.0, [-1, -1, 0]), (16.0, [0, 0, -1])):
        box = (middle - half, middle - half, middle + half, middle + half)
        assert by_size(Prediction(around), target(box)).tolist() == expected
    assert by_size(Prediction(around[:1]), target((0.0, 0.0, 200.0, 200.0))).tolist() == [
        0
    ]  # finest and coarsest at once


def test_points_in_a_crowd_are_neither_learnt_nor_background() -> None:
    both = target((0.0, 0.0, 32.0, 8.0), (10.0, 0.0, 24.0, 8.0), crowd=(True, False))
    assert ANYWHERE(cells(1, 5), both).tolist() == [IGNORED, 1, 1, IGNORED, BACKGROUND]


def test_without_objects_every_point_is_background() -> None:
    assert CenterAssigner()(cells(2, 2), Target.empty()).tolist() == [BACKGROUND] * 4


def test_an_object_without_extent_has_no_points() -> None:
    assert CenterAssigner()(cells(1, 2), target((4.0, 4.0, 4.0, 4.0))).tolist() == [BACKGROUND] * 2


TASK_ALIGNED = TaskAlignedAssigner(top=2, box_power=4.0)


def of_two_levels() -> Prediction:
    """Two rows of four cells of 8 pixels, and two cells of 16."""
    small, large = AnchorGrid(((8.0,), (16.0,)), (1.0,), (8, 16), offset=0.5)([(2, 4), (1, 2)])
    return Prediction(torch.cat((small, large)), levels=(8, 2))


def test_atss_takes_what_overlaps_more_than_most() -> None:
    """Of 16 pixels: four small cells have an IoU of 1/4, the large ones 1 and 0. Mean and deviation are .333 and .312.

    Of 8 pixels, one beside a cell: that has 7/9, its neighbour 1/15, the next two 0, and the large ones 1/4 and 0.
    """
    large, small = (0.0, 0.0, 16.0, 16.0), (1.0, 0.0, 9.0, 8.0)
    assert ATSSAssigner(4)(of_two_levels(), target(large)).tolist() == [BACKGROUND] * 8 + [0, BACKGROUND]
    assert ATSSAssigner(4)(of_two_levels(), target(small)).tolist() == [0] + [BACKGROUND] * 9
    assert ATSSAssigner(4)(of_two_levels(), target(large, small)).tolist() == [1] + [BACKGROUND] * 7 + [0, BACKGROUND]


def test_atss_may_take_candidates_for_larger_ones() -> None:
    whole, middle = of_two_levels(), xyxy_to_cxcywh(of_two_levels().candidates) * torch.tensor([1.0, 1.0, 0.5, 0.5])
    halves, objects = replace(whole, candidates=cxcywh_to_xyxy(middle)), target((0.0, 0.0, 10.0, 10.0))
    assert ATSSAssigner(4)(halves, objects).tolist() == [BACKGROUND] * 8 + [0, BACKGROUND]
    assert ATSSAssigner(4)(whole, objects).tolist() == [0] + [BACKGROUND] * 9
    assert ATSSAssigner(4, scale=2.0)(halves, objects).tolist() == [0] + [BACKGROUND] * 9


def test_atss_takes_candidates_in_an_object_only() -> None:
    """It overlaps the first cell by far the most, but lies beside the cell's centre."""
    assert ATSSAssigner(4)(of_two_levels(), target((0.0, 0.0, 4.0, 8.0))).tolist() == [BACKGROUND] * 10


@pytest.mark.parametrize("assign", [ATSSAssigner(4), TASK_ALIGNED])
def test_crowds_and_images_without_objects(assign: ATSSAssigner | TaskAlignedAssigner) -> None:
    prediction = replace(of_two_levels(), logits=torch.zeros(10, 2))
    assert assign(prediction, Target.empty()).tolist() == [BACKGROUND] * 10
    crowd = replace(target((0.0, 0.0, 8.0, 16.0)), crowd=torch.tensor([True]))
    assert assign(prediction, crowd).tolist() == [IGNORED, *[BACKGROUND] * 3, IGNORED, *[BACKGROUND] * 5]


def test_atss_equals_a_loop_over_its_definition() -> None:
    """Algorithm 1 of the paper, object by object and level by level."""
    noise = torch.Generator().manual_seed(0)
    levels = AnchorGrid(((24.0,), (48.0,), (96.0,)), (1.0,), (8, 16, 32), offset=0.5)([(16, 20), (8, 10), (4, 5)])
    corners = 120 * torch.rand(12, 2, generator=noise)
    objects = torch.cat((corners, corners + 10 + 60 * torch.rand(12, 2, generator=noise)), 1)
    candidates = torch.cat(levels)
    centres, expected = (candidates[:, :2] + candidates[:, 2:]) / 2, [(0.0, BACKGROUND)] * len(candidates)
    for row, box in enumerate(objects):
        chosen, start = [], 0
        for level in levels:
            apart = (centres[start : start + len(level)] - (box[:2] + box[2:]) / 2).norm(dim=1)
            chosen += [start + int(index) for index in apart.argsort()[:9]]
            start += len(level)
        overlaps = pairwise_iou(candidates[chosen], box[None])[:, 0].tolist()
        threshold = statistics.mean(overlaps) + statistics.pstdev(overlaps)
        for index, overlap in zip(chosen, overlaps, strict=True):
            if overlap >= threshold and (centres[index] > box[:2]).all() and (centres[index] < box[2:]).all():
                expected[index] = max(expected[index], (overlap, row))
    prediction = Prediction(candidates, levels=tuple(map(len, levels)))
    assigned = ATSSAssigner(9)(prediction, Target(objects, torch.zeros(12, dtype=torch.int64)))
    assert assigned.tolist() == [row for _, row in expected] and (assigned >= 0).sum() > 50


@dataclass(frozen=True)
class Hungarian:
    """One candidate for each object, of least total cost: -p of its class, L1 over 100 pixels, -IoU (as DETR's)."""

    def __call__(self, prediction: Prediction, target: Target) -> Tensor:
        assert prediction.logits is not None
        probability = prediction.logits.sigmoid()[:, target.labels]  # (A, G)
        distance = torch.cdist(prediction.boxes, target.boxes, p=1) / 100
        cost = distance - probability - pairwise_iou(prediction.boxes, target.boxes)
        candidates, objects = (torch.from_numpy(rows).long() for rows in lsap(cost.numpy()))
        assigned = torch.full((len(cost),), BACKGROUND)
        assigned[candidates] = objects
        return assigned


GRID = AnchorGrid(((8.0,),), (1.0,), (8,), offset=0.5)


def stage(assign: Any, box_loss: Any = None, boxes: int = 1) -> AnchorStage:
    """Two classes over cells of 8 pixels."""
    return AnchorStage(
        head=AnchorHead(4, 1, 2, depth=1, shared=False, boxes=boxes),
        anchors=GRID,
        codec=DeltaCodec(),
        assign=assign,
        sample=all_valid_anchors,
        class_loss=binary_cross_entropy,
        box_loss=box_loss or DeltaLoss(),
        select=Select(),
    )


def four_cells() -> Dense:
    """Cells at 0, 8, 16 and 24 of one row, no move, and logits of two classes that differ."""
    logits = torch.tensor([[[-2.0, -2.0], [0.0, -2.0], [2.0, 2.0], [-2.0, 0.0]]])
    return Dense(logits, torch.zeros(1, 4, 1, 4), torch.cat(GRID([(1, 4)])), (4,))


def test_hungarian_assignment_by_hand() -> None:
    """Both objects lie on the third cell, whose logits are the highest; the second comes a little nearer to it.

    The first takes the second cell, which is as near as the fourth and likelier to be of class 0.
    """
    both = target((16.0, 0.0, 24.0, 7.0), (16.0, 0.0, 24.0, 8.0))
    assert Hungarian()(stage(None).predictions(four_cells())[0], both).tolist() == [BACKGROUND, 0, 1, BACKGROUND]


def test_task_aligned_assignment_by_hand() -> None:
    """One object over the last three cells, of IoU 1/3 each: the two of greatest p. A moved box counts as it lies."""
    wide, dense = target((8.0, 0.0, 32.0, 8.0)), four_cells()
    assert TASK_ALIGNED(stage(None).predictions(dense)[0], wide).tolist() == [BACKGROUND, 0, 0, BACKGROUND]
    dense.deltas[0, 1, 0, 0] = -1.0  # a width to the left
    assert TASK_ALIGNED(stage(None).predictions(dense)[0], wide).tolist() == [BACKGROUND, BACKGROUND, 0, 0]


def test_boxes_of_every_class_are_read_at_the_likeliest() -> None:
    dense = four_cells()
    deltas = torch.zeros(1, 4, 2, 4)
    deltas[..., 1, 0] = 1.0  # boxes of class 1 lie a width to the right
    (prediction,) = stage(None, boxes=2).predictions(dense._replace(deltas=deltas))
    assert prediction.boxes[:, 0].tolist() == [0, 8, 16, 32]


def test_assignment_records_no_gradient_and_decodes_only_if_boxes_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, calls = [], []

    def by_boxes(prediction: Prediction, target: Target) -> Tensor:
        seen.append((prediction.logits, prediction.boxes, prediction.boxes))
        return MaxIoUAssigner()(prediction, target)

    dense = four_cells()
    for output in (dense.logits, dense.deltas):
        output.requires_grad_()
    decode = DeltaCodec.decode
    monkeypatch.setattr(DeltaCodec, "decode", lambda *args: calls.append(1) or decode(*args))
    for assign in (MaxIoUAssigner(), CenterAssigner()):
        stage(assign).loss(dense, [target((8.0, 0.0, 16.0, 8.0))])
    assert not calls
    losses = stage(by_boxes).loss(dense, [target((8.0, 0.0, 16.0, 8.0))])
    assert len(calls) == 1 and losses["box"].requires_grad
    assert not any(tensor.requires_grad for tensor in seen[0])


def test_match_gives_labels_and_boxes_of_what_is_assigned() -> None:
    """The second object to the first candidate, the first to none; an image without objects has none."""
    targets = [target((0.0, 0.0, 9.0, 9.0), OBJECT), Target.empty()]
    rows = iter([torch.tensor([1, BACKGROUND, IGNORED]), torch.tensor([BACKGROUND] * 3)])
    assigned, labels, boxes = match(lambda prediction, target: next(rows), [column(1, 2, 3)] * 2, targets)
    assert assigned.tolist() == [[1, -1, -2], [-1, -1, -1]] and labels.tolist() == [[1, -1, -1], [-1, -1, -1]]
    assert boxes[0].tolist() == [list(OBJECT), [0] * 4, [0] * 4] and not boxes[1].any()


@pytest.mark.parametrize("assign", [Hungarian(), TASK_ALIGNED])
def test_learns_with_an_assigner_by_predictions(assign: Any) -> None:
    """Maps of noise, by heart: the loss falls, and both objects are detected where they are, each once at least."""
    torch.manual_seed(0)
    trained = stage(assign, GIoULoss())
    maps = [torch.randn(1, 4, 3, 4)]
    objects = target((2.0, 3.0, 14.0, 13.0), (17.0, 8.0, 29.0, 22.0))
    optimizer = torch.optim.Adam(trained.parameters(), lr=0.02)
    history = []
    for _ in range(150):
        loss = sum(trained.loss(trained(maps), [objects]).values(), torch.zeros(()))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < history[0] / 10
    (found,) = trained.detect(trained(maps), torch.tensor([[24, 32]])).trim()
    assert found.labels[:2].sort().values.tolist() == [0, 1]
    assert pairwise_iou(found.boxes[found.labels.argsort(stable=True)], objects.boxes).diagonal().min() > 0.7


def assigned(positive: int, background: int, ignored: int = 0) -> Tensor:
    return torch.tensor([0] * positive + [BACKGROUND] * background + [IGNORED] * ignored)


def test_all_valid_anchors_leave_out_what_is_ignored() -> None:
    assert all_valid_anchors(torch.tensor([2, BACKGROUND, IGNORED, 0])).tolist() == [True, True, False, True]


@pytest.mark.parametrize(
    ("positive", "background", "trained", "untrained"),
    [
        (100, 100, 4, 12),  # enough of both: a quarter of 16
        (2, 100, 2, 14),  # background fills up
        (0, 100, 0, 16),
        (100, 5, 4, 5),  # positives do not fill up
        (100, 0, 4, 0),
        (1, 2, 1, 2),
        (0, 0, 0, 0),
    ],
)
def test_quotas(positive: int, background: int, trained: int, untrained: int) -> None:
    rows = assigned(positive, background, ignored=30)
    chosen = BalancedSampler(16, positive=0.25)(rows)
    assert chosen.shape == rows.shape and chosen.dtype == torch.bool
    assert (chosen & (rows >= 0)).sum() == trained
    assert (chosen & (rows == BACKGROUND)).sum() == untrained
    assert not (chosen & (rows == IGNORED)).any()


def test_every_image_has_its_own_quota() -> None:
    rows = torch.stack([assigned(50, 50), assigned(1, 99), assigned(0, 3, ignored=97)])
    chosen = BalancedSampler(16, positive=0.5)(rows)
    assert (chosen & (rows >= 0)).sum(1).tolist() == [8, 1, 0]
    assert chosen.sum(1).tolist() == [16, 16, 3]


def test_more_places_than_candidates() -> None:
    assert BalancedSampler(512, positive=0.5)(assigned(3, 4)).all()
    assert BalancedSampler(512, positive=0.5)(assigned(0, 0)).shape == (0,)


def test_the_seed_decides() -> None:
    rows, draw = assigned(50, 500), BalancedSampler(64, positive=0.5)
    torch.manual_seed(3)
    first = draw(rows)
    other = draw(rows)
    torch.manual_seed(3)
    assert torch.equal(draw(rows), first)
    assert not torch.equal(other, first)


def test_all_have_the_same_chance() -> None:
    """Of 10 positives and 30 backgrounds 4 and 12 are drawn: each 0.4 of the time, within five standard errors."""
    torch.manual_seed(0)
    draws = 2000
    frequency = BalancedSampler(16, positive=0.25)(assigned(10, 30).expand(draws, -1)).float().mean(0)
    assert (frequency - 0.4).abs().max() < 5 * (0.4 * 0.6 / draws) ** 0.5


def test_hard_negatives_are_those_that_cost_most() -> None:
    """Two positives of the first image want six of its seven negatives; the second has none, and gets `least`."""
    rows = torch.stack([assigned(2, 7, 1), assigned(0, 9, 1)])
    losses = torch.tensor([[9.0, 9, 1, 2, 3, 4, 5, 6, 7, 9], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]])
    chosen = HardNegativeMining(ratio=3.0, least=2)(rows, losses)
    assert chosen[0].tolist() == [True, True, False, True, True, True, True, True, True, False]
    assert chosen[1].tolist() == [False] * 7 + [True, True, False]
    assert not HardNegativeMining(least=0)(rows, losses)[1].any()


def test_too_few_negatives_are_all_taken() -> None:
    rows = assigned(3, 2, 4)
    assert HardNegativeMining()(rows, torch.zeros(9)).tolist() == [True] * 5 + [False] * 4


@pytest.mark.parametrize("rounded", [False, True])
def test_one_pass_over_many_pairs_equals_the_definition(rounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounded boxes tie: in overlaps, in areas and on borders. Some have no extent, and some objects are crowds."""
    pytest.importorskip("numba")
    anchors = AnchorGrid(((16.0,), (32.0,), (64.0,)), (0.5, 1.0, 2.0), (8, 16, 32))([(16, 20), (8, 10), (4, 5)])
    points = AnchorGrid(((8.0,), (16.0,), (32.0,)), (1.0,), (8, 16, 32), offset=0.5)([(16, 20), (8, 10), (4, 5)])
    noise = torch.Generator().manual_seed(0)
    passes = 0
    for objects in (1, 9, 60):
        corner = torch.rand(objects, 2, generator=noise) * 120
        boxes = torch.cat([corner, corner + torch.rand(objects, 2, generator=noise) ** 2 * 90], 1)
        boxes[0, 2:] = boxes[0, :2]
        boxes = (boxes / 8).round() * 8 if rounded else boxes
        crowd = torch.rand(objects, generator=noise) < 0.2
        several = Target(boxes, torch.zeros(objects, dtype=torch.int64), crowd)
        for assign, levels in (
            (MaxIoUAssigner(0.7, 0.3, allow_low_quality_matches=True), anchors),
            (MaxIoUAssigner(0.5, 0.5, match_best_prior=True), anchors),
            (CenterAssigner(), points),
            (CenterAssigner(radius=0.7), points),
            (ANYWHERE, points),
        ):
            prediction = Prediction(torch.cat(levels))
            monkeypatch.setattr(assignment, "MANY_PAIRS", torch.inf)
            defined = assign(prediction, several)
            monkeypatch.setattr(assignment, "MANY_PAIRS", 0)
            assert torch.equal(assign(prediction, several), defined)
            passes += len(defined.unique()) > 2
    assert passes > 8


def test_many_pairs_take_one_pass_only_where_numba_is_and_boxes_are_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assignment, "MANY_PAIRS", 0)
    assign = MaxIoUAssigner(high=0.7, low=0.3)
    expected = assign(column(9, 6, 2), target(OBJECT))
    double = Target(torch.tensor([OBJECT], dtype=torch.float64), torch.tensor([0]))
    assert torch.equal(assign(column(9, 6, 2), double), expected)
    monkeypatch.setattr(assignment.compiled, "is_available", lambda: False)
    assert torch.equal(assign(column(9, 6, 2), target(OBJECT)), expected)
