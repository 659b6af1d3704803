"""From the head's outputs to detections, compared with torchvision's SSD, RetinaNet and FCOS.

torchvision keeps boxes that are empty once clipped to the image; they are dropped here, and left out of the comparison.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.fcos import FCOS, FCOSHead
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from torchvision.models.detection.ssd import SSD

from boxwright.assign import MaxIoUAssigner, all_valid_anchors
from boxwright.boxes.anchors import AnchorGrid, Codec, DeltaCodec, DistanceCodec
from boxwright.detectors.anchor_stage import AnchorStage, Dense
from boxwright.detectors.base import Select
from boxwright.losses import DeltaLoss, focal
from boxwright.types import Detections

CLASSES = 4
SIZE, MANY = (96, 128), 1000
SHAPES = ((12, 16), (6, 8))
GRID = AnchorGrid(sizes=((16.0,), (40.0,)), ratios=(1.0,), strides=(8, 16))
ANCHORS = torch.cat(GRID(SHAPES))
LEVELS = (192, 48)


class Backbone(nn.Module):
    """The attribute that torchvision's detectors require of a backbone."""

    out_channels = 32


def random_outputs(columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (1, A, columns), deltas (1, A, 4) and quality (1, A)."""
    noise = torch.Generator().manual_seed(0)
    logits, deltas = (torch.randn(1, len(ANCHORS), numbers, generator=noise) for numbers in (columns, 4))
    return 2 * logits, 0.5 * deltas, torch.randn(1, len(ANCHORS), generator=noise)


def detect(codec: Codec, select: Select, logits: Tensor, deltas: Tensor, quality: Tensor | None = None) -> Detections:
    stage = AnchorStage(
        head=nn.Identity(),
        anchors=GRID,
        codec=codec,
        assign=MaxIoUAssigner(),
        sample=all_valid_anchors,
        class_loss=focal,
        box_loss=DeltaLoss(),
        select=select,
        softmax=logits.shape[-1] > CLASSES,
    )
    dense = Dense(logits, deltas[:, :, None], ANCHORS, LEVELS, quality)
    (found,) = stage.detect(dense, torch.tensor([SIZE])).trim()
    return found


def by_level(values: Tensor) -> list[Tensor]:
    return list(values.split(LEVELS, dim=1))


def assert_same(found: Detections, expected: dict[str, Tensor], first: int = 0) -> None:
    """`first` is torchvision's label of class 0."""
    boxes = expected["boxes"]
    expected = {name: values[(boxes[:, 2:] - boxes[:, :2]).amin(1) > 1e-3] for name, values in expected.items()}
    assert len(found) > 40 and len(found.labels.unique()) == CLASSES
    torch.testing.assert_close(found.boxes, expected["boxes"], atol=1e-4, rtol=0)
    torch.testing.assert_close(found.scores, expected["scores"])
    assert torch.equal(found.labels + first, expected["labels"])


def test_ssd() -> None:
    logits, deltas, _ = random_outputs(CLASSES + 1)
    reference = SSD(
        Backbone(),
        DefaultBoxGenerator([[2], [2]]),
        SIZE,
        CLASSES + 1,
        head=nn.Identity(),
        score_thresh=0.1,
        detections_per_img=MANY,
    )
    outputs = {"cls_logits": logits.roll(1, -1), "bbox_regression": deltas}
    (expected,) = reference.postprocess_detections(outputs, [ANCHORS], [SIZE])
    found = detect(
        DeltaCodec((10.0, 10.0, 5.0, 5.0)), Select(score_threshold=0.1, iou_threshold=0.45, slots=MANY), logits, deltas
    )
    assert_same(found, expected, first=1)


def test_retinanet() -> None:
    logits, deltas, _ = random_outputs(CLASSES)
    reference = RetinaNet(
        Backbone(), CLASSES, head=RetinaNetHead(32, 1, CLASSES), topk_candidates=100, detections_per_img=MANY
    )
    outputs = {"cls_logits": by_level(logits), "bbox_regression": by_level(deltas)}
    (expected,) = reference.postprocess_detections(outputs, [list(ANCHORS.split(LEVELS))], [SIZE])
    found = detect(
        DeltaCodec(), Select(score_threshold=0.05, iou_threshold=0.5, pre_nms_top_k=100, slots=MANY), logits, deltas
    )
    assert_same(found, expected)


def test_fcos() -> None:
    logits, deltas, quality = random_outputs(CLASSES)
    reference = FCOS(Backbone(), CLASSES, head=FCOSHead(32, 1, CLASSES), topk_candidates=100, detections_per_img=MANY)
    outputs = {
        "cls_logits": by_level(logits),
        "bbox_regression": by_level(deltas.relu()),
        "bbox_ctrness": by_level(quality[..., None]),
    }
    (expected,) = reference.postprocess_detections(outputs, [list(ANCHORS.split(LEVELS))], [SIZE])
    select = Select(score_threshold=0.2, iou_threshold=0.6, pre_nms_top_k=100, slots=MANY)
    assert_same(detect(DistanceCodec("relu"), select, logits, deltas, quality), expected)
