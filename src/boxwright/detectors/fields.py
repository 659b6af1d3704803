"""Groups of options that several detectors read. A config is composed of those that its detector reads, and of its own.

A field is the Python argument, the option of the command line and the key in a checkpoint. A group may define `check()`
over the values of its fields; `DetectorConfig` calls the checks of all groups. Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from boxwright.typed import within

if TYPE_CHECKING:
    from boxwright.proposals import Propose


class Unread(NamedTuple):
    """Options that have no effect where another `option` has this `value`; None: any but its default."""

    option: str
    value: str | None
    options: tuple[str, ...]


@cache
def choices_of(kind: type) -> dict[str, tuple[Any, ...]]:
    """The options of a config that take one of a few values, and these."""
    hints = get_type_hints(kind)
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}


@cache
def defaults_of(kind: type) -> dict[str, Any]:
    """The default of every option of a config."""
    return {field.name: field.default for field in fields(kind)}


COUNT = 100_000
"""The most boxes, samples or classes that a config may ask for; far above any use, and below what fills a memory."""
CHANNELS, WIDTH, LAYERS, CELLS = 4096, 16_384, 64, 64
"""Likewise of a map, of a fully connected layer, of a stack of layers, and a side of a grid."""
PIXELS = 100_000.0
"""The longest side of a box."""


@dataclass(frozen=True)
class BackboneFields:
    """The backbone and its input."""

    backbone: str = "efficientnet_lite0"
    """Any of `boxwright.backbones`, or a timm model as timm:NAME."""
    levels: tuple[int, ...] = (3, 4, 5)
    """Levels of the backbone that are used; level l has stride 2**l (where a network is not cut otherwise)."""
    pixel_mean: tuple[float, ...] = ()
    """Subtracted from the red, green and blue of pixels (0..255); () is what the backbone was trained with."""
    pixel_std: tuple[float, ...] = ()
    """Divisor of red, green and blue after that; () likewise."""

    def check(self) -> None:
        if not self.levels or list(self.levels) != sorted(set(self.levels)):
            raise ValueError(f"levels (--levels) are one or more ascending numbers, got {self.levels}")
        within(0, 16, levels=self.levels)
        within(-1e6, 1e6, pixel_mean=self.pixel_mean)
        within(1e-6, 1e6, pixel_std=self.pixel_std)
        for name, values in (("pixel_mean", self.pixel_mean), ("pixel_std", self.pixel_std)):
            if len(values) not in (0, 3):
                raise ValueError(f"{name} takes three numbers, for red, green and blue, or none; got {values}")


@dataclass(frozen=True)
class OneLevel(BackboneFields):
    """A detector that reads a single map of its backbone."""

    levels: tuple[int, ...] = (5,)
    """The one level of the backbone that is read; level l has stride 2**l."""

    def check(self) -> None:
        if len(self.levels) != 1:
            raise ValueError(f"one level of the backbone is read, such as levels=(5,) (--levels 5), got {self.levels}")


@dataclass(frozen=True)
class LearningBackbone(BackboneFields):
    """How much of the backbone is trained."""

    frozen_stages: int = 2
    """How many stages of the backbone keep their weights, counting the stem."""
    norm: Literal["frozen", "batch"] = "frozen"
    """Batch norm of the backbone."""

    def check(self) -> None:
        within(0, LAYERS, frozen_stages=self.frozen_stages)


@dataclass(frozen=True)
class ScoreFields:
    """What is reported."""

    score_threshold: tuple[float, ...] = (0.05,)
    """A detection scores more than this: one number, or one for each class in order."""
    max_detections: int = 100
    """Detections per image, at most."""

    def check(self) -> None:
        within(1, COUNT, max_detections=self.max_detections)
        if not 0 < len(self.score_threshold) <= COUNT or not all(0 <= score < inf for score in self.score_threshold):
            raise ValueError(f"score_threshold takes one or more numbers of at least 0, got {self.score_threshold}")


@dataclass(frozen=True)
class SelectionFields(ScoreFields):
    """From scored boxes to detections."""

    nms_threshold: float = 0.5
    """IoU above which the lower-scored of two boxes of a class is removed."""
    pre_nms_top_k: int = 1000
    """How many of the best boxes enter NMS, of each level where there are several."""

    def check(self) -> None:
        within(1, COUNT, pre_nms_top_k=self.pre_nms_top_k)
        check_iou("nms_threshold", self.nms_threshold)


def check_iou(name: str, value: float) -> None:
    """Raises ValueError where a threshold is no IoU."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is an IoU, from 0 to 1, got {value}")


def check_anchors(scales: tuple[float, ...], sizes: tuple[float, ...], aspect_ratios: tuple[float, ...]) -> None:
    """Raises ValueError for anchors that have no size, or an absurd one."""
    within(1e-3, PIXELS, anchor_scales=scales, anchor_sizes=sizes)
    within(1e-3, 1e3, aspect_ratios=aspect_ratios)


@dataclass(frozen=True)
class ConventionFields:
    """Where implementations of one paper differ."""

    convention: Literal["boxwright", "torchvision", "detectron2"] = "boxwright"
    """The library whose details are followed (`boxwright.detectors.fields`), for weights trained with it."""


@dataclass(frozen=True)
class RegionFields(SelectionFields):
    """A region stage."""

    region_samples: int = 128
    """Proposals per image in the loss of the region stage, a quarter of them positive."""
    class_agnostic: bool = False
    """One box prediction for all classes rather than one per class."""
    box_loss: Literal["smooth_l1", "giou"] = "smooth_l1"
    """Loss of the boxes of the region stage: of the four numbers they are encoded as, or of their overlap."""
    box_weight: float = 1.0
    """Weight of the box loss of the region stage; `giou` takes a larger one, such as 5."""

    def check(self) -> None:
        within(1, COUNT, region_samples=self.region_samples)
        within(0, 1e6, box_weight=self.box_weight)


@dataclass(frozen=True)
class ProposedFields(RegionFields):
    """A region stage over proposals that come from outside of the detector."""

    proposer: str = "selective_search"
    """selective_search, selective_search_quality, sliding_window, or a file that `boxwright propose` wrote."""
    proposals: int = 1000
    """Proposals per image, at most."""

    def check(self) -> None:
        within(1, COUNT, proposals=self.proposals)

    @property
    def proposals_file(self) -> Path | None:
        """The file that `proposer` names."""
        from boxwright.proposals.build import NAMES

        return None if self.proposer in NAMES else Path(self.proposer)

    def build_proposer(self) -> Propose:
        """From an image to boxes."""
        from boxwright.proposals import build_proposer

        return build_proposer(self.proposer, self.proposals)


@dataclass(frozen=True)
class SharedFields(LearningBackbone):
    """The maps that an RPN and all regions of an image share."""

    variant: Literal["fpn", "c4", "dc5"] = "fpn"
    """What is shared: a feature pyramid (fpn); the map of stride 16, with the last stage of the backbone as the head of
    every region (c4); or the map of that last stage, dilated to stride 16 (dc5)."""
    channels: int = 128
    """Channels of the pyramid."""

    def check(self) -> None:
        within(1, CHANNELS, channels=self.channels)


@dataclass(frozen=True)
class PoolFields:
    """Pooling of regions from shared maps."""

    pool: Literal["align", "pool"] = "align"
    """Pooling of regions: bilinear samples (align), or the maximum of whole features as in the papers (pool)."""
    canonical_size: float = 224.0
    """Regions of this many pixels across are pooled from stride 16, larger ones from coarser maps (FPN, eq. 1)."""

    def check(self) -> None:
        within(1, PIXELS, canonical_size=self.canonical_size)


@dataclass(frozen=True)
class HeadFields(PoolFields):
    """The layers that run on every region."""

    hidden: int = 512
    """Width of the fully connected layers of the head."""
    head_layers: int = 2
    """How many of these there are."""
    head_convs: int = 0
    """3x3 convolutions before them."""
    cascade: tuple[float, ...] = ()
    """Several heads in a row, each on the boxes of the one before: the IoU from which a box is an object for each, such
    as 0.5 0.6 0.7; () is a single head at 0.5."""

    def check(self) -> None:
        within(1, WIDTH, hidden=self.hidden)
        within(1, LAYERS, head_layers=self.head_layers)
        within(0, LAYERS, head_convs=self.head_convs)
        within(0.05, 0.95, cascade=self.cascade)


@dataclass(frozen=True)
class RPNFields(ConventionFields, SharedFields):
    """A region proposal network."""

    anchor_scales: tuple[float, ...] = ()
    """Sides of the anchors in strides of their level; () takes 4 and 5.7 on a pyramid, 2 to 32 on one map."""
    anchor_sizes: tuple[float, ...] = ()
    """The same in pixels, level by level, equally many on each; () takes `anchor_scales`."""
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height over width of the anchors."""
    proposals: int = 300
    """Proposals per image."""
    rpn_samples: int = 256
    """Anchors per image in the loss of the RPN, half of them positive where there are enough."""
    rpn_depth: int = 1
    """Convolutions of the RPN before its outputs."""
    rpn_score_threshold: float = 0.0
    """A proposal scores more than this."""
    rpn_nms_threshold: float = 0.7
    """IoU above which the lower-scored of two proposals of a level is removed."""
    rpn_pre_nms_top_k: int = 1000
    """How many of the best boxes of each level enter the NMS of the RPN."""

    def check(self) -> None:
        within(
            1, COUNT, proposals=self.proposals, rpn_samples=self.rpn_samples, rpn_pre_nms_top_k=self.rpn_pre_nms_top_k
        )
        within(0, LAYERS, rpn_depth=self.rpn_depth)
        within(0, 1, rpn_score_threshold=self.rpn_score_threshold)
        check_anchors(self.anchor_scales, self.anchor_sizes, self.aspect_ratios)
        check_iou("rpn_nms_threshold", self.rpn_nms_threshold)


@dataclass(frozen=True)
class DenseFields(SelectionFields, ConventionFields, LearningBackbone):
    """A single stage on a feature pyramid: RetinaNet and FCOS."""

    channels: int = 128
    """Channels of the pyramid and the heads."""
    depth: int = 4
    """Convolutions in each head."""
    prior: float = 0.01
    """Probability that every anchor or point starts with."""
    group_channels: int = 4
    """Channels that a group norm of the heads normalises together; torchvision has 8, which is 32 groups of 256."""
    class_loss: Literal["focal", "quality_focal", "varifocal"] = "focal"
    """Focal loss of right or wrong (the papers); or one that learns, of the right class, the IoU of the box."""

    def check(self) -> None:
        within(1, CHANNELS, channels=self.channels)
        within(2, CHANNELS, group_channels=self.group_channels)  # a map of one cell has a channel's mean alone
        within(0, LAYERS, depth=self.depth)
        within(1e-9, 1 - 1e-9, prior=self.prior)


@dataclass(frozen=True)
class Convention:
    """The details of a library. They hardly matter in training; weights trained with one convention need that one.

    round_anchors            anchors around (0, 0) are rounded to whole pixels
    stride_from_feature_map  from one anchor to the next it is the side of the image over that of the map, rather than
                             the stride; they differ where a map was rounded up
    aligned                  RoI align places a feature in the middle of its cell
    sampling_ratio           sample points of RoI align per cell and side; 0: as many as the cell has features
    min_proposal_size, min_region_size, min_size
                             pixels; a box that is narrower or lower once clipped is dropped: proposals of a region
                             proposal network, detections of a region stage, detections of a single stage
    drop_after_nms           small detections of a region stage are dropped after NMS, from the best `max_detections`,
                             rather than before
    clip_after_nms           detections of a single stage are clipped, and dropped if small, after NMS likewise
    """

    round_anchors: bool = False
    stride_from_feature_map: bool = False
    aligned: bool = True
    sampling_ratio: int = 2
    min_proposal_size: float = 1e-3
    min_region_size: float = 1e-3
    min_size: float = 1e-3
    drop_after_nms: bool = False
    clip_after_nms: bool = False


CONVENTIONS = {
    "boxwright": Convention(),
    "torchvision": Convention(
        round_anchors=True, stride_from_feature_map=True, aligned=False, min_region_size=1e-2, min_size=0.0
    ),
    "detectron2": Convention(
        sampling_ratio=0,
        min_proposal_size=1e-9,
        min_region_size=1e-9,
        min_size=1e-9,
        drop_after_nms=True,
        clip_after_nms=True,
    ),
}
