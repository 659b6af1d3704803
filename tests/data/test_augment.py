from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from boxwright.boxes.geometry import pairwise_iou
from boxwright.data.augment import (
    PRESETS,
    Augment,
    ColorJitter,
    HorizontalFlip,
    IoUCrop,
    Mosaic,
    MultiScale,
    Sample,
    ZoomOut,
    crop,
)
from boxwright.data.preprocess import Preprocess
from boxwright.types import Target

COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255), (255, 255, 255)]
SEEDS = range(40)


def painted(boxes: list[list[int]], size: tuple[int, int] = (120, 160), first: int = 0) -> Sample:
    """A black image with each box filled in a colour of its own; its label says which."""
    image = np.zeros((*size, 3), np.uint8)
    for number, (x1, y1, x2, y2) in enumerate(boxes):
        image[y1:y2, x1:x2] = COLORS[first + number]
    labels = torch.arange(first, first + len(boxes))
    return Sample(image, Target(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels))


def extent(image: np.ndarray, color: tuple[int, int, int]) -> list[int] | None:
    """The box around the pixels that are nearer to this colour than halfway to another in any channel."""
    rows, columns = np.nonzero(((image > 127) == (np.array(color) > 127)).all(axis=2))
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else None


def assert_boxes_are_where_the_paint_is(sample: Sample, tolerance: float) -> None:
    for box, label in zip(sample.target.boxes.tolist(), sample.target.labels.tolist(), strict=True):
        assert extent(sample.image, COLORS[label]) == pytest.approx(box, abs=tolerance), f"label {label}"


APART = [[10, 10, 40, 30], [60, 20, 100, 90], [110, 70, 150, 110], [15, 60, 45, 100]]


def mosaic(sample: Sample, rng: np.random.Generator) -> Sample:
    others = iter([painted([[30, 20, 90, 80]], (100, 110), first=4), painted([[5, 5, 35, 90]], (110, 70), first=5)])
    return Mosaic(visible=0.0)(sample, rng, lambda rng: next(others, painted([[60, 40, 80, 55]], first=6)))


@pytest.mark.parametrize(
    ("transform", "tolerance"),
    [
        (HorizontalFlip(), 0),
        (IoUCrop(visible=0.0), 0),
        (IoUCrop(aspect=2.0, visible=0.0), 0),
        (ZoomOut(fill=0), 0),
        (ZoomOut(fill=0, limit=170), 1),  # shrinks, so that borders fall between pixels
        (mosaic, 1),
        (lambda sample, rng: _through(Preprocess(short=150, long=400), MultiScale()(sample, rng)), 1),
        (Augment(flip=0.5, crop=0.8), 0),
    ],
    ids=["flip", "crop", "crop with aspect", "zoom out", "zoom out shrunk", "mosaic", "multi-scale", "composed"],
)
@pytest.mark.parametrize("seed", SEEDS)
def test_boxes_move_as_pixels_do(transform: Callable, tolerance: float, seed: int) -> None:
    moved = transform(painted(APART), np.random.default_rng(seed))
    assert_boxes_are_where_the_paint_is(moved, tolerance)


def _through(preprocess: Preprocess, sample: Sample) -> Sample:
    image, view = preprocess(sample.image, sample.zoom)
    return sample.seen(view, image)


def test_the_painted_check_sees_a_box_that_is_one_pixel_off() -> None:
    sample = painted(APART)
    off = sample.target.replace(boxes=sample.target.boxes + 1)
    with pytest.raises(AssertionError):
        assert_boxes_are_where_the_paint_is(Sample(sample.image, off), 0)


def test_flip_by_hand() -> None:
    flipped = HorizontalFlip()(painted([[10, 20, 30, 50]], (100, 100)), np.random.default_rng(0))
    assert flipped.target.boxes.tolist() == [[70, 20, 90, 50]]


@pytest.mark.parametrize(
    ("box", "kept", "why"),
    [
        ([30, 30, 50, 50], [10, 10, 30, 30], "wholly inside"),
        ([0, 30, 50, 50], [0, 10, 30, 30], "centre 25 is inside, 60 % visible"),
        ([0, 30, 38, 50], None, "centre 19 is outside"),
        ([2, 22, 38, 62], [0, 2, 18, 42], "centre 20 lies on the edge, which belongs to the window"),
        ([70, 70, 90, 90], None, "centre 80 lies on the far edge, which does not"),
        ([0, 0, 100, 100], None, "36 % visible is less than half"),
        ([85, 5, 95, 15], None, "outside"),
    ],
)
def test_crop_by_hand(box: list[int], kept: list[int] | None, why: str) -> None:
    cut = crop(painted([box], (100, 100)), (20, 20, 80, 80), visible=0.5)
    assert cut.image.shape == (60, 60, 3)
    assert cut.target.boxes.tolist() == ([] if kept is None else [kept]), why


def test_crop_takes_all_columns_along() -> None:
    target = Target(
        boxes=torch.tensor([[0.0, 0, 10, 10], [0, 0, 40, 40], [15, 15, 25, 25], [90, 90, 99, 99]]),
        labels=torch.tensor([1, 2, 3, 4]),
        crowd=torch.tensor([False, True, False, True]),
        difficult=torch.tensor([False, False, True, False]),
        area=torch.tensor([50.0, 800.0, 60.0, 7.0]),
    )
    cut = crop(Sample(np.zeros((100, 100, 3), np.uint8), target), (10, 10, 50, 50), visible=0.25).target
    assert cut.labels.tolist() == [2, 3]  # a crowd region stays wherever its centre is, unless nothing of it is left
    assert cut.crowd.tolist() == [True, False]
    assert cut.difficult.tolist() == [False, True]
    assert cut.boxes.tolist() == [[0, 0, 30, 30], [5, 5, 15, 15]]
    assert cut.area.tolist() == pytest.approx([800 * 900 / 1600, 60])


def test_crop_clips_proposals_and_drops_those_outside() -> None:
    """A proposal stays wherever its centre is and however little of it is visible."""
    proposals = torch.tensor([[0.0, 0, 100, 100], [5, 5, 25, 25], [80, 20, 90, 30], [30, 30, 40, 40]])
    cut = crop(replace(painted([], (100, 100)), proposals=proposals), (20, 20, 80, 80), visible=0.5)
    assert cut.proposals.tolist() == [[0, 0, 60, 60], [0, 0, 5, 5], [10, 10, 20, 20]]


@pytest.mark.parametrize("name", PRESETS)
def test_proposals_move_by_the_views_that_move_objects(name: str) -> None:
    """Each object that is left is among the proposals, which were the objects themselves."""

    def with_proposals(sample: Sample) -> Sample:
        return replace(sample, proposals=sample.target.boxes)

    def others(rng: np.random.Generator) -> Sample:
        return with_proposals(painted([[5, 5, 5 + int(rng.integers(20, 60)), 50]], first=5))

    for seed in SEEDS:
        sample = PRESETS[name](with_proposals(painted(APART)), np.random.default_rng(seed), others)
        assert len(sample.proposals) >= len(sample.target) and not sample.target.crowd.any()
        for box in sample.target.boxes:
            assert (sample.proposals == box).all(dim=1).any()


@pytest.mark.parametrize("min_iou", [0.3, 0.7])
def test_iou_crop_shows_an_object_by_the_minimum(min_iou: float) -> None:
    sample = painted([[40, 30, 120, 100]])
    cuts = [IoUCrop(min_ious=(min_iou,), trials=500)(sample, np.random.default_rng(seed)) for seed in SEEDS]
    shapes = {cut.image.shape[:2] for cut in cuts}
    assert (120, 160) in shapes and len(shapes) > 10  # the whole image is one of the choices
    for cut in cuts:
        height, width = cut.image.shape[:2]
        assert width / height == pytest.approx(160 / 120, rel=0.05)
        window = torch.tensor([[0.0, 0.0, width, height]])
        visible = pairwise_iou(window, cut.target.boxes).item()
        hidden = 80 * 70 - cut.target.area.item()  # what of the object is outside widens the union
        assert visible * width * height / (width * height + hidden) >= min_iou or (height, width) == (120, 160)


def test_iou_crop_without_objects_or_with_an_impossible_minimum_keeps_the_image() -> None:
    rng = np.random.default_rng(0)
    for sample in (painted([]), painted([[0, 0, 1, 1]])):
        assert all(IoUCrop(min_ious=(0.9,))(sample, rng).image.shape == sample.image.shape for _ in range(20))


def test_zoom_out_is_bounded_and_filled() -> None:
    sample = painted(APART)
    for seed in SEEDS:
        wide = ZoomOut(largest=3, fill=114)(sample, np.random.default_rng(seed))
        assert 120 <= wide.image.shape[0] <= 360 and wide.image.shape[1] <= 480
        assert (wide.image == 114).all(axis=2).sum() == wide.image[..., 0].size - 120 * 160
        assert max(ZoomOut(limit=100)(sample, np.random.default_rng(seed)).image.shape) == 100


def test_multi_scale_stays_in_its_range_and_uses_it() -> None:
    zooms = MultiScale(0.5, 2.0).draw(np.random.default_rng(0), 2000)
    assert 0.5 <= zooms.min() < 0.52 and 1.95 < zooms.max() <= 2.0
    assert np.median(zooms) == pytest.approx(1.0, abs=0.05)


def test_mosaic_has_the_first_images_size_and_a_bit_of_all_four() -> None:
    plain = [painted([], (90, 130)), *(painted([], size) for size in ((50, 50), (20, 200), (300, 40)))]
    for number, sample in enumerate(plain):
        sample.image[:] = COLORS[number]
    others = iter(plain[1:])
    joined = Mosaic()(plain[0], np.random.default_rng(0), lambda rng: next(others))
    assert joined.image.shape == (90, 130, 3)
    corners = [joined.image[y, x].tolist() for y, x in ((0, 0), (0, -1), (-1, 0), (-1, -1))]
    assert corners == [list(color) for color in COLORS[:4]]
    assert all(extent(joined.image, color) is not None for color in COLORS[:4])


def test_mosaic_drops_objects_that_are_hardly_visible() -> None:
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        others = iter([painted([[0, 0, 159, 119]], first=number) for number in (1, 2, 3)])
        joined = Mosaic(visible=0.99)(painted([[0, 0, 160, 120]]), rng, lambda rng, left=others: next(left))
        assert all(label in range(4) for label in joined.target.labels.tolist())
        assert len(joined.target) <= 4 and (joined.target.area > 0).all()


def test_color_jitter_without_spread_changes_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    same = ColorJitter(0, 0, 0, 0)(Sample(image, Target.empty()), np.random.default_rng(0)).image
    assert np.abs(same.astype(int) - image).max() <= 1


def test_color_jitter_by_hand() -> None:
    image = np.full((16, 16, 3), (100, 100, 100), np.uint8)

    def jittered(**options: float) -> np.ndarray:
        none = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
        return ColorJitter(**none | options)(Sample(image, Target.empty()), np.random.default_rng(3)).image

    assert np.ptp(jittered(brightness=0.5)) == 0 and jittered(brightness=0.5)[0, 0, 0] != 100
    for option in ("contrast", "saturation", "hue"):  # a grey image is its own mean, and has no chroma
        assert np.abs(jittered(**{option: 0.5}).astype(int) - 100).max() <= 1, option


def test_hue_keeps_luminance() -> None:
    image = np.full((16, 16, 3), (150, 100, 80), np.uint8)
    luma = np.array((0.299, 0.587, 0.114))
    turned = [
        ColorJitter(0, 0, 0, hue=0.5)(Sample(image, Target.empty()), np.random.default_rng(seed)).image[0, 0]
        for seed in range(5)
    ]
    assert len({tuple(color) for color in turned}) == 5
    assert [color @ luma for color in turned] == pytest.approx([image[0, 0] @ luma] * 5, abs=1)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_functions_of_sample_and_generator(name: str) -> None:
    def others(rng: np.random.Generator) -> Sample:
        return painted([[5, 5, 5 + int(rng.integers(20, 60)), 50]], first=5)

    original = painted(APART)
    kept, boxes = original.image.copy(), original.target.boxes.clone()
    for seed in range(10):
        one, two = (PRESETS[name](original, np.random.default_rng(seed), others) for _ in range(2))
        assert np.array_equal(one.image, two.image) and torch.equal(one.target.boxes, two.target.boxes)
        assert one.image.dtype == np.uint8 and len(one.target.labels) == len(one.target)
        height, width = one.image.shape[:2]
        assert (one.target.boxes >= 0).all()
        assert (one.target.boxes <= torch.tensor([width, height, width, height]) + 1e-3).all()
    assert np.array_equal(original.image, kept) and torch.equal(original.target.boxes, boxes)


def test_light_augmentation_flips_and_scales_only() -> None:
    assert Augment(flip=0.3, color=1, crop=1, zoom_out=1, mosaic=1, scale=(0.7, 1.4)).light() == Augment(
        flip=0.3, scale=(0.7, 1.4)
    )


@pytest.mark.parametrize("sample", [painted([]), painted([], (1, 1)), painted([[0, 0, 1, 1]], (1, 1))])
def test_images_without_objects_and_of_one_pixel_pass(sample: Sample) -> None:
    everything = Augment(flip=1, color=1, crop=1, zoom_out=1, mosaic=1, scale=(0.5, 2))
    for seed in range(10):
        out = everything(sample, np.random.default_rng(seed), lambda rng: painted([], (1, 1)))
        assert 0 not in out.image.shape and out.target.boxes.shape[1:] == (4,)


@pytest.mark.parametrize(("options", "message"), [({"flip": 1.5}, "flip is a prob"), ({"scale": (2, 1)}, "scale is")])
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augment(**options)
