"""The configs of all detectors: plain numbers, checked when they are made, whose `build` makes the detector.

Nothing here imports torch; `build` imports the file of its paper, where the numbers become parts. An option that a
detector or one of its variants does not read is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, overload

from boxwright import plugins
from boxwright.detectors.fields import (
    CELLS,
    CHANNELS,
    COUNT,
    LAYERS,
    PIXELS,
    WIDTH,
    ConventionFields,
    DenseFields,
    HeadFields,
    LearningBackbone,
    OneLevel,
    PoolFields,
    ProposedFields,
    RegionFields,
    RPNFields,
    ScoreFields,
    SelectionFields,
    SharedFields,
    Unread,
    check_anchors,
    choices_of,
    defaults_of,
)
from boxwright.typed import check_fields, either, within

if TYPE_CHECKING:
    from boxwright.detectors.base import Detector
    from boxwright.detectors.fast_rcnn import FastRCNN
    from boxwright.detectors.faster_rcnn import FasterRCNN
    from boxwright.detectors.fcos import FCOS
    from boxwright.detectors.localizer import Localizer
    from boxwright.detectors.r_fcn import RFCN
    from boxwright.detectors.rcnn import RCNN
    from boxwright.detectors.retinanet import RetinaNet
    from boxwright.detectors.rpn import RPN
    from boxwright.detectors.sliding_window import SlidingWindowDetector
    from boxwright.detectors.spp_net import SPPNet
    from boxwright.detectors.ssd import SSD

AnyDetector = TypeVar("AnyDetector", bound="Detector")


@dataclass(frozen=True)
class DetectorConfig:
    """The base of all configs: a check of all values, and `build`. Its options are those of the groups beside it.

    UNREAD  which options depend on others; a value of theirs that is not the default is refused
    """

    UNREAD: ClassVar[tuple[Unread, ...]] = ()

    def __post_init__(self) -> None:
        defaults = defaults_of(type(self))
        given = {option: value for option, value in vars(self).items() if value is not defaults[option]}
        check_fields(type(self), given)
        for group in reversed(type(self).__mro__):
            if "check" in vars(group):
                group.check(self)
        for option, reason in self.unread(vars(self)).items():
            if getattr(self, option) != defaults[option]:
                raise ValueError(not_read(option, f"{kind_of(type(self))} {reason}"))

    @classmethod
    def unread(cls, values: Mapping[str, Any]) -> dict[str, str]:
        """The options that are not read where some have these `values`, and why: "with variant c4"."""
        found = {}
        for option, cause, options in cls.UNREAD:
            default = defaults_of(cls)[option]
            value = values.get(option, default)
            if value != default if cause is None else value == cause:
                found |= dict.fromkeys(options, f"with {option} {cause}" if cause else f"with {option}")
        return found

    def build(self, num_classes: int, pretrained: bool = False) -> Detector:
        """The detector for this many classes; with `pretrained` the backbone starts from ImageNet."""
        raise NotImplementedError(f"{type(self).__name__} must define build(num_classes, pretrained)")


def _for_classes(num_classes: int, detector: AnyDetector) -> AnyDetector:
    """The detector, told how many classes it is for, so that it can check the labels of targets."""
    detector.num_classes = num_classes
    return detector


@dataclass(frozen=True)
class LocalizerConfig(ScoreFields, OneLevel, LearningBackbone, DetectorConfig):
    """The numbers of a localizer."""

    max_detections: int = 1
    """Detections per image, each of another class."""
    channels: int = 128
    """Channels to which the map is reduced."""
    grid: int = 7
    """The map is averaged to grid x grid cells; 1 is the global pooling of classifiers, which hides where."""
    hidden: int = 512
    """Width of the two fully connected layers."""
    class_agnostic: bool = False
    """One box prediction for all classes rather than one per class."""
    box_weight: float = 1.0
    """Weight of the box loss."""

    def check(self) -> None:
        within(1, CHANNELS, channels=self.channels)
        within(1, CELLS, grid=self.grid)
        within(1, WIDTH, hidden=self.hidden)
        within(0, 1e6, box_weight=self.box_weight)

    def build(self, num_classes: int, pretrained: bool = False) -> Localizer:
        from boxwright.detectors.localizer import build

        return _for_classes(num_classes, build(self, num_classes, pretrained))


@dataclass(frozen=True)
class SlidingWindowConfig(SelectionFields, OneLevel, LearningBackbone, DetectorConfig):
    """The numbers of a sliding window."""

    levels: tuple[int, ...] = (3,)
    """The one level of the backbone that is read. Its stride, 2**level, is that of the windows."""
    channels: int = 128
    """Channels to which the map is reduced, and width of the layers after it."""
    shapes: tuple[tuple[int, int], ...] = ((3, 3), (3, 5), (5, 3))
    """Rows and columns of the windows, in cells of the map."""
    scales: int = 8
    """Sizes of the image: windows of 3 x 3 cells have sides of 24, 34, 48, 68 and so on to 272 pixels."""
    shrink: float = 0.5**0.5
    """Each size over the one before."""
    samples: int = 256
    """Windows per image in the loss, a quarter of them positive where there are enough."""
    nms_threshold: float = 0.4
    """IoU above which the lower-scored of two windows of a class is removed."""

    def check(self) -> None:
        within(1, CHANNELS, channels=self.channels)
        within(1, CELLS, shapes=self.shapes)
        within(1, LAYERS, scales=self.scales)
        within(1e-3, 1, shrink=self.shrink)
        within(1, COUNT, samples=self.samples)

    def build(self, num_classes: int, pretrained: bool = False) -> SlidingWindowDetector:
        from boxwright.detectors.sliding_window import build

        return _for_classes(num_classes, build(self, num_classes, pretrained))


@dataclass(frozen=True)
class RCNNConfig(ProposedFields, OneLevel, LearningBackbone, DetectorConfig):
    """The numbers of an R-CNN. The paper's: 227 pixels, 2000 proposals, an AlexNet."""

    UNREAD = (Unread("choose", "least_background", ("score_threshold",)),)

    proposals: int = 300
    """Proposals per image, at most; each costs a pass through the network."""
    region_samples: int = 16
    """Proposals per image in the loss, a quarter of them positive: a batch of eight has the paper's 32 and 96."""
    warp_size: int = 128
    """Side of the warped regions, in pixels."""
    context: int = 16
    """Of these, how many at each side show what lies around the proposal."""
    chunk: int = 32
    """Regions of an image that go through the network at once."""
    choose: Literal["threshold", "least_background"] = "threshold"
    """What is reported: every class that scores more than `score_threshold`; or the `max_detections` regions least
    likely background, each as its best class."""

    def check(self) -> None:
        within(1, 4096, warp_size=self.warp_size)
        within(0, (self.warp_size - 1) // 2, context=self.context)
        within(1, COUNT, chunk=self.chunk)

    def build(self, num_classes: int, pretrained: bool = False) -> RCNN:
        from boxwright.detectors.rcnn import build

        return _for_classes(num_classes, build(self, num_classes, pretrained))


@dataclass(frozen=True)
class SPPNetConfig(ProposedFields, OneLevel, DetectorConfig):
    """The numbers of an SPP-net. Its backbone is not trained."""

    levels: tuple[int, ...] = (4,)
    """The level of the backbone whose map is pooled; level l has stride 2**l."""
    proposer: str = "selective_search_quality"
    """selective_search, selective_search_quality, sliding_window, or a file that `boxwright propose` wrote."""
    proposals: int = 2000
    """Proposals per image, at most; each costs two fully connected layers only."""
    zooms: tuple[int, ...] = (2, 1)
    """Sizes of the image whose maps are pooled, each half of the one before; (1,) is the paper's single scale."""
    grids: tuple[int, ...] = (6, 3, 2, 1)
    """Cells a side of each grid of the pyramid that a region is pooled to."""
    hidden: int = 512
    """Width of the two fully connected layers."""

    def check(self) -> None:
        within(1, 16, zooms=self.zooms)
        within(1, CELLS, grids=self.grids)
        within(1, WIDTH, hidden=self.hidden)

    def build(self, num_classes: int, pretrained: bool = False) -> SPPNet:
        from boxwright.detectors.spp_net import build

        return _for_classes(num_classes, build(self, num_classes, pretrained))


_ONE_MAP = ("levels", "canonical_size")  # read on a pyramid only
_UNREAD_BY_VARIANTS = (
    Unread("variant", "c4", (*_ONE_MAP, "channels", "hidden", "head_layers", "head_convs")),
    Unread("variant", "dc5", (*_ONE_MAP, "channels")),
)
_CASCADE = Unread("cascade", None, ("class_agnostic",))
_GIVEN_ANCHORS = Unread("anchor_sizes", None, ("anchor_scales",))


@dataclass(frozen=True)
class FastRCNNConfig(HeadFields, ProposedFields, ConventionFields, SharedFields, DetectorConfig):
    """The numbers of a Fast R-CNN. The paper's: `variant="c4"`, `pool="pool"` on a VGG-16, 2000 proposals."""

    UNREAD = (*_UNREAD_BY_VARIANTS, _CASCADE)

    def build(self, num_classes: int, pretrained: bool = False) -> FastRCNN:
        from boxwright.detectors.fast_rcnn import build

        return _for_classes(num_classes, build(self, num_classes, pretrained))


@dataclass(frozen=True)
class FasterRCNNConfig(HeadFields, RegionFields, RPNFields, DetectorConfig):
    """The numbers of a Faster R-CNN."""

    UNREAD = (*_UNREAD_BY_VARIANTS, _CASCADE, _GIVEN_ANCHORS)

    def build(self, num_classes: int, pretrained: bool = False) -> FasterRCNN:
        from boxwright.detectors.faster_rcnn import build

        return _for_classes(num_classes, build(self, num_classes, pretrained))


@dataclass(frozen=True)
class RFCNConfig(PoolFields, RegionFields, RPNFields, DetectorConfig):
    """The numbers of an R-FCN. The paper's: `variant="dc5"`, `pool="pool"`, `channels=1024` on a ResNet-101."""

    UNREAD = (Unread("variant", "dc5", _ONE_MAP), _GIVEN_ANCHORS)

    variant: Literal["fpn", "dc5"] = "fpn"
    """What is shared: a feature pyramid (fpn), or the map of the last stage, dilated to stride 16 (dc5)."""
    channels: int = 128
    """Channels of the pyramid, and of the layer before the maps of scores."""
    cells: int = 7
    """Cells a side into which a region is divided (k)."""
    class_agnostic: bool = True
    """One box prediction for all classes rather than one per class."""

    def check(self) -> None:
        within(1, CELLS, cells=self.cells)

    def build(self, num_classes: int, pretrained: bool = False) -> RFCN:
        from boxwright.detectors.r_fcn import build

        return _for_classes(num_classes, build(self, num_classes, pretrained))


@dataclass(frozen=True)
class SSDConfig(SelectionFields, ConventionFields, LearningBackbone, DetectorConfig):
    """The numbers of an SSD."""

    UNREAD = (
        Unread("box_sizes", None, ("box_scale",)),
        Unread("head_norm", "batch", ("group_channels",)),
        Unread("head_norm", "none", ("group_channels",)),
    )

    extra: tuple[int, ...] = (256, 128)
    """Channels of the levels behind the backbone's, each of half the size of the one before."""
    unstrided: int = 0
    """So many of the last ones leave out the border of the one before instead (SSD300: 2, from 5x5 to 1x1)."""
    lite: bool = False
    """SSDlite: depthwise convolutions in the heads and the further levels."""
    widen: int | None = None
    """Maps with fewer channels are widened to so many before their head, as SSDlite reads the expanded channels of a
    block; if not given, 256 with `lite`, and no map otherwise."""
    head_norm: Literal["group", "batch", "none"] = "group"
    """What follows their convolutions; the paper has none, SSDlite batch norm."""
    group_channels: int = 4
    """Channels that a group norm normalises together."""
    lengths: tuple[float, ...] = (10.0, 10.0, 10.0)
    """Lengths to which the backbone's maps are scaled at every cell (the paper: 20, the finest only)."""
    box_scale: float = 3.0
    """Sides of the default boxes in strides of their level, whatever the size of the image."""
    box_sizes: tuple[float, ...] = ()
    """The same in pixels, per level and one more (the paper's SSD300: 30 60 111 ... 315); () takes `box_scale`."""
    box_steps: tuple[float, ...] = ()
    """Pixels from one default box to the next, per level; () takes the strides."""
    box_limit: float | None = None
    """No default box is wider or higher than this many pixels: the side of the image where it is always the same."""
    aspect_ratios: tuple[float, ...] = (2.0, 3.0)
    """Width over height of the default boxes that lie; each also stands."""
    end_aspect_ratios: tuple[float, ...] = (2.0,)
    """The same on the finest level and the last two."""
    class_agnostic: bool = True
    """One box prediction for all classes rather than one per class."""
    nms_threshold: float = 0.45
    """IoU above which the lower-scored of two boxes of a class is removed."""
    per_class: bool = False
    """`pre_nms_top_k` is how many boxes of each class enter NMS, rather than of each level."""

    def check(self) -> None:
        within(1, CHANNELS, extra=self.extra)
        within(2, CHANNELS, group_channels=self.group_channels)
        within(0, LAYERS, unstrided=self.unstrided)
        within(0, CHANNELS, widen=self.widen)
        within(1e-3, PIXELS, box_scale=self.box_scale, box_sizes=self.box_sizes, box_steps=self.box_steps)
        within(1e-3, PIXELS, box_limit=self.box_limit, lengths=self.lengths)
        within(1e-3, 1e3, aspect_ratios=self.aspect_ratios, end_aspect_ratios=self.end_aspect_ratios)

    def build(self, num_classes: int, pretrained: bool = False) -> SSD:
        from boxwright.detectors.ssd import build

        return _for_classes(num_classes, build(self, num_classes, pretrained))


@dataclass(frozen=True)
class RetinaNetConfig(DenseFields, DetectorConfig):
    """The numbers of a RetinaNet."""

    UNREAD = (_GIVEN_ANCHORS, Unread("head_norm", "none", ("group_channels",)))

    extra_from: Literal["pyramid", "backbone"] = "pyramid"
    """Where the two levels behind the backbone's come from: the pyramid's coarsest map, or the backbone's (paper)."""
    head_norm: Literal["group", "none"] = "group"
    """What follows the convolutions of the heads; the paper has none, and learns more slowly at first."""
    anchor_scales: tuple[float, ...] = (2.5, 2.5 * 2 ** (1 / 3), 2.5 * 2 ** (2 / 3))
    """Sides of the anchors in strides of their level; the paper has 4 in place of 2.5, for images of 800 px."""
    anchor_sizes: tuple[float, ...] = ()
    """The same in pixels, level by level, equally many on each; () takes `anchor_scales`."""
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height over width of the anchors."""
    class_agnostic: bool = True
    """One box prediction for all classes rather than one per class."""
    assignment: Literal["max_iou", "atss", "task_aligned"] = "max_iou"
    """Which anchors learn an object: those of IoU .5 and more (the paper); those of more IoU than most of the nearest
    (atss); or those that predict its class and its box best (task_aligned)."""
    box_loss: Literal["smooth_l1", "giou"] = "smooth_l1"
    """Smooth L1 of the deltas (the paper), or 1 - GIoU of the boxes."""

    def check(self) -> None:
        check_anchors(self.anchor_scales, self.anchor_sizes, self.aspect_ratios)

    def build(self, num_classes: int, pretrained: bool = False) -> RetinaNet:
        from boxwright.detectors.retinanet import build

        return _for_classes(num_classes, build(self, num_classes, pretrained))


@dataclass(frozen=True)
class FCOSConfig(DenseFields, DetectorConfig):
    """The numbers of an FCOS."""

    UNREAD = tuple(
        Unread("assignment", choice, ("center_sampling_radius", "regress_range")) for choice in ("atss", "task_aligned")
    )

    score_threshold: tuple[float, ...] = (0.1,)
    """A detection scores more than this: one number, or one for each class in order."""
    distances: Literal["exp", "relu"] = "exp"
    """What makes numbers distances in strides: exp (the paper), or relu (torchvision)."""
    level_scales: bool = True
    """Learn a factor per level on these numbers; torchvision has none."""
    offset: float = 0.5
    """Where in its cell a point lies: 0.5 the middle, 0 the top left corner (torchvision)."""
    center_sampling_radius: float = 1.5
    """Points within this many strides of the middle of an object learn it; inf takes all inside."""
    regress_range: float = 8.0
    """The farthest side of an object that a level learns, in strides."""
    weight_by_centerness: bool = True
    """Weigh the box loss by centre-ness, as the authors' code does; the paper's formula and torchvision do not."""
    assignment: Literal["center", "atss", "task_aligned"] = "center"
    """Which points learn an object: those near its middle on the level for its size (the paper); those whose cells,
    four times as large, have more IoU with it than most of the nearest (atss); or those that predict its class and its
    box best (task_aligned)."""

    def check(self) -> None:
        within(0, 1, offset=self.offset)
        within(0, float("inf"), center_sampling_radius=self.center_sampling_radius, regress_range=self.regress_range)

    def build(self, num_classes: int, pretrained: bool = False) -> FCOS:
        from boxwright.detectors.fcos import build

        return _for_classes(num_classes, build(self, num_classes, pretrained))


@dataclass(frozen=True)
class RPNConfig(RPNFields, DetectorConfig):
    """The numbers of a region proposal network: those of a Faster R-CNN up to its proposals, which it detects."""

    UNREAD = (Unread("variant", "c4", ("levels", "channels")), Unread("variant", "dc5", ("levels", "channels")),
              _GIVEN_ANCHORS)  # fmt: skip

    def build(self, num_classes: int = 1, pretrained: bool = False) -> RPN:
        from boxwright.detectors.rpn import build

        return build(self, num_classes, pretrained)


DETECTORS: dict[str, type[DetectorConfig]] = {
    "localizer": LocalizerConfig,
    "sliding_window": SlidingWindowConfig,
    "rcnn": RCNNConfig,
    "spp_net": SPPNetConfig,
    "fast_rcnn": FastRCNNConfig,
    "faster_rcnn": FasterRCNNConfig,
    "r_fcn": RFCNConfig,
    "ssd": SSDConfig,
    "retinanet": RetinaNetConfig,
    "fcos": FCOSConfig,
}
"""All detectors by name, in the order of invention; then those that are registered."""

KINDS: dict[str, type[DetectorConfig]] = {**DETECTORS, "rpn": RPNConfig}
"""All that a checkpoint may hold: the detectors, and the region proposal network, which has a single class."""


_OURS = frozenset(KINDS)

AnyConfig = TypeVar("AnyConfig", bound=type[DetectorConfig])


@overload
def register(name: str) -> Callable[[AnyConfig], AnyConfig]: ...


@overload
def register(name: str, config: AnyConfig) -> AnyConfig: ...


def register(name: str, config: Any = None) -> Any:
    """Make a detector of your own known by name: to `boxwright train NAME`, to `bench`, and to its checkpoints.

    name    lower-case letters, digits and _; no detector of boxwright has it
    config  a frozen dataclass below `DetectorConfig`, with a default for every field, whose `build` makes the detector.
            Its fields are the options of the command, and what a checkpoint stores. Without it, the result decorates a
            config: `@register("mine")`

    A name that its module registers again has the new config, as when a notebook's cell is run twice. Raises ValueError
    for a name of boxwright's own or of another module.
    """
    if config is None:
        return lambda config: register(name, config)
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise ValueError(f"a detector's name has lower-case letters, digits and _, got {name!r}")
    if not (isinstance(config, type) and issubclass(config, DetectorConfig) and "__dataclass_fields__" in vars(config)):
        raise ValueError(
            f"expected a config to register as {name!r}: a class below DetectorConfig with @dataclass(frozen=True); "
            f"got {config!r}. The detector itself is made by its build(num_classes, pretrained)"
        )
    lacking = [f.name for f in fields(config) if f.default is MISSING]
    if lacking:
        raise ValueError(f"every field of {config.__name__} needs a default value; {', '.join(lacking)} has none")
    plugins.claim("detector", name, name in _OURS)
    DETECTORS[name] = KINDS[name] = config
    return config


def kind_of(config: type) -> str:
    """The name in `KINDS` of a config's class; the name of the class where it is not there."""
    return next((name for name, kind in KINDS.items() if kind is config), config.__name__)


def name_of(config: object) -> str:
    """The name in `KINDS` of a config. Raises ValueError for anything else."""
    if type(config) not in KINDS.values():
        raise ValueError(
            f"expected the config of one of {', '.join(KINDS)}, got a {type(config).__name__}; "
            "boxwright.register(NAME, CONFIG) makes one of your own known"
        )
    return kind_of(type(config))


def readers_of(option: str) -> list[str]:
    """The detectors that read an option, such as "fast_rcnn (variant fpn or dc5)", in the order of `KINDS`."""
    readers = []
    for name, kind in KINDS.items():
        if option not in defaults_of(kind):
            continue
        excluded: dict[str, list[str | None]] = {}
        for other, value, options in kind.UNREAD:
            if option in options:
                excluded.setdefault(other, []).append(value)
        conditions = [
            f"without {other}" if None in values
            else f"{other} {either(value for value in choices_of(kind)[other] if value not in values)}"
            for other, values in excluded.items()
        ]  # fmt: skip
        readers.append(f"{name} ({', '.join(conditions)})" if conditions else name)
    return readers


def not_read(option: str, reader: str) -> str:
    """The message for an option that `reader` does not read: it names the detectors that do."""
    readers = ", ".join(readers_of(option))
    return f"{option} is not read by {reader}; " + (f"it is read by {readers}" if readers else "no detector reads it")
