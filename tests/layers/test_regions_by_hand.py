"""RoI pool and RoI align by hand: numbers one can check, then torchvision's operators in value and gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align, roi_pool

from boxwright.layers.regions_by_hand import roi_align_by_hand, roi_pool_by_hand

SCALE = 1 / 8
LENGTH = {"height": 12, "width": 17}  # of the map, which covers 96 x 136 pixels


def random_regions() -> Tensor:
    """Within the image, over each of its edges, outside of it, tiny, without extent, inverted."""
    noise = torch.Generator().manual_seed(0)
    corner = torch.rand(30, 2, generator=noise) * torch.tensor([136.0, 96.0]) - 10
    boxes = torch.cat([corner, corner + torch.rand(30, 2, generator=noise) * 90], dim=1)
    special = [
        [0, 0, 136, 96],
        [0, 0, 0, 0],
        [-60, -40, 40, 30],
        [100, 70, 300, 200],
        [200, 10, 260, 60],
        [-90, -90, -40, -40],
        [30.2, 41.7, 30.9, 42.0],
        [36, 44, 36, 44],
        [12, 20, 20, 60],  # its edges fall on halves
        [70, 60, 40, 20],
    ]
    boxes = torch.cat([boxes, torch.tensor(special)])
    return torch.cat([torch.arange(len(boxes)).remainder(2)[:, None].float(), boxes], dim=1)


def random_features() -> Tensor:
    return torch.randn(2, 3, *LENGTH.values(), generator=torch.Generator().manual_seed(1)).requires_grad_()


def counted(height: int, width: int) -> Tensor:
    """A map (1, 1, height, width) that counts its features row by row."""
    return torch.arange(float(height * width)).view(1, 1, height, width)


def region(*box: float) -> Tensor:
    return torch.tensor([[0.0, *box]])


def test_pool_snaps_to_features_and_takes_the_maximum() -> None:
    """Pixels 9 .. 30 by 0 .. 23 at stride 8: features 1.1 .. 3.8 snap to 1 .. 4 and 0 .. 2.9 to 0 .. 3, inclusive."""
    pooled = roi_pool_by_hand(counted(5, 6), region(9, 0, 30, 23), size=2, scale=1 / 8)
    assert pooled.tolist() == [[[[8.0, 10.0], [20.0, 22.0]]]]


def test_pool_shares_three_features_out_to_two_overlapping_cells() -> None:
    """Cells of 1.5 features: the first has features 0 and 1, the second 1 and 2."""
    pooled = roi_pool_by_hand(-counted(1, 3), region(0, 0, 2, 0), size=2, scale=1.0)
    assert pooled.tolist() == [[[[0.0, -1.0], [0.0, -1.0]]]]


def test_pool_rounds_halves_away_from_zero() -> None:
    assert roi_pool_by_hand(counted(1, 8), region(2.5, 0, 4.5, 0), size=1, scale=1.0).item() == 5.0
    assert roi_pool_by_hand(-counted(1, 8), region(2.5, 0, 4.5, 0), size=1, scale=1.0).item() == -3.0


def test_pool_is_zero_outside_the_map() -> None:
    pooled = roi_pool_by_hand(counted(4, 4) - 100, region(2, 2, 5, 5), size=2, scale=1.0)
    assert pooled.tolist() == [[[[-85.0, 0.0], [0.0, 0.0]]]]


def test_align_reads_between_four_features() -> None:
    """The only sample lies at position (1, 1) of the map, in the middle of features 0, 1, 4 and 5."""
    pooled = roi_align_by_hand(counted(4, 4), region(0.5, 0.5, 1.5, 1.5), size=1, scale=1.0, sampling=1)
    assert pooled.item() == 2.5


def test_align_weighs_the_nearer_feature_more() -> None:
    """Position 1.75 lies .25 after the middle of feature 1 (which is at 1.5): three quarters of it, one of the next."""
    pooled = roi_align_by_hand(torch.tensor([[[[0.0, 8.0, 16.0]]]]), region(1.75, 0.5, 1.75, 0.5), 1, 1.0, sampling=1)
    assert pooled.item() == 0.75 * 8 + 0.25 * 16


def test_align_means_its_samples() -> None:
    """Adaptive: two features across in a cell make two samples a side, one in the middle of each feature."""
    pooled = roi_align_by_hand(counted(4, 4), region(0, 0, 4, 4), size=2, scale=1.0, sampling=0)
    assert pooled.tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]


def test_align_unaligned_is_half_a_feature_off_and_widens_to_one() -> None:
    features = torch.tensor([[[[0.0, 8.0, 16.0, 24.0]]]])
    assert roi_align_by_hand(features, region(1, 0, 1, 0), 1, 1.0, sampling=1, aligned=False).item() == 12.0
    assert roi_align_by_hand(features, region(1, 0, 2, 1), 1, 1.0, sampling=1, aligned=True).item() == 8.0


Pool = Callable[[Tensor, Tensor], Tensor]
PAIRS: dict[str, tuple[Pool, Pool]] = {
    f"pool to {size}": (
        lambda features, regions, size=size: roi_pool_by_hand(features, regions, size, SCALE),
        lambda features, regions, size=size: roi_pool(features, regions, size, SCALE),
    )
    for size in (1, 3, 7)
} | {
    f"align to {size}, {sampling} samples{', aligned' * aligned}": (
        lambda features, regions, options=(size, SCALE, sampling, aligned): roi_align_by_hand(
            features, regions, *options
        ),
        lambda features, regions, options=(size, SCALE, sampling, aligned): roi_align(features, regions, *options),
    )
    for size, sampling, aligned in [(1, 1, True), (4, 2, True), (4, 2, False), (3, 0, True), (3, 0, False)]
}


@pytest.mark.parametrize("pair", PAIRS)
def test_equals_torchvision_in_value_and_gradient(pair: str) -> None:
    results = []
    for pool in PAIRS[pair]:
        features = random_features()
        pooled = pool(features, random_regions())
        weights = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(2))
        (gradient,) = torch.autograd.grad((pooled * weights).sum(), features)
        results.append((pooled, gradient))
    (mine, my_gradient), (theirs, their_gradient) = results
    assert theirs.count_nonzero() > 200 / 3
    torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(my_gradient, their_gradient)


@pytest.mark.parametrize("pair", PAIRS)
def test_of_no_regions(pair: str) -> None:
    mine, theirs = (pool(random_features(), torch.zeros(0, 5)) for pool in PAIRS[pair])
    assert mine.shape == theirs.shape


def test_pool_cells_share_as_floats_share() -> None:
    """Widths that do not divide by 7 exactly: an edge one rounding error beside a feature would move a cell by one."""
    last = torch.arange(300.0)
    boxes = torch.stack([0 * last, 0 * last, 0 * last, last, 0 * last], dim=1)
    features = counted(1, 300)
    assert torch.equal(roi_pool_by_hand(features, boxes, 7, 1.0), roi_pool(features, boxes, 7, 1.0))
