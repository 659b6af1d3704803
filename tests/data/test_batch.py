from __future__ import annotations

import pickle
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from boxwright.data.augment import PRESETS, Augment
from boxwright.data.batch import Batch, Batches, Collate, to_images
from boxwright.data.formats import open_dataset
from boxwright.data.image import ImageError, limit_megapixels
from boxwright.data.preprocess import Preprocess
from boxwright.types import Size, Target
from shapes import write_shapes

SMALL = Preprocess(short=32, long=64)
FIXED = Preprocess("letterbox", height=64, width=64)


@dataclass
class Folder:
    """The least a dataset has to be; remembers what was opened."""

    paths: list[Path]
    sizes: list[Size]
    targets: list[Target]
    opened: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> Path:
        self.opened.append(index)
        return self.paths[index]

    def size(self, index: int) -> Size:
        return self.sizes[index]

    def target(self, index: int) -> Target:
        return self.targets[index]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Eleven images, wide and tall by turns, with a white object on noise; the label is the index."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    paths, sizes, targets = [], [], []
    for index in range(11):
        height, width = (40, 60) if index % 2 else (60, 40)
        pixels = rng.integers(0, 100, (height, width, 3), dtype=np.uint8)
        pixels[10:30, 8:32] = 255
        paths.append(folder / f"{index}.png")
        Image.fromarray(pixels).save(paths[-1])
        sizes.append(Size(height, width))
        targets.append(Target(torch.tensor([[8.0, 10, 32, 30]]), torch.tensor([index])))
    return Folder(paths, sizes, targets)


@pytest.fixture
def dataset(made: Folder) -> Folder:
    return Folder(list(made.paths), list(made.sizes), list(made.targets))


def indices(batches: Batches, epoch: int = 0) -> list[list[int]]:
    return [batch.indices for batch in batches.epoch(epoch)]


def assert_same(one: Batch, two: Batch) -> None:
    assert one.indices == two.indices and one.views == two.views
    assert torch.equal(one.images.pixels, two.images.pixels) and torch.equal(one.images.sizes, two.images.sizes)
    for left, right in zip(one.targets, two.targets, strict=True):
        assert all(torch.equal(getattr(left, name), getattr(right, name)) for name in vars(left))


def test_images_are_padded_at_the_right_and_the_bottom() -> None:
    wide, tall = np.full((20, 40, 3), 10, np.uint8), np.full((50, 30, 3), 20, np.uint8)
    tall[0, 0] = (1, 2, 3)
    images = to_images([wide, tall])
    assert images.pixels.shape == (2, 3, 64, 64) and images.pixels.dtype == torch.float32
    assert images.pixels.is_contiguous()
    assert images.sizes.tolist() == [[20, 40], [50, 30]]
    assert (images.pixels[0, :, :20, :40] == 10).all()
    assert images.pixels[1, :, 0, 0].tolist() == [1, 2, 3]
    assert (images.pixels[0, :, 20:] == 114).all() and (images.pixels[1, :, :, 30:] == 114).all()


def test_letterbox_has_one_shape_and_refuses_what_does_not_fit() -> None:
    preprocess = Preprocess("letterbox", height=96, width=64, fill=0)
    images = to_images([np.full((10, 10, 3), 9, np.uint8)], preprocess)
    assert images.pixels.shape == (1, 3, 96, 64) and images.pixels.sum() == 9 * 300
    with pytest.raises(ValueError, match="images fit the canvas 96x64"):
        to_images([np.zeros((97, 10, 3), np.uint8)], preprocess)


def test_padding_of_the_models_mean_is_zero_once_normalised() -> None:
    mean = (103.53, 116.28, 123.675)
    image = np.full((20, 40, 3), 250, np.uint8)
    for fill, colour in ((mean, mean), ((1, 2.0, 3), (1, 2, 3))):
        images = to_images([image], Preprocess(fill=fill))
        centered = images.pixels - torch.tensor(colour).view(3, 1, 1)
        assert images.pixels.shape == (1, 3, 32, 64) and images.pixels.dtype == torch.float32
        assert (centered[..., 20:, :] == 0).all() and (centered[..., 40:] == 0).all()
        assert (images.pixels[..., :20, :40] == 250).all()


@pytest.mark.parametrize("workers", [0, 1])
def test_pixels_are_not_rounded_on_their_way(dataset: Folder, workers: int) -> None:
    """Images 40 wide become 32: pixel 1 is 1.5 * 40/32 - 0.5 = 1.375 of the way, between the pixels 1 and 2."""
    preprocess = Preprocess(short=32, long=64, resample="plain", rounding="floor", fill=(0.25, 0.5, 0.75))
    (batch, *_) = Batches.for_evaluation(dataset, preprocess, batch_size=1, workers=workers)
    assert batch.images.sizes.tolist() == [[48, 32]] and batch.images.pixels.shape == (1, 3, 64, 32)
    assert batch.images.pixels.is_contiguous() and batch.images.pixels[0, :, 63, 0].tolist() == [0.25, 0.5, 0.75]
    image = np.asarray(Image.open(dataset.paths[0])).astype(np.float64)
    left, right = (0.875 * image[0, x] + 0.125 * image[1, x] for x in (1, 2))  # row 0: 0.5 * 60/48 - 0.5 = 0.125
    assert batch.images.pixels[0, :, 0, 1].tolist() == pytest.approx(0.625 * left + 0.375 * right)


@pytest.mark.parametrize("preset", ["light", "strong"])
def test_training_works_with_every_way_to_resample(dataset: Folder, preset: str) -> None:
    """Each resamples the very same augmented images, so that targets are equal and pixels alike."""
    usual = list(Batches(dataset, FIXED, PRESETS[preset], 3))
    for options in ({"resample": "plain"}, {"resample": "pillow"}, {"fill": (114.0, 114.5, 114.0)}):
        other = Batches(dataset, replace(FIXED, **options), PRESETS[preset], 3)
        for first, second in zip(usual, other, strict=True):
            assert first.indices == second.indices and torch.equal(first.images.sizes, second.images.sizes)
            assert all(
                torch.equal(left.boxes, right.boxes) for left, right in zip(first.targets, second.targets, strict=True)
            )
            assert second.images.pixels.dtype == torch.float32
            assert (first.images.pixels - second.images.pixels).abs().mean() < 6


def test_an_epoch_is_every_image_once_in_an_order_of_its_own(dataset: Folder) -> None:
    batches = Batches(dataset, SMALL, batch_size=4, drop_last=False)
    first, again, second = indices(batches, 0), indices(batches, 0), indices(batches, 1)
    assert len(batches) == len(first) == 3
    assert sorted(sum(first, [])) == sorted(sum(second, [])) == list(range(11))
    assert first == again != second
    assert first != indices(Batches(dataset, SMALL, batch_size=4, drop_last=False, seed=1))


def test_drop_last(dataset: Folder) -> None:
    assert [len(batch) for batch in indices(Batches(dataset, SMALL, batch_size=4))] == [4, 4]
    single = Batches(dataset, SMALL, batch_size=64)
    assert len(single) == 1 and sorted(indices(single)[0]) == list(range(11))


def test_like_shapes_share_a_batch(dataset: Folder) -> None:
    def mixed(group: bool) -> int:
        batches = Batches(dataset, SMALL, batch_size=2, group=group)
        return sum(first % 2 != second % 2 for epoch in range(5) for first, second in indices(batches, epoch))

    assert mixed(group=True) <= 5 < mixed(group=False)  # one per epoch, where the wide ones end and the tall begin


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_ranks_share_an_epoch_evenly(dataset: Folder, shuffle: bool, batch_size: int) -> None:
    ranks = [
        Batches(dataset, SMALL, batch_size=batch_size, rank=rank, world=3, shuffle=shuffle, drop_last=False)
        for rank in range(3)
    ]
    seen = [indices(batches) for batches in ranks]
    assert len({len(batches) for batches in ranks} | {len(share) for share in seen}) == 1
    for step in zip(*seen, strict=True):
        assert len({len(share) for share in step}) == 1
    indices_of_all = [index for share in seen for batch in share for index in batch]
    assert len(indices_of_all) == 12 and set(indices_of_all) == set(range(11))


def test_starting_late_equals_having_gone_there_and_loads_nothing_before(dataset: Folder) -> None:
    batches = Batches(dataset, SMALL, Augment(color=1, crop=1), batch_size=2)
    whole = list(batches.epoch(3))
    dataset.opened.clear()
    rest = list(batches.epoch(3, start=3))
    assert dataset.opened == [index for batch in whole[3:] for index in batch.indices]
    for first, second in zip(whole[3:], rest, strict=True):
        assert_same(first, second)


def test_what_happens_to_a_sample_does_not_depend_on_its_company(dataset: Folder) -> None:
    def samples(**options: Any) -> dict[int, torch.Tensor]:
        batches = Batches(dataset, FIXED, PRESETS["strong"], seed=5, drop_last=False, **options)
        return {
            index: pixels
            for batch in batches.epoch(2)
            for index, pixels in zip(batch.indices, batch.images.pixels, strict=True)
        }

    alone, together = samples(batch_size=1), samples(batch_size=5)
    other_rank = samples(batch_size=2, rank=1, world=2)
    assert len(alone) == len(together) == 11 and len(other_rank) >= 5
    assert all(torch.equal(alone[index], together[index]) for index in alone)
    assert all(torch.equal(alone[index], other_rank[index]) for index in other_rank)


def test_workers_change_nothing(dataset: Folder) -> None:
    options = {"preprocess": SMALL, "augment": PRESETS["strong"], "batch_size": 3}
    here, there = Batches(dataset, **options), Batches(dataset, **options, workers=2)
    state = torch.get_rng_state()
    next(there.epoch(0))  # an epoch given up leaves nothing behind
    for epoch, start in ((0, 0), (1, 1)):
        for first, second in zip(here.epoch(epoch, start), there.epoch(epoch, start), strict=True):
            assert_same(first, second)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("workers", [0, 1])
def test_from_an_epoch_on_augmentation_is_light(dataset: Folder, workers: int) -> None:
    """In that epoch and later, whichever epoch came first; with flips and sizes as they would have been."""
    strong, light = (Batches(dataset, SMALL, a, 3) for a in (PRESETS["strong"], PRESETS["strong"].light()))
    mixed = Batches(dataset, SMALL, PRESETS["strong"], 3, workers=workers)
    mixed.light_from = 2
    for epoch, same in ((1, strong), (2, light), (3, light), (0, strong)):
        for first, second in zip(mixed.epoch(epoch), same.epoch(epoch), strict=True):
            assert_same(first, second)


def test_there_are_no_more_workers_than_tasks(dataset: Folder) -> None:
    batches = Batches.for_evaluation(dataset, SMALL, batch_size=8, workers=500)
    assert sorted(sum(indices(batches, 0), [])) == list(range(11))
    assert batches._workers is not None and batches._workers.num_workers == len(batches._tasks(0)) < 12


def test_loading_can_travel_to_spawned_workers(dataset: Folder) -> None:
    batches = Batches(dataset, SMALL, PRESETS["strong"], batch_size=3)
    task = batches._tasks(0)[0]
    copied = pickle.loads(pickle.dumps(batches._load))
    (there,), (here,) = copied[task].batches, batches._load[task].batches
    assert torch.equal(there.pixels, here.pixels)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_replaced_by_the_next_with_one_warning(dataset: Folder, tmp_path: Path, workers: int) -> None:
    dataset.paths[4] = tmp_path / "gone.jpg"
    dataset.paths[5] = tmp_path / "text.jpg"
    dataset.paths[5].write_text("no image")
    batches = Batches(dataset, SMALL, batch_size=4, drop_last=False, workers=workers)
    with pytest.warns(UserWarning) as caught:
        first = indices(batches, 0)
    message = str(caught[0].message)
    assert len(caught) == 1 and message.startswith("2 of 11 images cannot be read and were replaced")
    assert "gone.jpg: expected an image, found no such file" in message and "text.jpg" in message
    assert sorted(sum(first, [])) == [0, 1, 2, 3, 6, 6, 6, 7, 8, 9, 10]
    assert sorted(batches.broken) == [4, 5]
    assert sorted(sum(indices(batches, 1), [])) == [0, 1, 2, 3, 6, 6, 6, 7, 8, 9, 10]  # and no second warning


def test_a_broken_image_is_left_out_of_an_evaluation(dataset: Folder, tmp_path: Path) -> None:
    dataset.paths[4] = tmp_path / "gone.jpg"
    dataset.paths[5] = tmp_path / "gone too.jpg"
    with pytest.warns(UserWarning, match="2 of 11 images cannot be read and were left out"):
        seen = indices(Batches.for_evaluation(dataset, SMALL, batch_size=2))
    assert seen == [[0, 2], [6], [8, 10], [1, 3], [7], [9]]  # the even ones are tall, the odd ones wide


def test_nothing_readable_is_an_error(dataset: Folder, tmp_path: Path) -> None:
    dataset.paths[:] = [tmp_path / "gone.jpg"] * 11
    with pytest.raises(ImageError, match="none of the 11 images can be read"):
        list(Batches(dataset, SMALL).epoch(0))


def test_evaluation_is_of_every_image_and_leads_back_to_original_pixels(dataset: Folder) -> None:
    batches = Batches.for_evaluation(dataset, SMALL, batch_size=4)
    assert len(batches) == 4
    seen = []
    for batch in batches:
        for row, index in enumerate(batch.indices):
            seen.append(index)
            resized = batch.targets[row]
            assert resized.labels.tolist() == [index]
            assert torch.allclose(batch.views[row].back(resized.boxes), dataset.targets[index].boxes, atol=1e-4)
            white = batch.images.pixels[row].amin(dim=0) > 177  # halfway between the object and what surrounds it
            rows, columns = torch.nonzero(white, as_tuple=True)
            extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert torch.stack(extent).tolist() == pytest.approx(resized.boxes[0].tolist(), abs=1)
    assert seen == [*range(0, 11, 2), *range(1, 11, 2)]


def test_images_of_an_evaluation_share_a_batch_where_alone_they_would_have_the_same_canvas(tmp_path: Path) -> None:
    """The canvas, not the resized shape, which differs in all of these: 32 x 33 and 32 x 64 both become 32 x 64."""
    sizes = [Size(32, 33), Size(64, 32), Size(32, 64), Size(32, 32), Size(40, 32), Size(32, 48)]
    paths = [tmp_path / f"{index}.png" for index in range(6)]
    for path, size in zip(paths, sizes, strict=True):
        Image.new("RGB", (size.width, size.height), "white").save(path)
    shapes = Folder(paths, sizes, [Target.empty()] * 6)
    alone = {batch.indices[0]: batch.images.pixels[0] for batch in Batches.for_evaluation(shapes, SMALL, 1)}
    for batch_size, expected in ((2, [[0, 2], [5], [1, 4], [3]]), (60, [[0, 2, 5], [1, 4], [3]])):
        batches = list(Batches.for_evaluation(shapes, SMALL, batch_size))
        assert [batch.indices for batch in batches] == expected
        for batch in batches:
            for index, pixels in zip(batch.indices, batch.images.pixels, strict=True):
                assert torch.equal(pixels, alone[index])


def test_a_file_of_another_size_than_declared_has_a_batch_of_its_own(dataset: Folder) -> None:
    dataset.sizes[2] = dataset.sizes[3]  # declared wide, and tall
    batches = Batches.for_evaluation(dataset, SMALL, batch_size=3)
    assert indices(batches) == [[0, 4, 6], [8, 10], [1, 3], [2], [5, 7, 9]]


def test_augmentation_does_not_ask_for_shuffling(dataset: Folder) -> None:
    plain, flipped = (
        next(iter(Batches(dataset, SMALL, augment, batch_size=1, shuffle=False)))
        for augment in (None, Augment(flip=1.0))
    )
    assert plain.indices == flipped.indices == [0]
    assert (plain.images.pixels[..., :32] - flipped.images.pixels[..., :32].flip(-1)).abs().max() <= 1


def test_areas_shrink_with_their_images(dataset: Folder) -> None:
    (batch, *_) = Batches.for_evaluation(dataset, SMALL, batch_size=1)
    assert batch.images.sizes.tolist() == [[48, 32]]  # from 60x40
    assert batch.targets[0].area.item() == pytest.approx(480 * 0.8 * 0.8)


def test_boxes_outside_are_clipped_and_empty_ones_dropped(dataset: Folder) -> None:
    boxes = torch.tensor([[-5.0, 10, 20, 80], [10, 10, 10, 30], [50, 0, 70, 20], [3, 3, 9, 9]])
    dataset.targets[0] = Target(boxes, torch.arange(4))  # in 60x40
    (batch, *_) = Batches.for_evaluation(dataset, Preprocess(short=40, long=60), batch_size=1)
    assert batch.targets[0].labels.tolist() == [0, 3]
    assert batch.targets[0].boxes.tolist() == [[0, 10, 20, 60], [3, 3, 9, 9]]


def test_a_large_jpeg_is_decoded_small_and_its_boxes_follow(tmp_path: Path) -> None:
    pixels = np.zeros((800, 1200, 3), np.uint8)
    pixels[160:480, 320:960] = 255
    path = tmp_path / "large.jpg"
    Image.fromarray(pixels).save(path, quality=95)
    target = Target(torch.tensor([[320.0, 160, 960, 480]]), torch.tensor([0]))
    single = Folder([path], [Size(800, 1200)], [target])
    loaded = Batches(single, SMALL, PRESETS["none"], batch_size=1)
    assert loaded._load._read(0, 1.0).image.shape == (100, 150, 3)
    (batch,) = loaded
    assert batch.targets[0].boxes.tolist()[0] == pytest.approx([12.8, 6.4, 38.4, 19.2])
    (full,) = Batches.for_evaluation(single, SMALL)
    assert (batch.images.pixels - full.images.pixels).abs().mean() < 3


def test_an_image_above_the_limit_is_evaluated_in_its_own_pixels(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    Image.new("RGB", (1200, 800)).save(path)
    target = Target(torch.tensor([[320.0, 160, 960, 480]]), torch.tensor([0]))
    with limit_megapixels(0.5):
        (batch,) = Batches.for_evaluation(Folder([path], [Size(800, 1200)], [target]), SMALL)
        (whole,) = Batches.for_evaluation(Folder([path], [Size(800, 1200)], [target]), SMALL, workers=1)
    for loaded in (batch, whole):
        assert loaded.views[0].source == Size(800, 1200)
        assert loaded.views[0].back(loaded.targets[0].boxes)[0].tolist() == pytest.approx([320, 160, 960, 480])
        assert loaded.targets[0].boxes.tolist()[0] == pytest.approx([12.8, 6.4, 38.4, 19.2])


def test_boxes_annotated_without_regard_to_exif_fit_the_image_as_stored(dataset: Folder, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for path, stored in ((tmp_path / "annotated stored.png", True), (tmp_path / "annotated upright.png", False)):
        Image.new("RGB", (60, 40)).save(path, exif=exif)
        size = Size(40, 60) if stored else Size(60, 40)
        (batch,) = Batches.for_evaluation(Folder([path], [size], [Target.empty()]), Preprocess(short=40, long=60))
        assert batch.images.sizes.tolist() == [list(size)]


@pytest.mark.parametrize(
    ("options", "message"), [({"batch_size": 0}, "batch_size=0"), ({"rank": 2, "world": 2}, "rank=2, world=2")]
)
def test_wrong_options_are_refused(dataset: Folder, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Batches(dataset, SMALL, **options)


def test_an_empty_dataset_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        Batches(Folder([], [], []), SMALL)


def bright(image: np.ndarray) -> np.ndarray:
    """Proposes what is white, and the whole image in every wide one: (1 or 2, 4)."""
    rows, columns = np.nonzero(image[..., 0] == 255)
    boxes = [(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]
    height, width = image.shape[:2]
    return np.array(boxes + [(0, 0, width, height)] * (width > height), np.float32)


@pytest.mark.parametrize("preset", ["light", "standard", "strong"])
def test_proposals_move_as_objects_do(dataset: Folder, preset: str) -> None:
    """Objects are what is white, so each is one of the proposals still; those are clipped where the image ends."""
    batches = Batches(dataset, SMALL, PRESETS[preset], 4, propose=bright)
    plain = Batches(dataset, SMALL, PRESETS[preset], 4)
    for epoch in range(3):
        for images, targets, _, _ in batches.epoch(epoch):
            for proposals, target in zip(images.proposals, targets, strict=True):
                assert (target.labels >= 0).all() and not target.crowd.any()
                for box in target.boxes:
                    assert (proposals - box).abs().amax(1).min() < 1e-3
        for first, second in zip(batches.epoch(epoch), plain.epoch(epoch), strict=True):
            assert first.indices == second.indices
            assert second.images.proposals.shape == (len(second.images), 0, 4)
            for left, right in zip(first.targets, second.targets, strict=True):
                assert torch.equal(left.boxes, right.boxes) and torch.equal(left.labels, right.labels)


def test_proposals_end_in_rows_of_zeros(dataset: Folder) -> None:
    square = Preprocess("letterbox", height=48, width=48)
    batch = next(iter(Batches.for_evaluation(dataset, square, 2, propose=bright)))
    assert batch.images.proposals.shape == (2, 2, 4)  # the tall image has one proposal, the wide one two
    assert batch.images.proposals[0, 1].tolist() == [0, 0, 0, 0]
    torch.testing.assert_close(batch.images.proposals[0, :1], batch.targets[0].boxes)
    assert batch.images.proposals[1, 1].tolist() == [0, 0, 48, 32]


def test_an_image_without_proposals(dataset: Folder) -> None:
    batch = next(iter(Batches(dataset, SMALL, Augment(), 4, propose=lambda image: np.zeros((0, 4), np.float32))))
    assert batch.images.proposals.shape == (4, 0, 4) and all(len(target) for target in batch.targets)


def test_images_to_images_with_proposals() -> None:
    arrays = [np.zeros((20, 40, 3), np.uint8)] * 2
    boxes = torch.tensor([[1.0, 2, 3, 4]])
    assert to_images(arrays, SMALL).proposals.shape == (2, 0, 4)
    images = to_images(arrays, SMALL, [boxes, torch.zeros(0, 4)])
    assert images.proposals.tolist() == [[[1, 2, 3, 4]], [[0, 0, 0, 0]]]
    assert images[1:].proposals.shape == (1, 1, 4) and images.to("cpu").proposals.shape == (2, 1, 4)


def test_a_dataset_and_collate_in_a_data_loader(tmp_path: Path):
    dataset = open_dataset(write_shapes(tmp_path, {"train": 5, "val": 1}))["train"]
    preprocess = Preprocess(short=64, long=96)
    loader = DataLoader[Any](dataset, 2, num_workers=1, collate_fn=Collate(preprocess))  # pyright: ignore
    batches = list(loader)
    assert [len(targets) for _, targets in batches] == [2, 2, 1]
    for (images, targets), expected in zip(
        batches, Batches(dataset, preprocess, batch_size=2, shuffle=False), strict=True
    ):
        assert torch.equal(images.pixels, expected.images.pixels) and torch.equal(images.sizes, expected.images.sizes)
        for target, other in zip(targets, expected.targets, strict=True):
            torch.testing.assert_close(target.boxes, other.boxes)


def test_collate_pads_images_that_it_does_not_resize():
    samples = [(torch.full((3, height, 40), 9, dtype=torch.uint8), Target.empty()) for height in (30, 70)]
    images, targets = Collate()(samples)
    assert images.pixels.shape == (2, 3, 96, 64) and images.sizes.tolist() == [[30, 40], [70, 40]]
    assert (images.pixels[0, :, :30, :40] == 9).all() and len(targets) == 2
    with pytest.raises(ValueError, match=r"a sample's image is uint8 \(3, H, W\), got torch.float32 \(3, 30, 40\)"):
        Collate()([(torch.zeros(3, 30, 40), Target.empty())])
