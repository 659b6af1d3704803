"""Assignment by overlap on candidates whose overlaps can be counted."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher, SSDMatcher
from torchvision.ops import box_iou

from boxwright.assign import BACKGROUND, IGNORED, MaxIoUAssigner
from boxwright.types import Target


def column(*heights: float) -> Tensor:
    """Boxes 10 wide and so high, from the origin: against one of height 10 their IoU is a tenth of their height."""
    return torch.tensor([[0.0, 0.0, 10.0, height] for height in heights])


def target(*boxes: tuple[float, float, float, float], crowd: tuple[bool, ...] | None = None) -> Target:
    flags = torch.tensor(crowd if crowd is not None else [False] * len(boxes), dtype=torch.bool)
    return Target(torch.tensor(boxes), torch.arange(len(boxes)), flags)


OBJECT = (0.0, 0.0, 10.0, 10.0)


def test_positive_ignored_background() -> None:
    """From `high` up and from `low` up, the borders included."""
    assigned = MaxIoUAssigner(high=0.7, low=0.3)(column(9, 7, 6, 3, 2), target(OBJECT))
    assert assigned.tolist() == [0, 0, IGNORED, IGNORED, BACKGROUND]


def test_one_threshold_leaves_nothing_ignored() -> None:
    assert MaxIoUAssigner(high=0.5, low=0.5)(column(6, 5, 4), target(OBJECT)).tolist() == [0, 0, BACKGROUND]


def test_a_candidate_learns_the_object_it_covers_best() -> None:
    two = target((0.0, 0.0, 10.0, 6.0), (0.0, 0.0, 10.0, 10.0))
    assert MaxIoUAssigner(high=0.5)(column(6, 10, 7.5), two).tolist() == [0, 1, 0]  # 6/7.5 = 0.8, 7.5/10 = 0.75


def test_without_rescue_an_object_may_go_unlearnt() -> None:
    assert MaxIoUAssigner(high=0.7, low=0.3)(column(4, 2), target(OBJECT)).tolist() == [IGNORED, BACKGROUND]


def test_rescue_takes_the_best_however_little_it_overlaps() -> None:
    allow_low_quality_matches = MaxIoUAssigner(high=0.7, low=0.3, allow_low_quality_matches=True)
    assert allow_low_quality_matches(column(4, 2), target(OBJECT)).tolist() == [0, BACKGROUND]
    assert allow_low_quality_matches(column(2, 1), target(OBJECT)).tolist() == [0, BACKGROUND]


def test_rescue_takes_all_that_are_equally_best() -> None:
    assert MaxIoUAssigner(high=0.7, low=0.3, allow_low_quality_matches=True)(
        column(4, 4, 2), target(OBJECT)
    ).tolist() == [0, 0, BACKGROUND]


def test_rescue_needs_some_overlap() -> None:
    far = target((100.0, 100.0, 110.0, 110.0))
    assert MaxIoUAssigner(high=0.7, low=0.3, allow_low_quality_matches=True)(column(4, 2), far).tolist() == [
        BACKGROUND,
        BACKGROUND,
    ]


def test_a_claim_takes_the_candidate_from_an_object_that_it_covers_better() -> None:
    """Of heights 10 and 4, the second object's best candidate is the only one, which the first covers to the full."""
    both = target(OBJECT, (0.0, 0.0, 10.0, 4.0))
    assert MaxIoUAssigner(high=0.5)(column(10), both).tolist() == [0]
    assert MaxIoUAssigner(high=0.5, match_best_prior=True)(column(10), both).tolist() == [1]
    assert MaxIoUAssigner(high=0.5, match_best_prior=True)(column(10, 6), both).tolist() == [0, 1]
    assert MaxIoUAssigner(high=0.5, match_best_prior=True)(column(10, 9), target(OBJECT)).tolist() == [0, 0]


def test_claims_equal_torchvision() -> None:
    noise = torch.Generator().manual_seed(1)
    for objects in (1, 7, 30):
        corners = torch.rand(60 + objects, 2, generator=noise) * 60
        boxes = torch.cat([corners, corners + 5 + 40 * torch.rand(60 + objects, 2, generator=noise)], 1)
        candidates, true = boxes[:60], boxes[60:]
        matched = SSDMatcher(0.5)(box_iou(true, candidates))
        ours = MaxIoUAssigner(0.5, 0.5, match_best_prior=True)(
            candidates, Target(true, torch.zeros(objects, dtype=torch.int64))
        )
        assert torch.equal(ours, matched)


def test_without_objects_all_is_background() -> None:
    for assign in (MaxIoUAssigner(allow_low_quality_matches=True), MaxIoUAssigner(match_best_prior=True)):
        assert assign(column(4, 2), Target.empty()).tolist() == [BACKGROUND, BACKGROUND]


def test_without_candidates_there_is_nothing() -> None:
    for objects in (target(OBJECT), Target.empty(), target(OBJECT, crowd=(True,))):
        assigned = MaxIoUAssigner()(torch.zeros(0, 4), objects)
        assert assigned.shape == (0,) and assigned.dtype == torch.int64


def test_a_crowd_is_neither_learnt_nor_background() -> None:
    """The first lies in the crowd, the second by half (not more), the third outside."""
    candidates = torch.tensor([[0.0, 0.0, 5.0, 5.0], [5.0, 0.0, 15.0, 5.0], [20.0, 0.0, 25.0, 5.0]])
    assert MaxIoUAssigner()(candidates, target(OBJECT, crowd=(True,))).tolist() == [IGNORED, BACKGROUND, BACKGROUND]


def test_an_object_in_a_crowd_is_learnt_under_its_own_row() -> None:
    crowd, inside = (0.0, 0.0, 100.0, 100.0), (0.0, 0.0, 10.0, 10.0)
    candidates = torch.cat([column(9), torch.tensor([[50.0, 50.0, 60.0, 60.0]])])
    assigned = MaxIoUAssigner(allow_low_quality_matches=True)(candidates, target(crowd, inside, crowd=(True, False)))
    assert assigned.tolist() == [1, IGNORED]


def test_a_crowd_does_not_take_a_candidate_that_covers_it() -> None:
    assert MaxIoUAssigner(allow_low_quality_matches=True)(column(10), target(OBJECT, crowd=(True,))).tolist() == [
        IGNORED
    ]


def test_degenerate_boxes_are_no_error() -> None:
    flat = torch.tensor([[5.0, 5.0, 5.0, 5.0]])
    assert MaxIoUAssigner(allow_low_quality_matches=True)(flat, target(OBJECT)).tolist() == [BACKGROUND]
    assert MaxIoUAssigner(allow_low_quality_matches=True)(column(10), target((5.0, 5.0, 5.0, 5.0))).tolist() == [
        BACKGROUND
    ]


def test_equals_torchvision_where_objects_overlap_something() -> None:
    noise = torch.Generator().manual_seed(0)
    for objects in (1, 7):
        corners = torch.rand(400 + objects, 2, generator=noise) * 60
        boxes = torch.cat([corners, corners + 5 + 40 * torch.rand(400 + objects, 2, generator=noise)], 1)
        candidates, true = boxes[:400], boxes[400:]
        matched = Matcher(0.7, 0.3, allow_low_quality_matches=True)(box_iou(true, candidates))
        ours = MaxIoUAssigner(0.7, 0.3, allow_low_quality_matches=True)(
            candidates, Target(true, torch.zeros(objects, dtype=torch.int64))
        )
        assert torch.equal(ours, matched)  # -1 and -2 mean the same there
        assert len(matched.unique()) >= 3
