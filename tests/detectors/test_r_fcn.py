"""R-FCN: the vote by hand, and a region stage in which no layer runs once per region."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from boxwright.detectors import Network, RFCNConfig
from boxwright.detectors.r_fcn import ScoreMaps, Vote
from boxwright.layers.regions import PositionSensitiveAlign, PositionSensitivePool
from boxwright.types import Images, Target

SMALL: dict[str, Any] = {
    "backbone": "mobilenet_v3_small",
    "channels": 16,
    "proposals": 20,
    "rpn_samples": 32,
    "region_samples": 8,
    "frozen_stages": 0,
}
SIZES = torch.tensor([[64, 96], [50, 80]])
PIXELS = 255 * torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def test_the_vote_is_the_mean_over_the_cells() -> None:
    """One class: two columns and four deltas, in 2 x 2 cells."""
    pooled = torch.zeros(1, 6, 2, 2)
    pooled[0, 0] = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    pooled[0, 2:] = torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None]
    logits, deltas = Vote(num_classes=1)(pooled)
    assert logits.tolist() == [[3, 0]] and deltas.tolist() == [[[1, 2, 3, 4]]]


def test_every_cell_reads_its_own_maps() -> None:
    """Convolutions that are bias alone: of 2 x 2 cells, the map of cell c says c; that of the background 10 more."""
    maps = ScoreMaps(3, 4, num_classes=1, boxes=1, pool=PositionSensitiveAlign((16,), size=2))
    for layer in (maps.logits, maps.deltas):
        nn.init.zeros_(layer.weight)
    maps.logits.bias.data[:] = torch.tensor([0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0])  # type: ignore[union-attr]
    pooled = maps([torch.rand(1, 3, 4, 4)], torch.tensor([[[8.0, 8.0, 40.0, 40.0]]]))
    assert pooled.shape == (1, 6, 2, 2)
    torch.testing.assert_close(pooled[0, 0], torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
    torch.testing.assert_close(pooled[0, 1], torch.tensor([[10.0, 11.0], [12.0, 13.0]]))
    assert pooled[0, 2:].abs().max() == 0


def test_no_layer_runs_on_a_region() -> None:
    """Whatever the number of proposals, the convolutions see the maps and nothing sees the regions but the vote."""
    detector = RFCNConfig(**SMALL).build(2).eval()
    assert not list(detector.regions.head.parameters())
    rows: list[int] = []
    for layer in detector.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(lambda layer, inputs, output: rows.append(len(output)))
    with torch.no_grad():
        detector.slots(Images(PIXELS, SIZES))
    assert set(rows) == {2}  # images, not 40 regions


@pytest.mark.parametrize(
    ("variant", "pool", "kind"),
    [("fpn", "align", PositionSensitiveAlign), ("dc5", "pool", PositionSensitivePool), ("dc5", "align", None)],
)
def test_variants(variant: Any, pool: Any, kind: type | None) -> None:
    torch.manual_seed(0)
    detector = RFCNConfig(**SMALL, variant=variant, pool=pool).build(3)
    assert kind is None or isinstance(detector.regions.pool.pool, kind)
    targets = [Target(torch.tensor([[5.0, 5.0, 42.0, 48.0]]), torch.tensor([1])), Target.empty()]
    torch.stack(list(detector.loss(Images(PIXELS, SIZES), targets).values())).sum().backward()
    assert not [name for name, parameter in detector.named_parameters() if parameter.grad is None]
    if pool == "pool":  # the others are the table's, or much the same
        torch._dynamo.reset()
        network = Network(detector.eval())
        with torch.no_grad():
            compiled = torch.compile(network, fullgraph=True, backend="aot_eager")(PIXELS, SIZES)
            for found, expected in zip(compiled, network(PIXELS, SIZES), strict=True):
                torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(("agnostic", "boxes"), [(True, 1), (False, 3)])
def test_boxes_once_or_for_each_class(agnostic: bool, boxes: int) -> None:
    detector = RFCNConfig(**SMALL, class_agnostic=agnostic, cells=3).build(3)
    said: tuple[Tensor, Tensor] = detector.regions(detector.features(PIXELS), torch.rand(2, 5, 4) * 40)
    assert said[0].shape == (2, 5, 4) and said[1].shape == (2, 5, boxes, 4)


def test_c4_would_be_another_detector() -> None:
    with pytest.raises(ValueError, match="variant is fpn or dc5, got 'c4'"):
        RFCNConfig(**SMALL, variant="c4")  # type: ignore[arg-type]
