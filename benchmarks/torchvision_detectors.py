"""torchvision's Faster R-CNN, RetinaNet, FCOS and SSD as detectors of boxwright, so that all commands train them too.

    boxwright train torchvision_fcos --plugin benchmarks/torchvision_detectors.py --data my_dataset/
    boxwright bench --plugin benchmarks/torchvision_detectors.py --detectors fcos torchvision_fcos --data my_dataset/

Ours of the same name lends the backbone, the neck behind it (pyramid or extra levels), its width, the sizes of the
anchors and how many proposals and samples there are. Heads, assignment, sampling, box coder, losses and suppression are
torchvision's, at its defaults; but a detection may score as little as in ours, where torchvision's own threshold is
higher. Images come and go as those of ours: the same pixels, without a second resize.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign

from boxwright import register
from boxwright.backbones.features import Features
from boxwright.boxes.anchors import AnchorGrid, DefaultBoxes
from boxwright.detectors import (
    Detector,
    DetectorConfig,
    FasterRCNNConfig,
    FCOSConfig,
    RetinaNetConfig,
    SSDConfig,
)
from boxwright.types import Images, Losses, Slots, Target


class Maps:
    """Features as torchvision calls them: a dictionary of maps, and their width, or a list of widths for SSD.

    It is no module, so that the weights belong to `TorchvisionDetector.features` alone, where the optimizer tells the
    backbone from the neck. Maps are float32, also under autocast: torchvision makes anchors in the precision of maps.
    """

    def __init__(self, features: Features, out_channels: int | list[int]) -> None:
        self.features, self.out_channels = features, out_channels

    def __call__(self, pixels: Tensor) -> OrderedDict[str, Tensor]:
        maps = self.features.neck(self.features.backbone(pixels))
        return OrderedDict((str(level), features.float()) for level, features in enumerate(maps))


class Normalized(GeneralizedRCNNTransform):
    """torchvision's normalisation and padding, of images that have their size already."""

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        return image, target


class OurDefaultBoxes(nn.Module):
    """Our default boxes as torchvision's SSD calls them. Its own are shares of an image that is always square."""

    def __init__(self, boxes: DefaultBoxes) -> None:
        super().__init__()
        self.boxes, self.aspect_ratios = boxes, boxes.ratios

    def num_anchors_per_location(self) -> list[int]:
        return list(self.boxes.per_cell)

    def forward(self, images: Any, maps: Sequence[Tensor]) -> list[Tensor]:
        boxes = self.boxes([features.shape[-2:] for features in maps], maps[0].device)
        return [torch.cat(boxes)] * len(images.image_sizes)


class TorchvisionDetector(Detector):
    """A model of torchvision behind the two verbs of `Detector`.

    model         calls `Maps` of these `features`
    first_label   of its classes: 1 where its 0 is the background
    detections    per image, at most
    heads         of the model, whose outputs are made float32 under autocast, as ours are
    """

    def __init__(
        self, features: Features, model: nn.Module, num_classes: int, first_label: int, detections: int,
        heads: Sequence[nn.Module],
    ) -> None:  # fmt: skip
        super().__init__()
        self.features, self.model, self.num_classes = features, model, num_classes
        self.first_label, self.detections = first_label, detections
        mean, std = ((values / 255).flatten().tolist() for values in (features.mean, features.std))
        model.transform = Normalized(1, 1, mean, std)
        for head in heads:
            head.register_forward_hook(lambda *call: in_float32(call[-1]))

    def compute_loss(self, images: Images, targets: list[Target]) -> Losses:
        """What torchvision calls its losses."""
        learnt = []
        for target in targets:
            kept = target[~target.crowd & (target.boxes[:, 2:] > target.boxes[:, :2]).all(1)]
            learnt.append({"boxes": kept.boxes, "labels": kept.labels + self.first_label})
        self.model.train()
        return self.model(self._arrays(images), learnt)

    def slots(self, images: Images) -> Slots:
        """Slots (N, S), boxes in pixels of the batch."""
        self.model.eval()
        columns = []
        for found in self.model(self._arrays(images)):
            rest = self.detections - len(found["scores"])
            scores, labels = (F.pad(found[name], (0, rest)) for name in ("scores", "labels"))
            valid = torch.arange(self.detections, device=scores.device) < len(found["scores"])
            boxes = F.pad(found["boxes"], (0, 0, 0, rest))
            columns.append((boxes, scores, (labels - self.first_label).clamp(min=0), valid))
        return Slots(*(torch.stack(column) for column in zip(*columns, strict=True)))

    def _arrays(self, images: Images) -> list[Tensor]:
        """Each image without its padding, 0..1."""
        sizes = images.sizes.tolist()
        return [pixels[:, :height, :width] / 255 for pixels, (height, width) in zip(images.pixels, sizes, strict=True)]


def in_float32(outputs: Any) -> Any:
    """The outputs of a head: tensors in dictionaries, lists or tuples."""
    if isinstance(outputs, Tensor):
        return outputs.float()
    if isinstance(outputs, dict):
        return {name: in_float32(output) for name, output in outputs.items()}
    return type(outputs)(map(in_float32, outputs))


@dataclass(frozen=True)
class TorchvisionConfig(DetectorConfig):
    """What all four have."""

    backbone: str = "efficientnet_lite0"
    """Any of `boxwright.backbones`, or a timm model as timm:NAME."""


@register("torchvision_faster_rcnn")
@dataclass(frozen=True)
class TorchvisionFasterRCNNConfig(TorchvisionConfig):
    """torchvision's Faster R-CNN, with an MLP head as wide as ours."""

    def build(self, num_classes: int, pretrained: bool = False) -> TorchvisionDetector:
        config = FasterRCNNConfig(backbone=self.backbone)
        ours = config.build(num_classes, pretrained)
        features, pooled = _features(ours), [str(level) for level in range(len(config.levels))]
        model = FasterRCNN(
            Maps(features, config.channels),
            rpn_anchor_generator=_anchors(ours.proposer.anchors),
            rpn_pre_nms_top_n_train=config.rpn_pre_nms_top_k,
            rpn_pre_nms_top_n_test=config.rpn_pre_nms_top_k,
            rpn_post_nms_top_n_train=config.proposals,
            rpn_post_nms_top_n_test=config.proposals,
            box_roi_pool=MultiScaleRoIAlign(pooled, 7, 2, canonical_scale=int(config.canonical_size)),
            box_head=TwoMLPHead(config.channels * 7**2, config.hidden),
            box_predictor=FastRCNNPredictor(config.hidden, num_classes + 1),
            box_batch_size_per_image=config.region_samples,
        )
        rpn: Any = model.rpn
        regions: Any = model.roi_heads
        heads = (rpn.head, regions.box_predictor)
        return TorchvisionDetector(features, model, num_classes, 1, regions.detections_per_img, heads)


@register("torchvision_retinanet")
@dataclass(frozen=True)
class TorchvisionRetinaNetConfig(TorchvisionConfig):
    """torchvision's RetinaNet."""

    head_norm: Literal["none", "group"] = "none"
    """What follows the convolutions of the heads: nothing, or the 32 groups of torchvision's second version."""

    def build(self, num_classes: int, pretrained: bool = False) -> TorchvisionDetector:
        config = RetinaNetConfig(backbone=self.backbone)
        ours = config.build(num_classes, pretrained)
        features, anchors = _features(ours), _anchors(ours.anchors.anchors)
        norm = partial(nn.GroupNorm, 32) if self.head_norm == "group" else None
        head = RetinaNetHead(config.channels, anchors.num_anchors_per_location()[0], num_classes, norm)
        maps = Maps(features, config.channels)
        model = RetinaNet(maps, num_classes, anchor_generator=anchors, head=head)
        return TorchvisionDetector(features, model, num_classes, 0, model.detections_per_img, [model.head])


@register("torchvision_fcos")
@dataclass(frozen=True)
class TorchvisionFCOSConfig(TorchvisionConfig):
    """torchvision's FCOS; its heads have norms of 32 groups."""

    def build(self, num_classes: int, pretrained: bool = False) -> TorchvisionDetector:
        config = FCOSConfig(backbone=self.backbone)
        ours = config.build(num_classes, pretrained)
        features = _features(ours)
        maps: Any = Maps(features, config.channels)
        model = FCOS(maps, num_classes, anchor_generator=_anchors(ours.anchors.anchors))
        model.score_thresh = min(model.score_thresh, *config.score_threshold)
        return TorchvisionDetector(features, model, num_classes, 0, model.detections_per_img, [model.head])


@register("torchvision_ssd")
@dataclass(frozen=True)
class TorchvisionSSDConfig(TorchvisionConfig):
    """torchvision's SSD."""

    def build(self, num_classes: int, pretrained: bool = False) -> TorchvisionDetector:
        ours = SSDConfig(backbone=self.backbone).build(num_classes, pretrained)
        features, boxes = _features(ours), ours.anchors.anchors
        assert isinstance(boxes, DefaultBoxes)
        maps: Any = Maps(features, list(features.channels))
        model = SSD(maps, OurDefaultBoxes(boxes), (1, 1), num_classes + 1)  # type: ignore[arg-type]
        return TorchvisionDetector(features, model, num_classes, 1, model.detections_per_img, [model.head])


def _features(ours: Any) -> Features:
    features = ours.features
    assert isinstance(features, Features)
    return features


def _anchors(ours: Any) -> AnchorGenerator:
    assert isinstance(ours, AnchorGrid)
    return AnchorGenerator(ours.sizes, (ours.ratios,) * len(ours.sizes))
