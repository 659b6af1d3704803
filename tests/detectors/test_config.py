"""What every config has: checks of its values, thresholds, colours, conventions of other libraries; and no torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
from torch import nn

from boxwright import detectors
from boxwright.checkpoint import load_detector, save_detector
from boxwright.data.preprocess import Preprocess
from boxwright.detectors import DETECTORS, KINDS, FasterRCNNConfig, RetinaNet, RetinaNetConfig, SSDConfig
from boxwright.detectors.config import DetectorConfig, Unread, name_of, readers_of
from boxwright.detectors.fields import LearningBackbone
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


def test_conventions_of_other_libraries() -> None:
    config = FasterRCNNConfig(**NARROW, anchor_sizes=(32, 64, 128, 256))
    ours: Any = config.build(1)
    theirs: Any = replace(config, convention="torchvision").build(1)
    pool = theirs.regions.pool
    assert isinstance(pool, RegionAlign) and not pool.aligned and ours.regions.pool.aligned
    assert theirs.proposer.anchors.rounded and theirs.proposer.anchors.stride_from_feature_map
    assert theirs.regions.select.min_size == 1e-2 and not theirs.regions.select.drop_after_nms
    detectron2s: Any = replace(config, convention="detectron2").build(1)
    assert detectron2s.regions.select.drop_after_nms and not detectron2s.proposer.select.drop_after_nms
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


def test_configs_import_no_torch() -> None:
    code = """
import sys
from boxwright.detectors import KINDS
for kind in KINDS.values():
    kind()
print(sorted({"torch", "numpy", "torchvision", "timm"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_class_is_found_at_its_first_use() -> None:
    classes = [name for name in detectors.__all__ if name not in ("DETECTORS", "KINDS")]
    assert [getattr(detectors, name).__name__ for name in classes] == classes
    with pytest.raises(AttributeError, match="no attribute 'YOLO'"):
        getattr(detectors, "YOLO")  # noqa: B009


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "group"}, "norm is frozen or batch, got 'group'"),
        ({"levels": ()}, r"levels .--levels. are one or more ascending numbers, got \(\)"),
        ({"levels": (4, 3)}, r"ascending numbers, got \(4, 3\)"),
        ({"pixel_std": (1.0,)}, "pixel_std takes three numbers, for red, green and blue, or none"),
        ({"frozen_stages": -1}, "frozen_stages is 0 or more, got -1"),
        ({"max_detections": 0}, "max_detections is 1 or more, got 0"),
        ({"score_threshold": ()}, "score_threshold takes one or more numbers of at least 0"),
        ({"nms_threshold": 50.0}, "nms_threshold is an IoU, from 0 to 1, got 50"),
        ({"proposals": 0}, "proposals is 1 or more, got 0"),
        ({"rpn_nms_threshold": -0.1}, "rpn_nms_threshold is an IoU"),
        ({"head_layers": 0}, "head_layers is 1 or more, got 0"),
        ({"proposals": 10**9}, "proposals is at most 100000, got 1000000000"),
        ({"max_detections": 10**9}, "max_detections is at most 100000"),
        ({"hidden": 10**9}, "hidden is at most 16384"),
        ({"channels": 1.5}, "channels is a whole number, got 1.5"),
        ({"nms_threshold": "0.5"}, "nms_threshold is a number, got '0.5'"),
        ({"anchor_scales": (1.0,) * 1000}, "anchor_scales takes at most 256 numbers, got 1000"),
        ({"score_threshold": (float("nan"),)}, "score_threshold takes one or more numbers"),
    ],
)
def test_values_are_checked_when_a_config_is_made(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FasterRCNNConfig(**options)


@dataclass(frozen=True)
class MyConfig(LearningBackbone, DetectorConfig):
    """A config from outside of the package."""

    UNREAD = (Unread("mode", "plain", ("my_width",)),)

    mode: Literal["wide", "plain"] = "wide"
    """One of two."""
    my_width: int = 8
    """Channels, of the wide one."""

    def build(self, num_classes: int, pretrained: bool = False) -> RetinaNet:
        return RetinaNetConfig(self.backbone, channels=self.my_width, depth=1).build(num_classes, pretrained)


def test_a_config_from_outside_is_one_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for table in (DETECTORS, KINDS):
        monkeypatch.setitem(table, "mine", MyConfig)
    config = MyConfig("mobilenet_v3_small", my_width=4)
    assert name_of(config) == "mine" and readers_of("my_width") == ["mine (mode wide)"]
    with pytest.raises(ValueError, match="my_width is not read by mine with mode plain; it is read by mine .mode wide"):
        replace(config, mode="plain")
    save_detector(tmp_path / "mine.safetensors", config.build(2), config, ("a", "b"), Preprocess())
    loaded = load_detector(tmp_path / "mine.safetensors")
    assert loaded.config == config and isinstance(loaded.detector, RetinaNet)
