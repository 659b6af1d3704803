"""What every config has: thresholds, colours, conventions of other libraries."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from torch import nn

from boxwright.detectors import DETECTORS, FasterRCNNConfig, RetinaNetConfig, SSDConfig
from boxwright.layers.regions import RegionAlign

NARROW: dict[str, Any] = {"backbone": "mobilenet_v3_small", "channels": 16}


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_has_a_threshold_for_all_or_for_each_class(name: str) -> None:
    config = replace(DETECTORS[name](), backbone="mobilenet_v3_small")

    def scores(score: tuple[float, ...]) -> list[Any]:
        modules: Any = replace(config, score_threshold=score).build(2).modules()
        return [module.select.score_threshold for module in modules if hasattr(module, "select")]

    assert 0.25 in scores((0.25,)) and (0.25, 0.5) in scores((0.25, 0.5))
    with pytest.raises(ValueError, match="one number or one for each of 2 classes, got 3"):
        scores((0.1, 0.2, 0.3))


def test_colours_are_the_backbones_if_nobody_says_otherwise() -> None:
    config = RetinaNetConfig(**NARROW)
    given: Any = replace(config, pixel_mean=(1.0, 2.0, 3.0), pixel_std=(4.0, 5.0, 6.0)).build(1).features
    assert given.mean.flatten().tolist() == [1, 2, 3] and given.std.flatten().tolist() == [4, 5, 6]
    backbones: Any = config.build(1).features
    assert backbones.mean[0].item() == pytest.approx(0.485 * 255)
    with pytest.raises(ValueError, match="pixel_std takes three numbers"):
        replace(config, pixel_std=(1.0,)).build(1)


def test_conventions_of_other_libraries() -> None:
    config = FasterRCNNConfig(**NARROW, anchor_sizes=(32, 64, 128, 256))
    ours: Any = config.build(1)
    theirs: Any = replace(config, convention="torchvision").build(1)
    pool = theirs.regions.pool
    assert isinstance(pool, RegionAlign) and not pool.aligned and ours.regions.pool.aligned
    assert theirs.proposer.anchors.rounded and theirs.proposer.anchors.stride_from_feature_map
    assert theirs.regions.select.min_size == 1e-2
    with pytest.raises(ValueError, match="convention is boxwright, torchvision or detectron2, got 'mmdet'"):
        replace(config, convention="mmdet").build(1)  # type: ignore[arg-type]


def test_the_head_of_regions_may_convolve_first() -> None:
    config = FasterRCNNConfig(**NARROW, head_convs=2, head_layers=1, hidden=24)
    detector: Any = config.build(3)
    convolved, mlp_head = detector.regions.head.hidden
    assert [type(layer).__name__ for layer in convolved] == ["Conv2d", "ReLU"] * 2
    assert [type(layer).__name__ for layer in mlp_head] == ["Flatten", "Linear", "ReLU"]
    assert mlp_head[1].out_features == 24


def test_last_levels_of_an_ssd_may_leave_out_the_border() -> None:
    config = SSDConfig(
        backbone="mobilenet_v3_small", extra=(32, 32, 32), unstrided=2, box_steps=(8, 16, 32, 64, 107, 320)
    )
    detector: Any = config.build(1)
    convs = [layer for layer in detector.features.neck.modules() if isinstance(layer, nn.Conv2d)]
    smaller = [(conv.stride, conv.padding) for conv in convs if conv.kernel_size == (3, 3)]
    assert smaller == [((2, 2), (1, 1)), ((1, 1), (0, 0)), ((1, 1), (0, 0))]
