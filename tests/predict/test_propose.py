"""Proposals of many images: in order, known ones not computed again, bad images named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.data.formats import open_dataset
from boxwright.predict.propose import Source, best_overlaps, propose_all, sources_of, warm
from boxwright.proposals import CachedProposer, ProposalsFromFile, SlidingWindow, image_key, write_proposals
from boxwright.types import Size
from shapes import write_shapes


@dataclass(frozen=True)
class Whole:
    """Proposes the whole image."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return np.array([[0, 0, image.shape[1], image.shape[0]]], np.float32)


@pytest.fixture
def make_images(tmp_path: Path) -> list[Source]:
    """Nine readable ones, of widths 10 to 18, with one in the middle that is not."""
    paths = [tmp_path / f"{width}.png" for width in range(10, 19)]
    for path in paths:
        Image.new("RGB", (int(path.stem), 5), (200, 10, 10)).save(path)
    broken = tmp_path / "broken.png"
    broken.write_bytes(paths[0].read_bytes()[:40])
    return [Source(path) for path in [*paths[:4], broken, *paths[4:]]]


@pytest.mark.parametrize("workers", [1, 3, None])
def test_every_image_in_order(make_images: list[Source], workers: int | None):
    found = list(propose_all(Whole(), make_images, workers))
    assert [each.source for each in found] == make_images
    good, (bad,) = [each for each in found if not each.error], [each for each in found if each.error]
    assert [each.boxes.tolist() for each in good] == [[[0, 0, width, 5]] for width in range(10, 19)]
    assert [each.key for each in good] == [image_key(each.source.read()) for each in good]
    assert "broken.png" in bad.error and len(bad.boxes) == 0


def test_it_can_be_left_early(make_images: list[Source]):
    found = propose_all(Whole(), make_images * 100, workers=2)
    assert next(found).boxes.tolist() == [[0, 0, 10, 5]]
    del found  # what is not begun yet is not begun


def test_what_is_known_is_not_computed_again(make_images: list[Source], tmp_path: Path):
    cached = CachedProposer(Whole(), tmp_path / "kept")
    assert [each.known for each in propose_all(cached, make_images[:3])] == [False] * 3
    assert [each.known for each in propose_all(cached, make_images[:4])] == [True] * 3 + [False]


def test_warm_fills_what_is_missing_and_names_what_is_broken(make_images: list[Source], tmp_path: Path):
    cached = CachedProposer(Whole(), tmp_path / "kept")
    cached(make_images[0].read())
    steps: list[int] = []
    (line,) = warm(cached, make_images, 2, lambda: steps.append(1))
    assert "broken.png" in line and len(steps) == len(make_images)
    assert all(cached.has(each.read()) for each in make_images if "broken" not in str(each.path))


def test_warm_has_nothing_to_do_for_who_remembers_nothing():
    assert warm(SlidingWindow(), [Source("missing.png")]) == []


def test_warm_asks_a_file_for_every_image(make_images: list[Source], tmp_path: Path):
    path = tmp_path / "proposals.safetensors"
    write_proposals(path, {image_key(make_images[0].read()): np.zeros((1, 4))}, "by hand")
    assert warm(ProposalsFromFile(path), make_images[:1]) == []
    with pytest.raises(ValueError, match=r"11\.png: .*proposals\.safetensors has no proposals for this image"):
        warm(ProposalsFromFile(path), make_images[:2])


def test_images_of_a_dataset(tmp_path: Path):
    dataset = open_dataset(write_shapes(tmp_path, {"train": 3, "val": 1}, format="coco"))["train"]
    sources = sources_of(dataset)
    assert [(each.path, each.size) for each in sources] == [(dataset.path(i), dataset.size(i)) for i in range(3)]


def test_a_image_is_turned_as_training_turns_it(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (20, 10)).save(tmp_path / "turned.jpg", exif=exif)
    assert Source(tmp_path / "turned.jpg").read().shape == (20, 10, 3)
    assert Source(tmp_path / "turned.jpg", Size(20, 10)).read().shape == (20, 10, 3)
    assert Source(tmp_path / "turned.jpg", Size(10, 20)).read().shape == (10, 20, 3)  # annotated without EXIF


def test_best_overlaps_by_hand():
    boxes = np.array([[0, 0, 4, 4], [0, 0, 2, 2], [10, 10, 14, 12]], np.float32)
    objects = torch.tensor([[0.0, 0.0, 2.0, 4.0], [10.0, 10.0, 14.0, 14.0]])
    expected = [[0.5, 0.0], [0.5, 0.0], [0.5, 0.5], [0.5, 0.5]]
    assert best_overlaps(boxes, objects, (1, 2, 3, 100)).tolist() == expected
    assert best_overlaps(boxes[:0], objects, (1, 5)).tolist() == [[0.0, 0.0]] * 2
    assert best_overlaps(boxes, objects[:0], (1, 5)).shape == (2, 0)
