"""One step of training: torchvision's losses and gradients from the same weights, images and sampled indices.

Where sampling is random, both draw the first of what they may draw; SSD's hard negatives are each library's own. Norms
keep their statistics in both, and do not learn in ours. In float64: of random weights, which amplify what is rounded,
some activation always lies so near to the kink of its ReLU that rounding in float32 decides whether it has a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from boxwright.boxes.geometry import pairwise_iou
from boxwright.losses import DeltaLoss, GIoULoss
from boxwright.types import Images, Target
from boxwright.zoo.torchvision import foreign

CLASSES = 5
BOXES = (
    ((10.0, 20.0, 90.0, 130.0), (60.0, 10.0, 180.0, 80.0), (100.0, 90.0, 150.0, 158.0)),
    ((5.0, 40.0, 140.0, 150.0), (40.0, 8.0, 68.0, 40.0)),
)
LABELS = ((3, 0, 1), (2, 4))
SMALL = (96.0, 192.0, 104.0, 216.0)
"""For SSD: no default box overlaps it by .5, so that only the forced match to its best one teaches it."""


def like_torchvisions_retinanet(detector: Any) -> None:
    detector.anchors.divide_by = "own_positives"
    detector.anchors.box_loss = DeltaLoss(detector.anchors.codec, beta=0.0)


def like_torchvisions_fcos(detector: Any) -> None:
    detector.anchors.box_loss = GIoULoss(detector.anchors.codec)


def like_torchvisions_ssd(detector: Any) -> None:
    detector.anchors.sample = replace(detector.anchors.sample, least=0)


REGIONS = {
    "objectness": "loss_objectness",
    "proposal_box": "loss_rpn_box_reg",
    "class": "loss_classifier",
    "box": "loss_box_reg",
}
DENSE = {"class": "classification", "box": "bbox_regression"}
MODELS: dict[str, tuple[dict[str, str], Callable[[Any], None]]] = {
    "fasterrcnn_resnet50_fpn": (REGIONS, lambda detector: None),
    "retinanet_resnet50_fpn": (DENSE, like_torchvisions_retinanet),
    "fcos_resnet50_fpn": (DENSE | {"quality": "bbox_ctrness"}, like_torchvisions_fcos),
    "ssd300_vgg16": (DENSE, like_torchvisions_ssd),
}


def theirs_of(name: str, side: int, pixels: Tensor) -> Any:
    """torchvision's model, random but sane: norms know the statistics of the images. Looks at them as they are."""
    columns = CLASSES + (0 if name.startswith(("retinanet", "fcos")) else 1)
    torch.manual_seed(0)
    build = getattr(torchvision.models.detection, name)
    model = build(weights=None, weights_backbone=None, num_classes=columns)
    if not name.startswith("ssd"):
        model.transform.min_size, model.transform.max_size = (side,), 2 * side
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean over all batches
    with torch.no_grad():
        model.train().backbone(model.transform(list(pixels / 255))[0].tensors)
    for norm in norms:
        norm.eval()
    if "rcnn" in name:  # as many proposals as there are in tests
        model.rpn._pre_nms_top_n = model.rpn._post_nms_top_n = {"training": 1000, "testing": 1000}
    return model


def descending(shape: Any, **options: Any) -> Tensor:
    """In place of random numbers: the first is the highest."""
    return torch.linspace(1, 0, shape[-1], **options).expand(shape)


def ascending(count: int, **options: Any) -> Tensor:
    """In place of a random order: the first comes first."""
    return torch.arange(count, **options)


def targets_of(name: str) -> list[Target]:
    targets = [Target(torch.tensor(boxes), torch.tensor(labels)) for boxes, labels in zip(BOXES, LABELS, strict=True)]
    if name.startswith("ssd"):
        targets[1] = Target(torch.tensor([*BOXES[1], SMALL]), torch.tensor([*LABELS[1], 1]))
    return targets


@pytest.mark.parametrize("name", MODELS)
def test_one_step_gives_torchvisions_losses_and_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names, adapt = MODELS[name]
    size = (300, 300) if name.startswith("ssd") else (160, 192)
    noise = torch.Generator().manual_seed(1)
    coarse = torch.rand(2, 3, 12, 12, generator=noise) * 255
    pixels = nn.functional.interpolate(coarse, size, mode="bilinear")
    theirs, about = theirs_of(name, size[0], pixels), foreign(name)
    config: Any = about.config
    ours: Any = config.build(CLASSES)
    ours.load_state_dict(about.convert(dict(theirs.state_dict()), CLASSES))
    adapt(ours.train())
    theirs, ours, pixels = theirs.double(), ours.double(), pixels.double()
    for mine, exact in ((ours.features.mean, config.pixel_mean), (ours.features.std, config.pixel_std)):
        mine.copy_(mine.new_tensor(exact).view(3, 1, 1))

    monkeypatch.setattr(torch, "randperm", ascending)
    monkeypatch.setattr(torch, "rand", descending)
    targets, first = targets_of(name), int(name.startswith(("faster", "ssd")))  # there, class 0 is the background
    expected = theirs(list(pixels / 255), [{"boxes": t.boxes, "labels": t.labels + first} for t in targets])
    losses = ours.loss(Images(pixels, torch.tensor([size, size])), targets)

    assert set(losses) == set(names) and set(expected) == set(names.values())
    for mine, other in names.items():
        assert losses[mine].item() == pytest.approx(expected[other].item(), rel=1e-5, abs=1e-5) and losses[mine] > 0
    sum(losses.values()).backward()  # type: ignore[union-attr]
    sum(expected.values()).backward()  # type: ignore[union-attr]
    parameters = dict(theirs.named_parameters())
    gradients = {
        key: parameters[key].grad.clone() if key in parameters and parameters[key].grad is not None else value
        for key, value in theirs.state_dict().items()
    }
    converted = about.convert(gradients, CLASSES)
    trained = {key: parameter for key, parameter in ours.named_parameters() if parameter.grad is not None}
    assert len(trained) == sum(parameter.requires_grad for parameter in ours.parameters()) > 30
    for key, parameter in trained.items():
        difference = (parameter.grad - converted[key]).norm() / converted[key].norm().clamp(min=1e-12)  # type: ignore[operator]
        assert difference < 1e-4, f"{key}: {difference:.1e}"


def test_no_default_box_covers_the_small_object() -> None:
    ssd: Any = foreign("ssd300_vgg16").config.build(CLASSES)
    boxes = torch.cat(ssd.anchors.anchors([(38, 38), (19, 19), (10, 10), (5, 5), (3, 3), (1, 1)]))
    assert 0 < pairwise_iou(torch.tensor([SMALL]), boxes).max() < 0.5
