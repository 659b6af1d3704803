"""What a training takes where the user names nothing: input size, anchors and batch; and why."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from boxwright.boxes.anchors import AnchorGrid, DefaultBoxes, Tiling, anchor_sizes
from boxwright.data.dataset import Dataset
from boxwright.data.preprocess import Preprocess
from boxwright.detectors.anchor_stage import AnchorStage
from boxwright.detectors.config import (
    DetectorConfig,
    FasterRCNNConfig,
    RCNNConfig,
    RetinaNetConfig,
    RFCNConfig,
    SSDConfig,
)
from boxwright.detectors.fields import BackboneFields, LearningBackbone, defaults_of
from boxwright.types import Size

Anchored = FasterRCNNConfig | RFCNConfig | RetinaNetConfig | SSDConfig
"""The configs that have sizes and shapes of anchors as options."""

USUAL_SIZE = Preprocess(short=320, long=416)

_ZOOMS = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0)  # of the sides of resized images: four times the area at most
_CELLS = 2  # of the finest map: a quarter of the objects may have fewer a side
_FINEST = 8  # pixels from cell to cell, at most, of a map that is meant to show small objects

_UNCOVERED = 0.15  # of the objects may have no anchor of IoU .5
_GAIN = 0.05  # of the objects get one by another size or shape; it is not added for fewer
_CHANGES = 3  # at most
_STEP = 0.7  # from one anchor to the next smaller one
_SAMPLE = 5000  # boxes that are compared with anchors
_ANCHORS = {"anchor_scales", "anchor_sizes", "aspect_ratios", "box_scale", "box_sizes", "box_limit",
            "end_aspect_ratios", "convention"}  # fmt: skip
_FROZEN = {"frozen_stages", "norm"}

_BATCHES = (8, 4, 2)
_MEMORY = 0.6  # of the free memory is for what a step keeps of its images
_AMPLE = 16e9  # bytes for eight images of the usual size
_PEAK = 1.7  # bytes at the peak of a step for each byte that is kept for the backward pass

USUAL_BATCH = _BATCHES[0]


class Chosen(NamedTuple):
    """`reasons` has a line for each of "size", "anchors" and "frozen" that was chosen, if only the usual one."""

    preprocess: Preprocess
    config: DetectorConfig
    reasons: dict[str, str]


def choose(
    train: Dataset, config: DetectorConfig, preprocess: Preprocess = USUAL_SIZE, given: Collection[str] = (),
    pretrained: bool = True,
) -> Chosen:  # fmt: skip
    """The input size and the anchors that suit the boxes of a train split, and how much of the backbone learns.

    The result depends on the arguments alone.

    preprocess  of the usual size
    pretrained  the backbone starts from weights that are worth keeping, rather than from random ones
    given       options that are kept, such as {"size", "box_scale"}; so are anchors of which any option differs from
                its default
    """
    reasons = {}
    if "size" not in given:
        finest = 2 ** config.levels[0] if isinstance(config, BackboneFields) else _FINEST
        preprocess, reasons["size"] = choose_size(train, preprocess, min(finest, _FINEST))
    usual = defaults_of(type(config))
    changed = {option for option in usual if getattr(config, option) != usual[option]}
    by_overlap = getattr(config, "assignment", "max_iou") == "max_iou"  # others need no anchor of IoU .5
    if isinstance(config, Anchored) and by_overlap and not _ANCHORS & {*given, *changed}:
        config, reasons["anchors"] = choose_anchors(config, _resized(train, preprocess))
    if isinstance(config, LearningBackbone) and not pretrained and not _FROZEN & {*given, *changed}:
        config = replace(config, frozen_stages=0, norm="batch")
        reasons["frozen"] = (
            "--frozen-stages 0 --norm batch: the backbone starts from random weights, so all of it learns"
        )
    return Chosen(preprocess, config, reasons)


def choose_size(train: Dataset, usual: Preprocess = USUAL_SIZE, finest: int = _FINEST) -> tuple[Preprocess, str]:
    """The smallest size that shows three quarters of the objects at least two cells of the finest map across.

    usual   the least
    finest  pixels from cell to cell of that map

    None is larger than the images, as that shows no more, nor above four times the usual area, as time grows with it.
    """
    if train.crowd.all():
        return usual, f"--size {_of(usual)}: there is no object to choose by"
    across, image = [], Size(*np.median(train.sizes, axis=0).astype(int).tolist())
    for zoom in _ZOOMS:
        chosen = usual.with_sides(*(32 * round(zoom * side / 32) for side in usual.sides)) if zoom > 1 else usual
        boxes = _resized(train, chosen)
        across.append(float(np.quantile(np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1)), 0.25)))
        if across[-1] >= _CELLS * finest or chosen.size(image).height >= image.height:
            break
    if chosen == usual:
        return usual, f"--size {_of(usual)}: a quarter of the objects are under {across[0]:.0f} pixels across there"
    larger, smaller = (np.prod(size.canvas([size.size(image)])) for size in (chosen, usual))
    return chosen, (
        f"--size {_of(chosen)}: a quarter of the objects are under {across[-1]:.0f} pixels across there, and under "
        f"{across[0]:.0f} at {_of(usual)}, where a step takes about 1/{larger / smaller:.1f} of the time"
    )


def choose_anchors(config: Anchored, boxes: np.ndarray) -> tuple[Anchored, str]:
    """The config with further sizes and shapes of anchors (SSD: other sizes), if many objects have none of IoU .5.

    boxes  (M, 4) xyxy in pixels of resized images
    """
    boxes = boxes[np.linspace(0, len(boxes) - 1, min(len(boxes), _SAMPLE)).round().astype(int)]
    usual, anchors = config, _anchors_of(config)
    before = share = uncovered(boxes, anchors)
    for _ in range(_CHANGES):
        if share <= _UNCOVERED:
            break
        variants = list(_variants(config, anchors))
        shares = [uncovered(boxes, other) for _, other in variants]
        if min(shares) > share - _GAIN:
            break
        share = min(shares)
        config, anchors = variants[shares.index(share)]
    without = f"{before:.0%} of the objects have none of IoU .5"
    if config == usual:
        return config, f"the usual anchors: {without}"
    changed = {option: value for option, value in vars(config).items() if value != getattr(usual, option)}
    words = " ".join(f"--{option.replace('_', '-')} {_numbers(value)}" for option, value in changed.items())
    return config, f"{words}: with the usual anchors {without}, with these {share:.0%}"


def uncovered(boxes: np.ndarray, anchors: Tiling) -> float:
    """The fraction of boxes (M, 4) to which no anchor of the nearest cell of any level has an IoU of .5; 0 of none."""
    middles, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]  # (M, 2)
    best = np.zeros(len(boxes))
    for level, stride in enumerate(anchors.strides):
        cells = np.maximum(np.round(middles / stride - anchors.offset), 0)
        away = np.abs(middles - (cells + anchors.offset) * stride)
        for extent in anchors.extents(level):
            anchor = 2 * np.array(extent)
            common = np.minimum(np.minimum(sides, anchor), (sides + anchor) / 2 - away).clip(0).prod(axis=1)
            best = np.maximum(best, common / (sides.prod(axis=1) + anchor.prod() - common))
    return float((best < 0.5).mean()) if len(boxes) else 0.0


def is_ample(free: int | None, config: DetectorConfig, preprocess: Preprocess) -> bool:
    """Whether so many bytes are free that eight images fit with any backbone of this library: no step is measured then.

    An R-CNN, which keeps its warped regions too, and backbones from elsewhere are measured.
    """
    area = float(np.prod(preprocess.sides)) / float(np.prod(USUAL_SIZE.sides))
    unknown = isinstance(config, RCNNConfig) or "timm" in getattr(config, "backbone", "timm")
    return free is not None and free >= _AMPLE * area and not unknown


def choose_batch(kept: float | None, free: int | None) -> tuple[int, str]:
    """The largest of the batches 8, 4 and 2 that fits into memory, 2 if none does.

    kept  bytes that a step keeps of an image for its backward pass (`estimate.kept_per_image`); None where `free` is
          ample
    free  bytes of memory; None where that is not known
    """
    if free is None:
        return USUAL_BATCH, f"--batch {USUAL_BATCH}: how much memory is free is not known on this system"
    if kept is None:
        return USUAL_BATCH, f"--batch {USUAL_BATCH}: {free / 1e9:.1f} GB of memory are free"
    batch = next((batch for batch in _BATCHES if batch * kept * _PEAK <= _MEMORY * free), _BATCHES[-1])
    return batch, f"--batch {batch}: takes about {batch * kept * _PEAK / 1e9:.1f} of {free / 1e9:.1f} GB of free memory"


def _of(size: Preprocess) -> str:
    return _numbers(size.sides)


def _numbers(value: float | tuple[float, ...]) -> str:
    """As on the command line."""
    return " ".join(f"{number:g}" for number in (value if isinstance(value, tuple) else (value,)))


def _resized(train: Dataset, preprocess: Preprocess) -> np.ndarray:
    """The boxes of objects in pixels of resized images, (M, 4)."""
    sizes, images = np.unique(train.sizes, axis=0, return_inverse=True)
    scales = np.array([preprocess.size(Size(*size)) for size in sizes.tolist()]) / sizes  # (S, 2), of height and width
    of_boxes = scales[images.reshape(-1)[train.owners()[~train.crowd]]]
    return train.boxes[~train.crowd] * of_boxes[:, [1, 0, 1, 0]]


def _anchors_of(config: Anchored) -> Tiling:
    anchors = next(module.anchors for module in config.build(1).modules() if isinstance(module, AnchorStage))
    assert isinstance(anchors, Tiling)
    return anchors


def _variants(config: Anchored, anchors: Tiling) -> Iterator[tuple[Anchored, Tiling]]:
    """With smaller anchors, with larger ones, and with longer ones that lie and stand."""
    if isinstance(config, SSDConfig):
        assert isinstance(anchors, DefaultBoxes)
        for factor in (_STEP, 1 / _STEP):
            scale = round(factor * config.box_scale, 2)
            sizes = tuple(size * scale / config.box_scale for size in anchors.sizes)
            yield replace(config, box_scale=scale), replace(anchors, sizes=sizes)
        middle, ends = config.aspect_ratios, config.end_aspect_ratios
        longer = round(max(*middle, *ends) / _STEP, 2)
        yield (
            replace(config, aspect_ratios=(*middle, longer), end_aspect_ratios=(*ends, longer)),
            replace(anchors, ratios=tuple((*ratios, longer) for ratios in anchors.ratios)),
        )
        return
    assert isinstance(anchors, AnchorGrid)
    scales = tuple(round(size / anchors.strides[0], 2) for size in anchors.sizes[0])
    smaller, larger = round(_STEP * min(scales), 2), round(max(scales) / _STEP, 2)
    for more in ((smaller, *scales), (*scales, larger)):
        yield replace(config, anchor_scales=more), replace(anchors, sizes=anchor_sizes(anchors.strides, more))
    longer = round(max(anchors.ratios) / _STEP**2, 2)
    ratios = (round(1 / longer, 2), *anchors.ratios, longer)
    yield replace(config, aspect_ratios=ratios), replace(anchors, ratios=ratios)
