"""From scored boxes to slots: the best, suppression within groups, padding."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from boxwright.detectors.base import Candidates, Select, best, best_of_each_class, gather

LARGE = torch.tensor([[1000, 1000]])


def candidates(scores: list[float], labels: list[int] | None = None, levels: list[int] | None = None) -> Candidates:
    """One image's, in rows 0, 1, ..."""
    rows = torch.arange(len(scores))[None]
    none = torch.zeros_like(rows)
    label, level = (none if column is None else torch.tensor([column]) for column in (labels, levels))
    return Candidates(rows, label, level, torch.tensor([scores]))


def row(*boxes: tuple[float, float, float, float]) -> Tensor:
    return torch.tensor([boxes])


def test_gather_takes_rows_of_each_image() -> None:
    values = torch.arange(2 * 3 * 2).reshape(2, 3, 2)
    rows = torch.tensor([[2, 0], [1, 1]])
    assert gather(values, rows).tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]
    assert gather(values[..., 0], rows).tolist() == [[4, 0], [8, 8]]


def test_best_pairs_of_row_and_class() -> None:
    scores = torch.tensor([[[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]]])
    found = best(scores, 3)
    assert found.rows.tolist() == [[0, 1, 2]]
    assert found.labels.tolist() == [[1, 0, 1]]
    assert found.levels.tolist() == [[0, 0, 0]]
    torch.testing.assert_close(found.scores, torch.tensor([[0.9, 0.8, 0.7]]))


def test_best_of_each_class() -> None:
    """Three rows, two classes: the two best rows of the first, then of the second; no class has more than there are."""
    scores = torch.tensor([[[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]]])
    found = best_of_each_class(scores, 2)
    assert (found.rows.tolist(), found.labels.tolist()) == ([[1, 2, 0, 2]], [[0, 0, 1, 1]])
    torch.testing.assert_close(found.scores, torch.tensor([[0.8, 0.3, 0.9, 0.7]]))
    assert best_of_each_class(scores, 5).rows.shape == (1, 6)


def test_boxes_below_the_min_size_are_dropped() -> None:
    boxes, found = row((5, 5, 5, 9), (0, 0, 0.5, 9), (0, 0, 2, 2)), candidates([0.9, 0.8, 0.7])
    for min_size, scores in ((0.0, [0.9, 0.8, 0.7]), (1e-3, [0.8, 0.7]), (1.0, [0.7])):
        (kept,) = Select(slots=3, min_size=min_size)(boxes, found, LARGE).trim()
        torch.testing.assert_close(kept.scores, torch.tensor(scores))


def test_small_boxes_may_be_dropped_from_the_best_after_suppression() -> None:
    """The box without height takes one of two slots (Detectron2), or its slot goes to the next one."""
    boxes, found = row((5, 5, 9, 5), (0, 0, 4, 4), (20, 20, 28, 28)), candidates([0.875, 0.75, 0.5])
    for drop_after_nms, scores in ((False, [0.75, 0.5]), (True, [0.75])):
        (kept,) = Select(slots=2, min_size=1e-9, drop_after_nms=drop_after_nms)(boxes, found, LARGE).trim()
        assert kept.scores.tolist() == scores


def test_logits_rank_where_their_sigmoids_are_equal() -> None:
    """Of three levels the last has the surest box; in float32 all sigmoids are 1."""
    boxes = row((0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10))
    found = candidates([17.0, 18.0, 19.0], levels=[0, 1, 2])
    assert (found.scores.sigmoid() == 1).all()
    slots = Select(within="level", slots=2)(boxes, found, LARGE, logits=True)
    assert slots.boxes[0, :, 0].tolist() == [40, 20]
    assert slots.scores.tolist() == [[1, 1]]
    low = Select(score_threshold=0.5, slots=2)(boxes, candidates([0.0, -1.0, 1.0]), LARGE, logits=True)
    torch.testing.assert_close(low.scores, torch.tensor([[1 / (1 + math.exp(-1)), 0.0]]))
    assert low.valid.tolist() == [[True, False]]


def test_best_of_each_level() -> None:
    """Two rows, then one, then three; no level has more than it has."""
    scores = torch.tensor([0.1, 0.9, 0.2, 0.5, 0.3, 0.4])[None, :, None]
    found = best(scores, 2, (2, 1, 3))
    assert found.rows.tolist() == [[1, 0, 2, 3, 5]]
    assert found.levels.tolist() == [[0, 0, 1, 2, 2]]


def test_best_of_fewer_than_asked_for() -> None:
    assert best(torch.rand(2, 3, 2), 1000).scores.shape == (2, 6)


def test_score_is_to_be_exceeded() -> None:
    boxes = row((0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10))
    slots = Select(score_threshold=0.5, slots=3)(boxes, candidates([0.5, 0.75, 0.25]), LARGE)
    assert slots.valid.tolist() == [[True, False, False]]
    assert slots.scores.tolist() == [[0.75, 0.0, 0.0]]


def test_what_is_not_valid_is_zero() -> None:
    slots = Select(slots=3)(row((5, 5, 10, 10), (0, 0, 0, 9)), candidates([0.5, 0.9], labels=[4, 7]), LARGE)
    assert slots.boxes.tolist() == [[[5, 5, 10, 10], [0, 0, 0, 0], [0, 0, 0, 0]]]
    assert slots.labels.tolist() == [[4, 0, 0]]
    assert [len(found) for found in slots.trim()] == [1]


def test_best_come_first_and_the_rest_is_cut() -> None:
    boxes = row((0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10))
    slots = Select(slots=2)(boxes, candidates([0.25, 0.75, 0.5]), LARGE)
    assert slots.scores.tolist() == [[0.75, 0.5]]
    assert slots.boxes[0, :, 0].tolist() == [20, 40]


@pytest.mark.parametrize(
    ("within", "kept"), [("class", [0.875, 0.75, 0.625]), ("level", [0.875, 0.75, 0.5]), ("image", [0.875])]
)
def test_which_boxes_suppress_each_other(within: str, kept: list[float]) -> None:
    """One box four times: the second differs in class and level, the third in class, the fourth in level."""
    found = candidates([0.875, 0.75, 0.625, 0.5], labels=[0, 1, 2, 0], levels=[0, 1, 0, 2])
    slots = Select(within=within, slots=4)(row(*[(0, 0, 10, 10)] * 4), found, LARGE)  # type: ignore[arg-type]
    assert slots.scores[slots.valid].tolist() == kept


def test_refuses_other_groups() -> None:
    with pytest.raises(ValueError, match="class, level or image, got 'batch'"):
        Select(within="batch")  # type: ignore[arg-type]


def test_boxes_are_clipped_to_their_image_before_they_compete() -> None:
    """Outside the image they differ, inside they are the same; what lies in the padding is gone."""
    boxes = row((0, 0, 20, 20), (0, 0, 90, 90), (30, 30, 50, 50))
    slots = Select(slots=3)(boxes, candidates([0.9, 0.8, 0.7]), torch.tensor([[20, 20]]))
    assert slots.boxes[slots.valid].tolist() == [[0, 0, 20, 20]]


def test_each_image_has_its_own_size() -> None:
    boxes, found = row((0, 0, 90, 90)), candidates([0.9])
    batch = Candidates(*(column.expand(2, -1) for column in found))
    slots = Select(slots=1)(boxes.expand(2, -1, -1), batch, torch.tensor([[20, 30], [50, 40]]))
    assert slots.boxes[:, 0].tolist() == [[0, 0, 30, 20], [0, 0, 40, 50]]


def test_nan_is_never_detected() -> None:
    nan = float("nan")
    boxes = row((0, 0, 10, 10), (nan, 0, 10, 10), (20, 0, 30, 10))
    slots = Select(slots=3)(boxes, candidates([0.9, 0.8, nan]), LARGE)
    assert slots.valid.tolist() == [[True, False, False]]
    assert slots.boxes.isfinite().all() and slots.scores.isfinite().all()


def test_another_suppression_is_another_callable() -> None:
    def none_at_all(boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, iou: float, most: int) -> Tensor:
        assert (iou, most) == (0.3, 4)
        return valid

    slots = Select(iou_threshold=0.3, slots=4, suppress=none_at_all)(
        row(*[(0, 0, 9, 9)] * 2), candidates([0.5, 0.9]), LARGE
    )
    assert slots.valid.sum() == 2


@pytest.mark.parametrize("slots", [5, 60, 500])
def test_equals_torchvision_on_random_boxes(slots: int) -> None:
    noise = torch.Generator().manual_seed(0)
    corner = torch.rand(3, 300, 2, generator=noise) * 80
    boxes = torch.cat([corner, corner + 1 + 30 * torch.rand(3, 300, 2, generator=noise)], -1)
    labels = torch.randint(4, (3, 300), generator=noise)
    scores = torch.rand(3, 300, generator=noise)
    found = Candidates(torch.arange(300).expand(3, -1), labels, torch.zeros_like(labels), scores)
    for image, detections in enumerate(
        Select(score_threshold=0.3, slots=slots)(boxes, found, LARGE.expand(3, 2)).trim()
    ):
        wanted = (scores[image] > 0.3).nonzero()[:, 0]
        kept = wanted[batched_nms(boxes[image, wanted], scores[image, wanted], labels[image, wanted], 0.5)][:slots]
        assert torch.equal(detections.boxes, boxes[image, kept])
        assert torch.equal(detections.scores, scores[image, kept])
        assert torch.equal(detections.labels, labels[image, kept])
