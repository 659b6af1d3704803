"""Detectron2's detectors, as implemented in `detectron2_by_hand`, against those here with the same weights.

The weights are random, the heads scaled so that their outputs vary over positions and classes.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.data.batch import to_images
from boxwright.data.preprocess import Preprocess
from boxwright.types import Detections, Images, Slots
from boxwright.zoo import detectron2
from boxwright.zoo.proof import compare
from detectron2_by_hand import (
    CLASSES,
    LONG,
    ONE_MAP,
    PROPOSALS,
    SHORT,
    Reference,
    State,
    backbone,
    clip,
    dense,
    prepare,
    propose,
    regions,
    rpn,
    shapes,
)


def random_state(kind: str, **options: Any) -> State:
    """Seeded weights that preserve the scale of activations from layer to layer."""
    noise, state = np.random.default_rng(7), {}
    for name, shape in shapes(kind, **options):
        if name.endswith("norm.weight"):
            values = noise.uniform(0.1, 0.2, shape) if ".conv3." in name else noise.uniform(0.8, 1.2, shape)
        elif name.endswith("running_var"):
            values = noise.uniform(0.5, 1.5, shape)
        elif len(shape) == 1:
            values = 0.1 * noise.standard_normal(shape)
        else:
            values = noise.standard_normal(shape, dtype=np.float32) * math.sqrt(2 / math.prod(shape[1:]))
        state[name] = torch.from_numpy(np.asarray(values, dtype=np.float32))
    stem = next(name for name in state if name.endswith("stem.conv1.weight"))
    state[stem] /= 60  # the scale of pixels
    return state


def standardise(state: State, name: str, outputs: Tensor, mean: float | Tensor, deviation: float) -> None:
    """Make the columns of `outputs` (R, rows) of a layer have this mean and deviation."""
    scale = deviation / outputs.std(0).clamp(min=1e-6)
    weight = state[f"{name}.weight"]
    state[f"{name}.weight"] = weight * scale.view(-1, *[1] * (weight.ndim - 1))
    state[f"{name}.bias"] = (state[f"{name}.bias"] - outputs.mean(0)) * scale + mean


def calibrated(kind: str, image: np.ndarray, **options: Any) -> Reference:
    """A reference whose heads' outputs vary over positions and classes."""
    model = Reference(kind, random_state(kind, **options))
    pixels, size = prepare(image, 32)
    model.maps = backbone(model.state, kind, pixels)
    if kind == "retinanet":
        logits, deltas = (torch.cat(levels) for levels in zip(*dense(model.state, model.maps), strict=True))
        standardise(model.state, "head.cls_score", logits.view(-1, 9 * CLASSES), -6.0, 1.4)
        standardise(model.state, "head.bbox_pred", deltas.view(-1, 36), 0.0, 0.3)
        return model
    if kind == "fast":
        boxes = proposals_of(image)[:PROPOSALS]
    else:
        logits, deltas = (torch.cat(levels) for levels in zip(*rpn(model.state, model.maps), strict=True))
        cell = 15 if kind in ONE_MAP else 3
        name = "proposal_generator.rpn_head"
        standardise(model.state, f"{name}.objectness_logits", logits.view(-1, cell), 0.0, 2.0)
        standardise(model.state, f"{name}.anchor_deltas", deltas.view(-1, 4 * cell), 0.0, 0.2)
        if kind.startswith("RPN"):
            return model
        boxes = propose(rpn(model.state, model.maps), model.anchors(), size, 1000).boxes
    logits, deltas = regions(model.state, model.maps, boxes)
    background = torch.tensor([0.0] * CLASSES + [2.0])
    standardise(model.state, "roi_heads.box_predictor.cls_score", logits, background, 1.0)
    standardise(model.state, "roi_heads.box_predictor.bbox_pred", deltas, 0.0, 0.3)
    return model


def proposals_of(image: np.ndarray) -> Tensor:
    """Random boxes in the resized image."""
    _, (height, width) = prepare(image, 1)
    noise = torch.Generator().manual_seed(3)
    corner = torch.rand(PROPOSALS, 2, generator=noise) * torch.tensor([0.7 * width, 0.7 * height])
    extent = 16 + 120 * torch.rand(PROPOSALS, 2, generator=noise)
    return clip(torch.cat((corner, corner + extent), 1), height, width)


MODELS = {
    "FPN": "faster_rcnn_R_50_FPN_3x",
    "C4": "faster_rcnn_R_50_C4_3x",
    "DC5": "faster_rcnn_R_50_DC5_3x",
    "fast": "fast_rcnn_R_50_FPN_1x",
    "retinanet": "retinanet_R_50_FPN_3x",
    "RPN": "rpn_R_50_FPN_1x",
    "RPN_C4": "rpn_R_50_C4_1x",
}
NARROW = {"DC5": {"hidden": 64}}  # its first fully connected layer would have a hundred million weights


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    """Ten photographs of different sizes, RGB uint8."""
    data = pytest.importorskip("skimage.data", reason="scikit-image has the photographs")
    samples = pytest.importorskip("sklearn.datasets", reason="scikit-learn has two photographs")
    images = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket(), data.stereo_motorcycle()[0]]
    images += [data.hubble_deep_field(), data.immunohistochemistry(), data.retina()[200:1200, :700]]
    return [*images, *(np.asarray(image) for image in samples.load_sample_images().images)]


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest, photos: list[np.ndarray]) -> tuple[Reference, Any, Preprocess]:
    """The reference, the converted detector, and its preprocessing."""
    kind, num_classes = request.param, 1 if request.param.startswith("RPN") else CLASSES
    foreign = detectron2.foreign(f"detectron2:{MODELS[kind]}")
    options = NARROW.get(kind, {})
    with torch.inference_mode():
        model = calibrated(kind, photos[0], **options)
    config = (
        replace(foreign.config, **options)
        if kind == "retinanet"
        else replace(foreign.config, proposals=PROPOSALS, **options)
    )
    detector = config.build(num_classes).eval()
    assert detectron2.count_classes(model.state) == num_classes
    detector.load_state_dict(detectron2.convert(cast(Any, config), foreign.name, dict(model.state), num_classes))
    assert foreign.preprocess.short == 800 and foreign.preprocess.long == 1333
    return model, detector, replace(foreign.preprocess, short=SHORT, long=LONG)


def to_batch(images: list[np.ndarray], preprocess: Preprocess, kind: str) -> Images:
    resized = [preprocess(image)[0] for image in images]
    boxes = [proposals_of(image) for image in images] if kind == "fast" else None
    return to_images(resized, preprocess=preprocess, proposals=boxes)


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Within the tolerance times the mean magnitude."""
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * expected.abs().mean().clamp(min=1)


def original_order(values: Tensor, num_sizes: int) -> Tensor:
    """Values of anchors (A, ...), reordered in each cell from ratio, then size, to size, then ratio."""
    return values.unflatten(0, (-1, 3, num_sizes)).transpose(1, 2).flatten(0, 2)


@torch.inference_mode()
def test_layer_by_layer(pair, photos: list[np.ndarray]) -> None:
    reference, detector, preprocess = pair
    image = photos[1]
    images = to_batch([image], preprocess, reference.kind)
    proposals = proposals_of(image) if reference.kind == "fast" else None
    pixels, size = prepare(image, preprocess.divisor)
    reference(pixels, size, proposals)

    assert images.sizes.tolist() == [list(size)]
    mean = detector.features.mean
    torch.testing.assert_close((images.pixels - mean).flip(1), pixels, atol=1e-4, rtol=0)
    maps = detector.features(images.pixels)
    for actual, expected in zip(maps, reference.maps, strict=True):
        assert_close(actual, expected, 2e-5)
    stage = getattr(detector, "proposer", None) or getattr(detector, "anchors", None)
    if stage is not None:
        dense_outputs, sizes = stage(reference.maps), len(stage.anchors.sizes[0])
        assert_close(original_order(dense_outputs.anchors, sizes), torch.cat(reference.anchors()), 1e-5)
        assert_close(
            original_order(dense_outputs.logits[0], sizes),
            torch.cat([level.logits for level in reference.outputs]),
            2e-5,
        )
        assert_close(
            original_order(dense_outputs.deltas[0, :, 0], sizes),
            torch.cat([level.deltas for level in reference.outputs]),
            2e-5,
        )
    if reference.kind == "retinanet":
        return
    if stage is not None:
        found = stage.detect(dense_outputs, images.sizes)
        assert int(found.valid.sum()) == len(reference.proposals)
        torch.testing.assert_close(found.boxes[0], reference.proposals, atol=1e-3, rtol=0)
    if reference.kind.startswith("RPN"):
        return
    valid = torch.ones(1, PROPOSALS, dtype=torch.bool)
    given = Slots(reference.proposals[None], valid.float(), valid.long(), valid)
    logits, deltas = detector.regions(reference.maps, given.boxes)
    assert_close(logits[0], reference.regions.logits, 2e-5)
    assert_close(deltas[0].flatten(1), reference.regions.deltas, 2e-5)


@torch.inference_mode()
@pytest.mark.parametrize("together", [1, 3])
def test_same_boxes(pair, photos: list[np.ndarray], together: int, rows: list[tuple[object, ...]]) -> None:
    """One by one, and in batches, which Detectron2 also pads to the largest image."""
    reference, detector, preprocess = pair
    many = {"FPN": len(photos), "C4": 2}.get(reference.kind, 3)
    arrays = photos[: many if together == 1 else min(many, together)]
    count, box, score, labels = 0, 0.0, 0.0, set()
    for start in range(0, len(arrays), together):
        batch = arrays[start : start + together]
        images = to_batch(batch, preprocess, reference.kind)
        for image, found in zip(batch, detector.detect(images), strict=True):
            pixels, size = prepare(image, 1)
            height, width = images.pixels.shape[2:]
            pixels = F.pad(pixels, (0, width - pixels.shape[3], 0, height - pixels.shape[2]))
            expected = reference(pixels, size, proposals_of(image) if reference.kind == "fast" else None)
            assert len(found) == len(expected.boxes)
            torch.testing.assert_close(found.scores, expected.scores, atol=1e-5, rtol=0)  # ranks, but for ties
            expected = Detections(expected.boxes, expected.scores, expected.labels)
            pairs = compare("", together, expected, found)
            assert not pairs.unmatched
            box, score = max(box, pairs.box), max(score, pairs.score)
            count, labels = count + len(found), labels | set(found.labels.tolist())
    rows.append((MODELS[reference.kind], together, len(arrays), count, len(labels), f"{box:.1e}", f"{score:.1e}"))
    assert count > 24 * len(arrays) and (len(labels) > 5 or reference.kind.startswith("RPN"))
    assert box < 1e-3 and score < 1e-5


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("faster_rcnn_R_101_C4_3x", "C4", {"depth": 101}),
        ("faster_rcnn_R_101_DC5_3x", "DC5", {"depth": 101}),
        ("faster_rcnn_R_101_FPN_3x", "FPN", {"depth": 101}),
        ("faster_rcnn_X_101_32x8d_FPN_3x", "FPN", {"depth": 101, "groups": 32, "width": 8}),
        ("retinanet_R_101_FPN_3x", "retinanet", {"depth": 101}),
    ],
)
def test_every_tensor_of_the_deeper_models(name: str, kind: str, options: dict[str, int]) -> None:
    """Every tensor of the original is used, and every tensor of the detector is set."""
    state = {key: torch.full((1,), 2.0).expand(shape) for key, shape in shapes(kind, num_classes=80, **options)}
    foreign = detectron2.foreign(f"detectron2:{name}")
    assert detectron2.count_classes(state) == len(foreign.names) == 80
    converted = foreign.convert(state, 80)
    assert len(converted) == len(state)
    assert all(bool((value == 2).all()) for value in converted.values())
    assert sum(value.numel() for value in converted.values()) == sum(value.numel() for value in state.values())


def test_schedules_share_a_config() -> None:
    for name in detectron2.PUBLISHED:
        longer = name.replace("_1x", "_3x")
        if longer in detectron2.PUBLISHED:
            assert detectron2.configure(name) == detectron2.configure(longer)
