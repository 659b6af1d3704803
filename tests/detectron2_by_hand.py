"""An independent implementation of Detectron2's detectors from their definitions, as a reference for tests.

Detectron2 does not install everywhere, so these are plain functions of a state dict in its names, on BGR images.
https://github.com/facebookresearch/detectron2: modeling/backbone/{resnet,fpn}.py, anchor_generator.py,
box_regression.py, poolers.py, proposal_generator/proposal_utils.py, roi_heads/fast_rcnn.py, meta_arch/retinanet.py,
postprocessing.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.ops import batched_nms, roi_align

State = dict[str, Tensor]
CLASSES = 20
SIZES = (32, 64, 128, 256, 512)
MEAN = torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1)  # blue, green, red
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
ONE_MAP = ("C4", "DC5", "RPN_C4")
PRE_NMS_TOP_K = {"C4": 6000, "DC5": 6000, "RPN_C4": 12000}
SHORT, LONG, PROPOSALS = 192, 320, 64  # small, for speed


def network(prefix: str, depth: int = 50, last: int = 5, first: int = 2, groups: int = 1, width: int = 64):
    """Names and shapes of a ResNet's tensors from stage res`first` to res`last`, with the stem if res2 is included."""

    def conv(name: str, out: int, into: int, kernel: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", (out, into, kernel, kernel)
        for tensor in NORM:
            yield f"{name}.norm.{tensor}", (out,)

    if first == 2:
        yield from conv(f"{prefix}stem.conv1", 64, 3, 7)
    channels = 64 if first == 2 else 128 * 2 ** (first - 2)
    for stage in range(first, last + 1):
        out, middle = 256 * 2 ** (stage - 2), groups * width * 2 ** (stage - 2)
        for block in range(BLOCKS[depth][stage - 2]):
            name = f"{prefix}res{stage}.{block}"
            if not block:
                yield from conv(f"{name}.shortcut", out, channels, 1)
            yield from conv(f"{name}.conv1", middle, channels, 1)
            yield from conv(f"{name}.conv2", middle, middle // groups, 3)
            yield from conv(f"{name}.conv3", out, middle, 1)
            channels = out


def layer(name: str, out: int, into: int, *kernel: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (out, into, *kernel)
    yield f"{name}.bias", (out,)


def shapes(
    kind: str, depth: int = 50, num_classes: int = CLASSES, hidden: int = 1024, groups: int = 1, width: int = 64
):
    """Names and shapes of all tensors of a model of the zoo.

    kind  C4, DC5, FPN, fast (FPN without a proposer), RPN, RPN_C4 or retinanet
    """
    pyramid = kind not in ONE_MAP
    options = {"depth": depth, "groups": groups, "width": width}
    yield from network(
        "backbone.bottom_up." if pyramid else "backbone.", last=4 if kind in ("C4", "RPN_C4") else 5, **options
    )
    for stage in range(3 if kind == "retinanet" else 2, 6) if pyramid else ():
        yield from layer(f"backbone.fpn_lateral{stage}", 256, 256 * 2 ** (stage - 2), 1, 1)
        yield from layer(f"backbone.fpn_output{stage}", 256, 256, 3, 3)
    if kind == "retinanet":
        yield from layer("backbone.top_block.p6", 256, 2048, 3, 3)
        yield from layer("backbone.top_block.p7", 256, 256, 3, 3)
        for tower in ("cls", "bbox"):
            for index in (0, 2, 4, 6):
                yield from layer(f"head.{tower}_subnet.{index}", 256, 256, 3, 3)
        yield from layer("head.cls_score", 9 * num_classes, 256, 3, 3)
        yield from layer("head.bbox_pred", 9 * 4, 256, 3, 3)
        return
    channels, cell = {"C4": (1024, 15), "RPN_C4": (1024, 15), "DC5": (2048, 15)}.get(kind, (256, 3))
    if kind != "fast":
        yield from layer("proposal_generator.rpn_head.conv", channels, channels, 3, 3)
        yield from layer("proposal_generator.rpn_head.objectness_logits", cell, channels, 1, 1)
        yield from layer("proposal_generator.rpn_head.anchor_deltas", 4 * cell, channels, 1, 1)
    if kind.startswith("RPN"):
        return
    if kind == "C4":
        hidden = 2048
        yield from network("roi_heads.", first=5)
    else:
        yield from layer("roi_heads.box_head.fc1", hidden, channels * 49)
        yield from layer("roi_heads.box_head.fc2", hidden, hidden)
    yield from layer("roi_heads.box_predictor.cls_score", num_classes + 1, hidden)
    yield from layer("roi_heads.box_predictor.bbox_pred", 4 * num_classes, hidden)


def convolve(state: State, name: str, x: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """A convolution with "same" padding, and its frozen batch norm if it has one."""
    weight = state[f"{name}.weight"]
    pad = dilation * (weight.shape[-1] // 2)
    x = F.conv2d(x, weight, state.get(f"{name}.bias"), stride, pad, dilation)
    if f"{name}.norm.weight" not in state:
        return x
    scale, shift, mean, variance = (state[f"{name}.norm.{tensor}"] for tensor in NORM)
    return F.batch_norm(x, mean, variance, scale, shift, eps=1e-5)


NORM = ("weight", "bias", "running_mean", "running_var")


def stage_of(state: State, name: str, x: Tensor, stride: int, dilation: int = 1) -> Tensor:
    """Bottlenecks that stride in their first 1x1 convolution."""
    block = 0
    while f"{name}.{block}.conv1.weight" in state:
        here, step = f"{name}.{block}", 1 if block else stride
        y = convolve(state, f"{here}.conv1", x, step).relu()
        y = convolve(state, f"{here}.conv2", y, dilation=dilation).relu()
        y = convolve(state, f"{here}.conv3", y)
        x = (y + (x if block else convolve(state, f"{here}.shortcut", x, step))).relu()
        block += 1
    return x


def backbone(state: State, kind: str, pixels: Tensor) -> list[Tensor]:
    """BGR pixels (N, 3, H, W) minus their mean to the feature maps of the heads."""
    prefix = "backbone." if kind in ONE_MAP else "backbone.bottom_up."
    x = convolve(state, f"{prefix}stem.conv1", pixels, 2).relu()
    maps = [stage_of(state, f"{prefix}res2", F.max_pool2d(x, 3, 2, 1), 1)]
    for stage in (3, 4) if kind in ("C4", "RPN_C4") else (3, 4, 5):
        dilated = kind == "DC5" and stage == 5
        maps.append(stage_of(state, f"{prefix}res{stage}", maps[-1], 1 if dilated else 2, 2 if dilated else 1))
    if kind in ONE_MAP:
        return maps[-1:]
    first, coarser, pyramid = (3 if kind == "retinanet" else 2), None, []
    for stage in range(5, first - 1, -1):
        upsampled = 0 if coarser is None else F.interpolate(coarser, scale_factor=2, mode="nearest")
        coarser = convolve(state, f"backbone.fpn_lateral{stage}", maps[stage - 2]) + upsampled
        pyramid.insert(0, convolve(state, f"backbone.fpn_output{stage}", coarser))
    if kind != "retinanet":
        return [*pyramid, F.max_pool2d(pyramid[-1], 1, 2)]
    p6 = convolve(state, "backbone.top_block.p6", maps[-1], 2)
    return [*pyramid, p6, convolve(state, "backbone.top_block.p7", p6.relu(), 2)]


def anchors(features: Tensor, stride: int, sizes: tuple[float, ...]) -> Tensor:
    """In the order of rows, columns, sizes, ratios; the first is centred on the image's corner."""
    cell = []
    for size in sizes:
        for ratio in (0.5, 1.0, 2.0):
            width = math.sqrt(size**2 / ratio)
            cell.append([-width / 2, -ratio * width / 2, width / 2, ratio * width / 2])
    y, x = (torch.arange(side) * float(stride) for side in features.shape[2:])
    y, x = torch.meshgrid(y, x, indexing="ij")
    corners = torch.stack((x, y, x, y), dim=-1).reshape(-1, 1, 4)
    return (corners + torch.tensor(cell)).reshape(-1, 4)


def by_anchor(output: Tensor, numbers: int) -> Tensor:
    """(1, A * numbers, h, w) to (h * w * A, numbers)."""
    _, channels, height, width = output.shape
    return output.view(channels // numbers, numbers, height, width).permute(2, 3, 0, 1).reshape(-1, numbers)


def decode(deltas: Tensor, boxes: Tensor, weights: tuple[float, ...] = (1, 1, 1, 1)) -> Tensor:
    """Deltas (..., 4) of boxes (..., 4)."""
    extent = boxes[..., 2:] - boxes[..., :2]
    centre = boxes[..., :2] + 0.5 * extent
    moved = deltas / torch.tensor(weights)
    centre = moved[..., :2] * extent + centre
    extent = moved[..., 2:].clamp(max=math.log(1000 / 16)).exp() * extent
    return torch.cat((centre - 0.5 * extent, centre + 0.5 * extent), dim=-1)


def clip(boxes: Tensor, height: int, width: int) -> Tensor:
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack((x[..., 0], y[..., 0], x[..., 1], y[..., 1]), dim=-1)


def nonempty(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


class Outputs(NamedTuple):
    """Outputs of a head for the anchors of a level, or for regions."""

    logits: Tensor  # (A, L)
    deltas: Tensor  # (A, B)


class Detected(NamedTuple):
    boxes: Tensor
    scores: Tensor
    labels: Tensor


def rpn(state: State, maps: list[Tensor]) -> list[Outputs]:
    name, outputs = "proposal_generator.rpn_head", []
    for features in maps:
        x = convolve(state, f"{name}.conv", features).relu()
        logits = by_anchor(convolve(state, f"{name}.objectness_logits", x), 1)
        outputs.append(Outputs(logits, by_anchor(convolve(state, f"{name}.anchor_deltas", x), 4)))
    return outputs


def propose(outputs: list[Outputs], anchors: list[Tensor], size: tuple[int, int], top_k: int) -> Detected:
    """The best `top_k` of each level, NMS within each level, and the best of all levels."""
    kept = []
    for level, ((logits, deltas), boxes) in enumerate(zip(outputs, anchors, strict=True)):
        best = logits[:, 0].topk(min(top_k, len(logits)))
        kept.append(
            (decode(deltas[best.indices], boxes[best.indices]), best.values, torch.full_like(best.indices, level))
        )
    found = Detected(*(torch.cat(column) for column in zip(*kept, strict=True)))
    found = found._replace(boxes=clip(found.boxes, *size))
    found = Detected(*(column[nonempty(found.boxes)] for column in found))
    return Detected(*(column[batched_nms(*found, 0.7)[:PROPOSALS]] for column in found))


def pool(maps: list[Tensor], boxes: Tensor, cells: int) -> Tensor:
    """Each region from the map of its size; a single map has stride 16."""
    if len(maps) == 1:
        return roi_align(maps[0], [boxes], cells, 1 / 16, 0, aligned=True)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    level = (4 + (area.sqrt() / 224 + torch.finfo(torch.float64).eps).log2()).floor().clamp(2, 5)
    pooled = boxes.new_zeros(len(boxes), maps[0].shape[1], cells, cells)
    for stage, features in enumerate(maps[:4], start=2):
        pooled[level == stage] = roi_align(features, [boxes[level == stage]], cells, 0.5**stage, 0, aligned=True)
    return pooled


def hidden_of(state: State, maps: list[Tensor], boxes: Tensor) -> Tensor:
    """The features of each region before the last layers."""
    if "roi_heads.box_head.fc1.weight" not in state:
        return stage_of(state, "roi_heads.res5", pool(maps, boxes, 14), 2).mean((2, 3))
    x = pool(maps, boxes, 7).flatten(1)
    for name in ("roi_heads.box_head.fc1", "roi_heads.box_head.fc2"):
        x = F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"]).relu()
    return x


def regions(state: State, maps: list[Tensor], boxes: Tensor) -> Outputs:
    x, name = hidden_of(state, maps, boxes), "roi_heads.box_predictor"
    layers = (f"{name}.cls_score", f"{name}.bbox_pred")
    return Outputs(*(F.linear(x, state[f"{last}.weight"], state[f"{last}.bias"]) for last in layers))


def classify(outputs: Outputs, boxes: Tensor, size: tuple[int, int]) -> Detected:
    """All (region, class) pairs with a score above 0.05, with NMS per class; the last column is background."""
    scores = outputs.logits.softmax(-1)[:, :-1]
    moved = clip(decode(outputs.deltas.view(len(boxes), -1, 4), boxes[:, None], (10, 10, 5, 5)), *size)
    region, label = (scores > 0.05).nonzero(as_tuple=True)
    found = Detected(moved[region, label], scores[region, label], label)
    found = Detected(*(column[batched_nms(*found, 0.5)[:100]] for column in found))
    return Detected(*(column[nonempty(found.boxes)] for column in found))


def dense(state: State, maps: list[Tensor]) -> list[Outputs]:
    """RetinaNet's heads."""
    outputs = []
    for features in maps:
        of_level = []
        for tower, name, numbers in (("cls_subnet", "cls_score", CLASSES), ("bbox_subnet", "bbox_pred", 4)):
            x = features
            for index in (0, 2, 4, 6):
                x = convolve(state, f"head.{tower}.{index}", x).relu()
            of_level.append(by_anchor(convolve(state, f"head.{name}", x), numbers))
        outputs.append(Outputs(*of_level))
    return outputs


def single(outputs: list[Outputs], anchors: list[Tensor], size: tuple[int, int]) -> Detected:
    """The best thousand of each level above 0.05, with NMS per class before clipping."""
    kept = []
    for (logits, deltas), boxes in zip(outputs, anchors, strict=True):
        scores = logits.flatten().sigmoid()
        above = (scores > 0.05).nonzero()[:, 0]
        best = scores[above].sort(descending=True)
        chosen = above[best.indices[:1000]]
        row = chosen // CLASSES
        kept.append((decode(deltas[row], boxes[row]), best.values[:1000], chosen % CLASSES))
    found = Detected(*(torch.cat(column) for column in zip(*kept, strict=True)))
    found = Detected(*(column[batched_nms(*found, 0.5)[:100]] for column in found))
    found = found._replace(boxes=clip(found.boxes, *size))
    return Detected(*(column[nonempty(found.boxes)] for column in found))


class Reference:
    """A model; its intermediate results stay as attributes, to be compared."""

    def __init__(self, kind: str, state: State) -> None:
        self.kind, self.state = kind, state
        self.strides = (8, 16, 32, 64, 128) if kind == "retinanet" else (4, 8, 16, 32, 64)
        self.strides = (16,) if kind in ONE_MAP else self.strides
        self.maps: list[Tensor] = []
        self.outputs: list[Outputs] = []
        self.proposals = torch.zeros(0, 4)

    def __call__(self, pixels: Tensor, size: tuple[int, int], proposals: Tensor | None = None) -> Detected:
        """BGR pixels (1, 3, H, W) minus their mean, padded with zeros, of an image of `size`."""
        self.maps = backbone(self.state, self.kind, pixels)
        if proposals is None:
            boxes = self.anchors()
            if self.kind == "retinanet":
                self.outputs = dense(self.state, self.maps)
                return single(self.outputs, boxes, size)
            self.outputs = rpn(self.state, self.maps)
            found = propose(self.outputs, boxes, size, PRE_NMS_TOP_K.get(self.kind, 1000))
            if self.kind.startswith("RPN"):
                self.proposals = found.boxes
                return Detected(found.boxes, found.scores.sigmoid(), torch.zeros_like(found.labels))
            proposals = found.boxes
        self.proposals = proposals
        self.regions = regions(self.state, self.maps, proposals)
        return classify(self.regions, proposals, size)

    def anchors(self) -> list[Tensor]:
        thirds = [tuple(size * 2 ** (third / 3) for third in range(3)) for size in SIZES]
        sizes = [SIZES] if len(self.maps) == 1 else thirds if self.kind == "retinanet" else [(size,) for size in SIZES]
        return [anchors(*level) for level in zip(self.maps, self.strides, sizes, strict=True)]


def prepare(image: np.ndarray, divisor: int) -> tuple[Tensor, tuple[int, int]]:
    """RGB uint8 (H, W, 3) to the reference's input: ResizeShortestEdge, BGR, mean subtracted, padded with zeros."""
    height, width = image.shape[:2]
    scale = SHORT / min(height, width)
    sides = (SHORT, scale * width) if height < width else (scale * height, SHORT)
    if max(sides) > LONG:
        sides = tuple(side * (LONG / max(sides)) for side in sides)
    height, width = (int(side + 0.5) for side in sides)
    resized = np.asarray(Image.fromarray(image[:, :, ::-1].copy()).resize((width, height), Image.Resampling.BILINEAR))
    pixels = torch.from_numpy(resized.astype("float32")).permute(2, 0, 1) - MEAN
    pad = (0, -width % divisor, 0, -height % divisor)
    return F.pad(pixels, pad)[None], (height, width)
