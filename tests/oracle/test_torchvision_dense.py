"""From the head's outputs to detections as torchvision's SSD, RetinaNet and FCOS do it.

They keep boxes that have no extent once clipped to the image, which we drop: without these all is the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.fcos import FCOS, FCOSHead
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from torchvision.models.detection.ssd import SSD

from boxwright.assign import MaxIoUAssigner, all_valid_anchors
from boxwright.boxes.anchors import AnchorGrid
from boxwright.boxes.codec import Codec, DeltaCodec, DistanceCodec
from boxwright.detectors.anchor_stage import AnchorStage, Dense
from boxwright.detectors.select import Select
from boxwright.losses import DeltaLoss, focal
from boxwright.types import Detections

CLASSES = 4
SIZE, MANY = (96, 128), 1000
SHAPES = ((12, 16), (6, 8))
GRID = AnchorGrid(sizes=((16.0,), (40.0,)), ratios=(1.0,), strides=(8, 16))
ANCHORS = torch.cat(GRID(SHAPES))
LEVELS = (192, 48)


class Backbone(nn.Module):
    """What torchvision's detectors ask for before they are built."""

    out_channels = 32


def said(columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (1, A, columns), deltas (1, A, 4) and quality (1, A)."""
    noise = torch.Generator().manual_seed(0)
    logits, deltas = (torch.randn(1, len(ANCHORS), numbers, generator=noise) for numbers in (columns, 4))
    return 2 * logits, 0.5 * deltas, torch.randn(1, len(ANCHORS), generator=noise)


def ours(codec: Codec, select: Select, logits: Tensor, deltas: Tensor, quality: Tensor | None = None) -> Detections:
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


def assert_same(found: Detections, theirs: dict[str, Tensor], first: int = 0) -> None:
    """Labels counted from `first` there."""
    boxes = theirs["boxes"]
    theirs = {name: values[(boxes[:, 2:] - boxes[:, :2]).amin(1) > 1e-3] for name, values in theirs.items()}
    assert len(found) > 40 and len(found.labels.unique()) == CLASSES
    torch.testing.assert_close(found.boxes, theirs["boxes"], atol=1e-4, rtol=0)
    torch.testing.assert_close(found.scores, theirs["scores"])
    assert torch.equal(found.labels + first, theirs["labels"])


def test_ssd() -> None:
    logits, deltas, _ = said(CLASSES + 1)
    theirs = SSD(
        Backbone(),
        DefaultBoxGenerator([[2], [2]]),
        SIZE,
        CLASSES + 1,
        head=nn.Identity(),
        score_thresh=0.1,
        detections_per_img=MANY,
    )
    outputs = {"cls_logits": logits.roll(1, -1), "bbox_regression": deltas}
    (expected,) = theirs.postprocess_detections(outputs, [ANCHORS], [SIZE])
    found = ours(
        DeltaCodec((10.0, 10.0, 5.0, 5.0)), Select(score_threshold=0.1, iou_threshold=0.45, slots=MANY), logits, deltas
    )
    assert_same(found, expected, first=1)


def test_retinanet() -> None:
    logits, deltas, _ = said(CLASSES)
    theirs = RetinaNet(
        Backbone(), CLASSES, head=RetinaNetHead(32, 1, CLASSES), topk_candidates=100, detections_per_img=MANY
    )
    outputs = {"cls_logits": by_level(logits), "bbox_regression": by_level(deltas)}
    (expected,) = theirs.postprocess_detections(outputs, [list(ANCHORS.split(LEVELS))], [SIZE])
    found = ours(
        DeltaCodec(), Select(score_threshold=0.05, iou_threshold=0.5, pre_nms_top_k=100, slots=MANY), logits, deltas
    )
    assert_same(found, expected)


def test_fcos() -> None:
    logits, deltas, quality = said(CLASSES)
    theirs = FCOS(Backbone(), CLASSES, head=FCOSHead(32, 1, CLASSES), topk_candidates=100, detections_per_img=MANY)
    outputs = {
        "cls_logits": by_level(logits),
        "bbox_regression": by_level(deltas.relu()),
        "bbox_ctrness": by_level(quality[..., None]),
    }
    (expected,) = theirs.postprocess_detections(outputs, [list(ANCHORS.split(LEVELS))], [SIZE])
    select = Select(score_threshold=0.2, iou_threshold=0.6, pre_nms_top_k=100, slots=MANY)
    assert_same(ours(DistanceCodec("relu"), select, logits, deltas, quality), expected)
