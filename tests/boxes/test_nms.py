"""Suppression by hand, then torchvision as oracle for ties and degenerate boxes, then batches, compile and export."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
import torch
import torchvision
from torch import Tensor

from boxwright import ops
from boxwright.boxes.geometry import pairwise_iou
from boxwright.boxes.nms import greedy_nms
from boxwright.ops import _static_nms_mask, load_compiled_ops, nms_mask, without_waiting
from host_waits import ON_CUDA, HostWaits

# Two pairs of boxes: 100 x 100 with the upper 78 rows of it, and the same with 74 rows: overlaps .78 and .74.
FOUR = torch.tensor([[0.0, 0, 100, 100], [0, 0, 100, 78], [200, 0, 300, 100], [200, 0, 300, 74]])
FOUR_SCORES = torch.tensor([0.9, 0.8, 0.6, 0.7])


def random_batch(
    images: int = 4, boxes: int = 60, classes: int = 5, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes on a grid of quarter pixels, so that float32 and float64 agree on every overlap's side of a threshold."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 200, (images, boxes, 2), generator=generator) / 4
    extent = torch.randint(0, 160, (images, boxes, 2), generator=generator) / 4  # some are empty
    scores = torch.randint(0, 40, (images, boxes), generator=generator) / 40  # with ties
    groups = torch.randint(0, classes, (images, boxes), generator=generator)
    valid = torch.rand(images, boxes, generator=generator) < 0.8
    return torch.cat((corner, corner + extent), dim=-1), scores, groups, valid


@pytest.mark.parametrize(("threshold", "kept"), [(0.7, [0, 3]), (0.75, [0, 3, 2]), (0.8, [0, 1, 3, 2])])
def test_four_boxes_by_hand(threshold: float, kept: list[int]) -> None:
    assert pairwise_iou(FOUR, FOUR)[[0, 2], [1, 3]].tolist() == pytest.approx([0.78, 0.74])
    assert greedy_nms(FOUR, FOUR_SCORES, threshold).tolist() == kept
    together = torch.zeros(1, 4, dtype=torch.int64)
    mask = nms_mask(FOUR[None], FOUR_SCORES[None], together, torch.ones(1, 4, dtype=torch.bool), threshold)
    assert mask[0].nonzero()[:, 0].tolist() == sorted(kept)


def test_a_suppressed_box_suppresses_nothing() -> None:
    chain = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]])  # each overlaps its neighbour by 3/7
    assert greedy_nms(chain, torch.tensor([0.9, 0.8, 0.7]), 0.4).tolist() == [0, 2]
    assert greedy_nms(chain, torch.tensor([0.8, 0.9, 0.7]), 0.4).tolist() == [1]


def test_overlap_equal_to_the_threshold_is_kept() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])
    assert greedy_nms(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0, 1]


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_greedy_is_torchvision_s_on_random_boxes(threshold: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(150, 2, 2, generator=generator) * 60
    boxes, scores = torch.cat((corners.amin(1), corners.amax(1)), dim=-1), torch.rand(150, generator=generator)
    assert torch.equal(greedy_nms(boxes, scores, threshold), torchvision.ops.nms(boxes, scores, threshold))


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7])
def test_greedy_is_torchvision_s_on_ties_and_degenerate_boxes(threshold: float) -> None:
    boxes, scores, _, _ = (column[0] for column in random_batch(boxes=200, seed=3))
    point = boxes[:1].clone()
    point[:, 2:] = point[:, :2]
    boxes = torch.cat((boxes, point, point, boxes[:20]))  # empty boxes at one place, and identical ones
    for ranks in (torch.cat((scores, scores[:22])), torch.full((222,), 0.5)):
        assert torch.equal(greedy_nms(boxes, ranks, threshold), torchvision.ops.nms(boxes, ranks, threshold))


def test_of_equal_scores_the_first_wins() -> None:
    same = torch.tensor([[0.0, 0, 10, 10]]).expand(5, 4)
    scores = torch.tensor([0.5, 0.9, 0.9, 0.5, 0.9])
    assert greedy_nms(same, scores, 0.5).tolist() == [1]
    groups, valid = torch.zeros(1, 5, dtype=torch.int64), torch.ones(1, 5, dtype=torch.bool)
    assert nms_mask(same[None], scores[None], groups, valid, 0.5).tolist() == [[False, True, False, False, False]]


def test_nothing_in_nothing_out() -> None:
    assert greedy_nms(torch.zeros(0, 4), torch.zeros(0), 0.5).tolist() == []
    none, no_group = torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.int64)
    assert nms_mask(torch.zeros(2, 0, 4), none, no_group, none.bool(), 0.5).shape == (2, 0)
    boxes, scores, groups, _ = random_batch(images=2)
    assert not nms_mask(boxes, scores, groups, torch.zeros_like(groups, dtype=torch.bool), 0.5).any()


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("classes", [1, 5, 80])
def test_mask_is_torchvision_s_batched_nms_of_each_image(classes: int, threshold: float) -> None:
    boxes, scores, groups, valid = random_batch(boxes=150, classes=classes, seed=4)
    mask = nms_mask(boxes, scores, groups, valid, threshold)
    for image in range(len(boxes)):
        rows = valid[image].nonzero()[:, 0]
        kept = torchvision.ops.batched_nms(boxes[image, rows], scores[image, rows], groups[image, rows], threshold)
        assert mask[image].nonzero()[:, 0].tolist() == rows[kept].sort().values.tolist()


@pytest.mark.parametrize("shift", [0.0, -300.0, 5000.0])
def test_mask_is_greedy_nms_of_each_group_wherever_the_boxes_lie(shift: float) -> None:
    boxes, scores, groups, valid = random_batch(classes=3, seed=5)
    boxes, groups = boxes + shift, groups * 400  # as if of many hundred classes
    mask = nms_mask(boxes, scores, groups, valid, 0.4)
    expected = torch.zeros_like(mask)
    for image in range(len(boxes)):
        for group in (0, 400, 800):
            rows = (valid[image] & (groups[image] == group)).nonzero()[:, 0]
            expected[image, rows[greedy_nms(boxes[image, rows], scores[image, rows], 0.4)]] = True
    assert torch.equal(mask, expected)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("classes", [1, 5, 80])
def test_the_form_for_cuda_keeps_the_same_boxes(classes: int, threshold: float) -> None:
    boxes, scores, groups, valid = random_batch(boxes=150, classes=classes, seed=4)
    scores = 8 * scores - 4  # logits too
    boxes[0, 3], boxes[1, 4, 2], scores[0, 5] = torch.nan, torch.inf, torch.nan
    for most in (None, 20):
        given = boxes, scores, groups, valid, threshold, most
        assert torch.equal(torch.ops.boxwright.nms_mask.default._op_dk(ON_CUDA, *given), nms_mask(*given))


def test_the_form_for_cuda_says_where_it_could_not_end_without_waiting() -> None:
    """A chain of 300 boxes, each of which suppresses the next: every second one survives."""
    left = torch.arange(300) * 4.0
    boxes = torch.stack([left, 0 * left, left + 10, 0 * left + 10], -1)[None]
    scores, groups = torch.linspace(1, 0, 300)[None], torch.zeros(1, 300, dtype=torch.int64)
    given = boxes, scores, groups, groups == 0, 0.4
    nms = torch.ops.boxwright.nms_mask.default
    with HostWaits(pool=True) as waits:
        mask = nms(*given)
    assert torch.equal(mask, nms_mask(*given)) and mask.sum() == 150
    assert waits.count == 10, waits.places  # a pass for each box, 32 between two looks
    with HostWaits(pool=True) as waits, without_waiting() as unsettled:
        nms(*given)
        nms(boxes[:, :30], scores[:, :30], groups[:, :30], groups[:, :30] == 0, 0.4)
    assert not waits.places
    assert [bool(flag) for flag in unsettled] == [True, False]


def test_the_form_for_cuda_takes_few_of_the_best_until_they_suffice() -> None:
    """Of 500 boxes at one place and 300 elsewhere, which score less, the best 256 are tried, and then all."""
    left = torch.cat([torch.zeros(500), torch.arange(1, 301) * 10.0])
    boxes = torch.stack([left, 0 * left, left + 10, 0 * left + 10], -1)[None]
    scores, groups = torch.linspace(1, 0, 800)[None], torch.zeros(1, 800, dtype=torch.int64)
    for most, looks in ((1, 1), (12, 2), (100, 2)):
        with HostWaits(pool=True) as waits:
            mask = torch.ops.boxwright.nms_mask.default(boxes, scores, groups, groups == 0, 0.5, most)
        assert torch.equal(mask, nms_mask(boxes, scores, groups, groups == 0, 0.5, most)) and mask.sum() == most
        assert waits.count == looks, waits.places
    with HostWaits(pool=True) as waits, without_waiting():
        whole = torch.ops.boxwright.nms_mask.default(boxes, scores, groups, groups == 0, 0.5, 100)
    assert torch.equal(whole, mask) and not waits.places


def test_the_form_for_cuda_never_compares_all_pairs_of_very_many_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "_WHOLE", 40)
    given = *random_batch(boxes=150, classes=1, seed=4), 0.7
    nms = torch.ops.boxwright.nms_mask.default
    for most, suffices in ((5, True), (60, False), (None, False)):
        expected = nms_mask(*given, most)
        assert torch.equal(nms._op_dk(ON_CUDA, *given, most), expected)
        with without_waiting() as unsettled:
            captured = nms._op_dk(ON_CUDA, *given, most)
        assert [bool(flag) for flag in unsettled] == [not suffices]
        assert torch.equal(captured, expected) == suffices


def test_the_form_for_cuda_compiles_whole() -> None:
    given = *random_batch(boxes=60, seed=6), 0.5, 20
    compiled = torch.compile(_static_nms_mask, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*given), nms_mask(*given))


def test_groups_do_not_touch_even_at_threshold_zero() -> None:
    whole = torch.tensor([[0.0, 0, 640, 480]]).expand(1, 3, 4)
    groups, valid = torch.tensor([[0, 1, 2]]), torch.ones(1, 3, dtype=torch.bool)
    scores = torch.tensor([[0.9, 0.8, 0.7]])
    assert nms_mask(whole, scores, groups, valid, 0.0).tolist() == [[True, True, True]]
    assert nms_mask(whole, scores, groups * 0, valid, 0.0).tolist() == [[True, False, False]]


def test_batch_of_four_gives_what_single_images_give() -> None:
    boxes, scores, groups, valid = random_batch(seed=6)
    singles = [nms_mask(boxes[[i]], scores[[i]], groups[[i]], valid[[i]], 0.5) for i in range(4)]
    assert torch.equal(nms_mask(boxes, scores, groups, valid, 0.5), torch.cat(singles))


@pytest.mark.parametrize("most", [1, 3, 20, 10_000])
def test_only_so_many_survivors_are_the_best_of_all(most: int) -> None:
    boxes, scores, groups, valid = random_batch(seed=11)
    every = nms_mask(boxes, scores, groups, valid, 0.5)
    ranked = torch.where(every, scores, -1.0).sort(dim=1, descending=True, stable=True)
    expected = torch.zeros_like(every).scatter_(1, ranked.indices[:, :most], ranked.values[:, :most] >= 0)
    assert torch.equal(nms_mask(boxes, scores, groups, valid, 0.5, most), expected)


def test_invalid_boxes_change_nothing() -> None:
    boxes, scores, groups, valid = random_batch(seed=7)
    mask = nms_mask(boxes, scores, groups, valid, 0.5)
    assert not mask[~valid].any()
    for box, score in ((0.0, 9.0), (1e30, 9.0), (float("nan"), float("nan")), (float("inf"), 0.0)):
        spoilt_boxes, spoilt_scores = torch.where(valid[..., None], boxes, box), torch.where(valid, scores, score)
        assert torch.equal(nms_mask(spoilt_boxes, spoilt_scores, groups, valid, 0.5), mask)


@pytest.mark.parametrize(("box", "score"), [("nan", "1"), ("inf", "1"), ("0", "nan")])
def test_boxes_that_are_not_finite_count_as_invalid(box: str, score: str) -> None:
    boxes, scores, groups, valid = random_batch(seed=8)
    expected = nms_mask(boxes, scores, groups, valid.index_fill(1, torch.tensor([7]), False), 0.5)
    boxes[:, 7, 2], scores[:, 7] = float(box), float(score)
    assert torch.equal(nms_mask(boxes, scores, groups, valid, 0.5), expected)


def test_inside_autocast_and_with_gradients_around() -> None:
    boxes, scores, groups, valid = random_batch(seed=9)
    expected = nms_mask(boxes, scores, groups, valid, 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        mask = nms_mask(boxes.requires_grad_(), scores.requires_grad_(), groups, valid, 0.5)
    assert torch.equal(mask, expected) and not mask.requires_grad


class _Module(torch.nn.Module):
    def forward(self, boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor) -> Tensor:
        return nms_mask(boxes * 2, scores, groups, valid & (scores > 0.1), 0.5)


@pytest.mark.parametrize("images", [1, 4])
def test_compiles_without_a_graph_break(images: int) -> None:
    batch = random_batch(images, seed=10)
    compiled = torch.compile(_Module(), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*batch), _Module()(*batch))


def test_exports_for_any_batch() -> None:
    images = torch.export.Dim("images", max=64)
    program = torch.export.export(_Module(), random_batch(4), dynamic_shapes=({0: images},) * 4)
    for count in (1, 4, 7):
        batch = random_batch(count, seed=count)
        assert torch.equal(program.module()(*batch), _Module()(*batch))


def test_operator_is_registered_as_torch_expects() -> None:
    torch.library.opcheck(torch.ops.boxwright.nms_mask.default, (*random_batch(2), 0.5))


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_refuses_a_threshold_that_is_no_overlap(threshold: float) -> None:
    with pytest.raises(ValueError, match="lies in 0..1, got"):
        greedy_nms(FOUR, FOUR_SCORES, threshold)
    with pytest.raises(ValueError, match="lies in 0..1, got"):
        nms_mask(*random_batch(), threshold)


def test_refuses_shapes_that_do_not_belong_together() -> None:
    boxes, scores, groups, valid = random_batch()
    with pytest.raises(ValueError, match=r"boxes \(N, K, 4\)"):
        nms_mask(boxes, scores[:, 1:], groups, valid, 0.5)
    with pytest.raises(ValueError, match=r"boxes \(N, K, 4\)"):
        nms_mask(boxes[0], scores[0], groups[0], valid[0], 0.5)


def test_compiled_operators_load_beside_an_imported_torchvision() -> None:
    load_compiled_ops()
    load_compiled_ops()
    assert torch.ops.torchvision.nms(FOUR, FOUR_SCORES, 0.7).tolist() == [0, 3]


def test_suppression_imports_neither_torchvision_nor_dynamo(tmp_path) -> None:
    script = f"""
        import importlib.machinery, importlib.util, sys
        import torch
        from boxwright.ops import nms_mask
        from boxwright.ops import load_compiled_ops

        def failure():
            try:
                load_compiled_ops()
            except ImportError as error:
                return str(error)

        find_spec = importlib.util.find_spec
        importlib.util.find_spec = lambda name: None
        assert "pip install torchvision" in failure()
        empty = importlib.machinery.ModuleSpec("torchvision", None, is_package=True)
        empty.submodule_search_locations.append({str(tmp_path)!r})
        importlib.util.find_spec = lambda name: empty
        assert "found no such file" in failure()
        open({str(tmp_path / "_C.so")!r}, "w").close()
        assert "cannot load" in failure()
        importlib.util.find_spec = find_spec

        boxes = torch.tensor({FOUR.tolist()})
        column = torch.tensor([{FOUR_SCORES.tolist()}])
        mask = nms_mask(boxes[None], column, torch.zeros(1, 4, dtype=torch.int64), column > 0, 0.7)
        assert mask.tolist() == [[True, False, False, True]]
        assert "torchvision" not in sys.modules, "torchvision was imported"
        assert "torch._dynamo" not in sys.modules, "torch._dynamo was imported"

        import torchvision  # later, by somebody else
        assert torchvision.ops.nms(boxes, column[0], 0.7).tolist() == [0, 3]
        load_compiled_ops()
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }  # the boxwright under test, not an installed one
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
