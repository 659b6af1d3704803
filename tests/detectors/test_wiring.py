"""The papers' numbers, read off the detectors that the configs build: a changed default fails here, in seconds.

The tables have what decides how a detector is trained and what it detects. Each row names its paper and section; where
there is none, the number is this library's choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from boxwright.assign import BalancedSampler, CenterAssigner, HardNegativeMining, MaxIoUAssigner, all_valid_anchors
from boxwright.backbones.features import Features
from boxwright.boxes.anchors import DeltaCodec, DistanceCodec
from boxwright.detectors import KINDS, Detector, SSDConfig
from boxwright.detectors.anchor_stage import AnchorStage
from boxwright.detectors.base import best
from boxwright.detectors.localizer import largest
from boxwright.detectors.region_stage import RegionStage
from boxwright.losses import (
    Centered,
    DeltaLoss,
    GIoULoss,
    binary_cross_entropy,
    centerness_loss,
    cross_entropy,
    focal,
)
from boxwright.ops import nms_mask
from boxwright.types import Images, Target

CLASSES = 3
CLIP = math.log(1000 / 16)  # Detectron's limit of t_w and t_h
PLAIN = DeltaCodec(weights=(1.0, 1.0, 1.0, 1.0), clamp=CLIP)
WEIGHTED = DeltaCodec(weights=(10.0, 10.0, 5.0, 5.0), clamp=CLIP)  # as in the authors' code
SIDES = DistanceCodec(positive="exp", clamp=CLIP)


def by_overlap(high: float, low: float, every_object: bool = False, best_prior: bool = False) -> MaxIoUAssigner:
    return MaxIoUAssigner(high, low, allow_low_quality_matches=every_object, match_best_prior=best_prior, crowd=0.5)


def select(
    score: float, iou: float, top_k: int = 1000, slots: int = 100, within: str = "class", clip_after_nms: bool = False
) -> dict[str, Any]:
    return {
        "select.score_threshold": score,
        "select.iou_threshold": iou,
        "select.pre_nms_top_k": top_k,
        "select.slots": slots,
        "select.within": within,
        "select.drop_after_nms": False,
        "select.clip_after_nms": clip_after_nms,
        "select.min_size": 1e-3,
        "select.suppress": nms_mask,
        "choose": best,
    }


RPN: dict[str, Any] = {  # Ren et al. 2015
    "assign": by_overlap(0.7, 0.3, every_object=True),  # section 3.1.2
    "sample": BalancedSampler(256, positive=0.5),  # section 3.1.2
    "class_loss": binary_cross_entropy,  # eq. 1
    "box_loss": DeltaLoss(PLAIN, beta=1 / 9),  # eq. 1; beta as in the authors' code
    "codec": PLAIN,  # eq. 2
    "divide_by": "samples",  # eq. 1: N_cls; N_reg and lambda as in the authors' later code
    "softmax": False,
    "quality_loss": None,
    "prior": 0.5,
    **select(0.0, 0.7, slots=300, within="level"),  # section 3.3; within a level: Lin et al. 2017, FPN
}
REGIONS: dict[str, Any] = {  # Girshick 2015
    "assign": by_overlap(0.5, 0.5),  # section 2.3
    "sample": BalancedSampler(128, positive=0.25),  # section 2.3: a quarter
    "box_loss": DeltaLoss(WEIGHTED, beta=1 / 9),  # eq. 3
    "codec": WEIGHTED,
    "box_weight": 1.0,  # eq. 1: lambda
    **select(0.05, 0.5),
}
STAGES: dict[str, dict[str, Any]] = {
    "localizer.region": REGIONS
    | {"assign": largest, "sample": BalancedSampler(1, positive=1.0)}
    | select(0.05, 0.5, slots=1),
    "sliding_window.": {
        "assign": by_overlap(0.5, 0.5),
        "sample": BalancedSampler(256, positive=0.25),
        **{name: value for name, value in select(0.05, 0.4).items() if name != "choose"},
    },
    "rcnn.regions": REGIONS | {"sample": BalancedSampler(16, positive=0.25)},  # Girshick et al. 2014, section 2.3
    "spp_net.regions": REGIONS,
    "fast_rcnn.regions": REGIONS,
    "faster_rcnn.proposer": RPN,
    "faster_rcnn.regions": REGIONS,
    "r_fcn.proposer": RPN,
    "r_fcn.regions": REGIONS,
    "rpn.proposer": RPN,
    "ssd.anchors": {  # Liu et al. 2016
        "assign": by_overlap(0.5, 0.5, best_prior=True),  # section 2.2, matching strategy
        "sample": HardNegativeMining(ratio=3.0, least=3),  # section 2.2, at most 3:1
        "class_loss": cross_entropy,  # eq. 3
        "box_loss": DeltaLoss(WEIGHTED, beta=1.0),  # eq. 2
        "codec": WEIGHTED,
        "divide_by": "positives",  # eq. 1, with alpha = 1
        "softmax": True,
        "quality_loss": None,
        "prior": 0.5,
        **select(0.05, 0.45),  # section 3.1: jaccard overlap of .45 per class
    },
    "retinanet.anchors": {  # Lin et al. 2017, section 4
        "assign": by_overlap(0.5, 0.4, every_object=True),
        "sample": all_valid_anchors,
        "class_loss": focal,
        "box_loss": DeltaLoss(PLAIN, beta=1 / 9),
        "codec": PLAIN,
        "divide_by": "positives",
        "softmax": False,
        "quality_loss": None,
        "prior": 0.01,
        **select(0.05, 0.5),
    },
    "fcos.anchors": {  # Tian et al. 2019 and 2020
        "assign": CenterAssigner(radius=1.5, reach=8.0),  # 2020, section 3.1
        "sample": all_valid_anchors,
        "class_loss": focal,  # eq. 2
        "box_loss": Centered(GIoULoss(SIDES)),
        "codec": SIDES,  # 2019, section 3.2: exp
        "divide_by": "positives",  # eq. 2
        "softmax": False,
        "quality_loss": centerness_loss,  # 2019, section 3.3
        "prior": 0.01,
        **select(0.1, 0.5),
    },
}

LAYERS: dict[str, dict[str, str]] = {
    "localizer": {"class": "region.head.logits", "box": "region.head.deltas"},
    "sliding_window": {"class": "head.logits"},
    "rcnn": {"class": "regions.head.logits", "box": "regions.head.deltas"},
    "spp_net": {"class": "regions.head.logits", "box": "regions.head.deltas"},
    "fast_rcnn": {"class": "regions.head.logits", "box": "regions.head.deltas"},
    "faster_rcnn": {
        "objectness": "proposer.head.logits",
        "proposal_box": "proposer.head.deltas",
        "class": "regions.head.logits",
        "box": "regions.head.deltas",
    },
    "r_fcn": {
        "objectness": "proposer.head.logits",
        "proposal_box": "proposer.head.deltas",
        "class": "regions.pool.logits",
        "box": "regions.pool.deltas",
    },
    "rpn": {"class": "proposer.head.logits", "box": "proposer.head.deltas"},
    "ssd": {"class": "anchors.head.1.logits", "box": "anchors.head.1.deltas"},
    "retinanet": {"class": "anchors.head.logits", "box": "anchors.head.deltas"},
    "fcos": {"class": "anchors.head.logits", "box": "anchors.head.deltas", "quality": "anchors.head.centerness"},
}
"""Of every loss the layer that gives what it judges: no other output layer has a gradient of it."""

WEIGHTS = {  # of the losses (2, 3) of an anchor stage and (5, 7) of a region stage
    "localizer": {"class": 5, "box": 7},
    "rcnn": {"class": 5, "box": 7},
    "spp_net": {"class": 5, "box": 7},
    "fast_rcnn": {"class": 5, "box": 7},
    "faster_rcnn": {"objectness": 2, "proposal_box": 3, "class": 5, "box": 7},  # Ren et al. 2015, eq. 1
    "r_fcn": {"objectness": 2, "proposal_box": 3, "class": 5, "box": 7},
    "rpn": {"class": 2, "box": 3},
    "ssd": {"class": 2, "box": 3},
    "retinanet": {"class": 2, "box": 3},
    "fcos": {"class": 2, "box": 3},
}


@pytest.fixture(scope="module")
def built() -> Callable[[str], Detector]:
    """Each detector as its config builds it by default, once."""
    detectors: dict[str, Detector] = {}

    def build(name: str) -> Detector:
        if name not in detectors:
            torch.manual_seed(0)
            detectors[name] = KINDS[name]().build(1 if name == "rpn" else CLASSES).eval()
        return detectors[name]

    return build


def batch() -> tuple[Images, list[Target]]:
    """Noise with one object, which is proposed too."""
    pixels = 255 * torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    target = Target(torch.tensor([[20.0, 24.0, 76.0, 72.0]]), torch.tensor([0]))
    return Images(pixels, torch.tensor([[96, 128]]), target.boxes[None] + 2), [target]


def test_every_detector_has_its_rows() -> None:
    assert {stage.split(".")[0] for stage in STAGES} == set(LAYERS) == set(KINDS)
    assert set(WEIGHTS) == set(KINDS) - {"sliding_window"}  # it has no stage


@pytest.mark.parametrize("stage", STAGES)
def test_the_numbers_of_the_papers(stage: str, built: Callable[[str], Detector]) -> None:
    name, _, path = stage.partition(".")
    module: Any = built(name).get_submodule(path)
    for attribute, expected in STAGES[stage].items():
        part: Any = module
        if attribute == "prior":
            biases = [layer.bias for key, layer in module.head.named_modules() if key.endswith("logits")]
            part = torch.cat(biases).sigmoid().detach()
            torch.testing.assert_close(part, torch.full_like(part, expected))
            continue
        for key in attribute.split("."):
            part = getattr(part, key)
        assert part == expected, f"{stage}.{attribute}"


def test_the_focal_loss_has_the_numbers_of_its_paper() -> None:
    """Lin et al. 2017, section 5.1: alpha .25, gamma 2. At p = 1/2 an object costs .25 * .25 ln 2, background 3 times
    as much."""
    loss = focal(torch.zeros(2, 1), torch.tensor([0, -1]))
    torch.testing.assert_close(loss, math.log(2) * torch.tensor([0.0625, 0.1875]))


@pytest.mark.parametrize("name", KINDS)
def test_red_reaches_the_backbone_as_red(name: str, built: Callable[[str], Detector]) -> None:
    """Its first channel is red, less the mean of red; the regions of R-CNN too, in their middle."""
    detector, received = built(name), []
    (features,) = (module for module in detector.modules() if isinstance(module, Features))
    hook = features.backbone.register_forward_pre_hook(lambda _, inputs: received.append(inputs[0]))
    pixels = torch.tensor([255.0, 0.0, 51.0]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    with torch.no_grad():
        detector.slots(Images(pixels, torch.tensor([[64, 64]]), torch.tensor([[[0.0, 0.0, 64.0, 64.0]]])))
    hook.remove()
    middle = received[0][0, :, received[0].shape[2] // 2, received[0].shape[3] // 2]
    torch.testing.assert_close(middle, (torch.tensor([255.0, 0.0, 51.0]) - 127) / 128)  # EfficientNet-Lite's


def test_means_are_of_red_green_and_blue() -> None:
    """ImageNet's, on 0..255."""
    features = next(m for m in SSDConfig(backbone="resnet18").build(2).modules() if isinstance(m, Features))
    torch.testing.assert_close(features.mean.flatten(), torch.tensor([123.675, 116.28, 103.53]))
    torch.testing.assert_close(features.std.flatten(), torch.tensor([58.395, 57.12, 57.375]))


@pytest.mark.parametrize("name", LAYERS)
def test_each_loss_trains_its_output_layer_and_no_other(name: str, built: Callable[[str], Detector]) -> None:
    detector, layers = built(name), LAYERS[name]
    weights: dict[str, Any] = {path: detector.get_submodule(path).weight for path in layers.values()}
    torch.manual_seed(0)
    losses = detector.loss(*batch())
    assert set(losses) == set(layers)
    for loss, layer in layers.items():
        gradients = torch.autograd.grad(losses[loss], [*weights.values()], retain_graph=True, allow_unused=True)
        reached = {path for path, grad in zip(weights, gradients, strict=True) if grad is not None and grad.any()}
        assert reached == {layer}, f"{loss} of {name}"


@pytest.mark.parametrize("name", WEIGHTS)
def test_losses_of_the_stages_are_summed_with_the_weights_of_the_papers(
    name: str, built: Callable[[str], Detector], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fixed(first: float, second: float) -> Callable[..., dict[str, Tensor]]:
        return lambda *_: {"class": torch.tensor(first), "box": torch.tensor(second)}

    monkeypatch.setattr(AnchorStage, "loss", fixed(2, 3))
    monkeypatch.setattr(RegionStage, "loss", fixed(5, 7))
    losses = built(name).loss(*batch())
    assert {loss: value.item() for loss, value in losses.items()} == WEIGHTS[name]
