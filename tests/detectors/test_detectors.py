"""What holds for every detector in the table, whatever it is made of: learning, geometry, batches, checkpoints."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from boxwright.boxes.geometry import iou, pairwise_iou
from boxwright.boxes.view import View
from boxwright.checkpoint import load_detector, save_detector
from boxwright.data.preprocess import Preprocess
from boxwright.detectors import DETECTORS, Detector
from boxwright.predict.program import Eager
from boxwright.types import Detections, Images, Size, Slots, Target


def best(found: Detections) -> Detections:
    """The best box of each class that is there."""
    rows = [(found.labels == label).nonzero()[:1, 0] for label in (0, 1)]
    return found[torch.cat(rows)]


def everywhere(crowd: bool = False) -> Target:
    """One region over all anchors and proposals there can be."""
    return Target(
        torch.tensor([[-2000.0, -2000.0, 2000.0, 2000.0]]), torch.zeros(1, dtype=torch.int64), torch.tensor([crowd])
    )


def total(detector: Detector, images: Images, targets: list[Target]) -> Tensor:
    return torch.stack(list(detector.loss(images, targets).values())).sum()


def test_learns_one_image_by_heart(trained: Any) -> None:
    for found, target in zip(trained.detector.detect(trained.images), trained.targets, strict=True):
        assert torch.equal(best(found).labels, target.labels)
        assert best(found).scores.min() > 0.6
        assert iou(best(found).boxes, target.boxes).min() > trained.traits.tight


def test_flipping_the_image_flips_the_boxes(trained: Any) -> None:
    """To a few pixels: no stack of strided convolutions is quite symmetric, and this one learnt both sides."""
    found, mirrored = (best(one) for one in trained.detector.detect(trained.images))
    assert torch.equal(found.labels, mirrored.labels)
    flip = View.flip(Size(*trained.images.pixels.shape[2:]))
    assert iou(flip.forward(found.boxes), mirrored.boxes).min() > trained.traits.stable


def test_neighbours_in_a_batch_change_nothing(trained: Any) -> None:
    one, height, width = trained.padded[:1], *trained.padded.pixels.shape[2:]
    noise = 255 * torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    sizes = torch.cat([one.sizes, torch.tensor([[height, width]])])
    both = Images(torch.cat([one.pixels, noise]), sizes, one.proposals.repeat(2, 1, 1))
    alone, beside = (best(trained.detector.detect(images)[0]) for images in (one, both))
    torch.testing.assert_close(beside.boxes, alone.boxes, atol=1e-2, rtol=0)
    torch.testing.assert_close(beside.scores, alone.scores, atol=1e-4, rtol=0)
    assert torch.equal(beside.labels, alone.labels)


def test_padding_changes_little(trained: Any) -> None:
    """Convolutions see grey instead of nothing beyond the border. No box reaches into it."""
    height, width = trained.images.pixels.shape[2:]
    for plain, found in zip(
        trained.detector.detect(trained.images), trained.detector.detect(trained.padded), strict=True
    ):
        assert found.boxes.min() >= 0 and found.boxes[:, 2].max() <= width and found.boxes[:, 3].max() <= height
        assert torch.equal(best(plain).labels, best(found).labels)
        assert iou(best(plain).boxes, best(found).boxes).min() > trained.traits.stable


def test_save_and_load_give_the_same_boxes(trained: Any, tmp_path: Path) -> None:
    path = tmp_path / "detector.safetensors"
    save_detector(path, trained.detector, trained.config, ("red", "blue"), Preprocess())
    loaded = load_detector(path)
    for before, after in zip(
        trained.detector.detect(trained.images), loaded.detector.detect(trained.images), strict=True
    ):
        assert torch.equal(before.boxes, after.boxes)
        assert torch.equal(before.scores, after.scores)
        assert torch.equal(before.labels, after.labels)


def test_bfloat16_finds_the_same(trained: Any) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        autocast = trained.detector.detect(trained.images)
    packed = Eager(trained.detector, precision="bf16")(trained.images).trim()
    for plain, found in zip(2 * trained.detector.detect(trained.images), [*autocast, *packed], strict=True):
        assert found.boxes.dtype == found.scores.dtype == torch.float32
        assert torch.equal(best(plain).labels, best(found).labels)
        assert iou(best(plain).boxes, best(found).boxes).min() > 0.85  # of two that score alike, the other may be best


def test_the_inference_form_gives_the_same_boxes(trained: Any) -> None:
    plain, packed = Eager(trained.detector, packed=False), Eager(trained.detector)
    for images in (trained.images, trained.padded, trained.images[:1]):
        found, expected = packed(images), plain(images)
        assert expected.valid.any() and torch.equal(found.valid, expected.valid)
        assert torch.equal(found.labels, expected.labels)
        torch.testing.assert_close(found.boxes, expected.boxes, atol=1e-2, rtol=0)
        torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)
    with mock.patch("boxwright.predict.program._LARGE", 1):  # as for large images: one by one
        alone = Slots.cat([packed(trained.images[index : index + 1]) for index in range(len(trained.images))])
        pairs = zip(vars(packed(trained.images)).values(), vars(alone).values(), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)
    lower = packed.with_selection(slots=3) if trained.detector.selection else packed
    assert lower._packed is packed._packed, "a program with the same weights packs them once"


def test_detections_come_best_first_and_lie_in_the_image(trained: Any) -> None:
    for found in trained.detector.detect(trained.images):
        assert len(found) <= trained.config.max_detections
        assert torch.equal(found.scores, found.scores.sort(descending=True).values)
        overlaps = pairwise_iou(found.boxes, found.boxes).triu(1)
        same = found.labels[:, None] == found.labels
        assert not (same & (overlaps > 0.5)).any()


def test_forward_is_the_door_to_both(trained: Any) -> None:
    torch.manual_seed(0)
    losses = trained.detector(trained.images, trained.targets)
    torch.manual_seed(0)
    assert losses == trained.detector.loss(trained.images, trained.targets)
    found = trained.detector(trained.images)
    assert [len(one) for one in found] == [len(one) for one in trained.detector.detect(trained.images)]


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
@pytest.mark.parametrize("empty", ["none", "one", "all"])
def test_every_parameter_learns_with_and_without_objects(
    trained: Any, empty: str, precision: torch.dtype | None
) -> None:
    """DistributedDataParallel waits for the gradient of every parameter: none may be missing."""
    targets = {"none": trained.targets, "one": [trained.targets[0], Target.empty()], "all": [Target.empty()] * 2}[empty]
    trained.detector.zero_grad(set_to_none=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with torch.autocast("cpu", precision, enabled=precision is not None):
            loss = total(trained.detector, trained.images, targets)
        loss.backward()
    assert loss.isfinite() and loss > 0
    wanted = {name: parameter for name, parameter in trained.detector.named_parameters() if parameter.requires_grad}
    assert not [name for name, parameter in wanted.items() if parameter.grad is None]
    assert not [name for name, parameter in wanted.items() if not parameter.grad.isfinite().all()]


def test_box_losses_of_empty_images_are_zero(trained: Any) -> None:
    losses = trained.detector.loss(trained.images, [Target.empty()] * 2)
    assert all(value.item() == 0 for name, value in losses.items() if "box" in name)


def test_a_crowd_over_everything_leaves_nothing_to_learn(trained: Any) -> None:
    losses = trained.detector.loss(trained.images, [everywhere(crowd=True)] * 2)
    assert all(value.item() == 0 for value in losses.values())
    assert total(trained.detector, trained.images, [everywhere()] * 2) > 0


def test_the_seed_decides_the_loss(trained: Any) -> None:
    torch.manual_seed(5)
    first = total(trained.detector, trained.images, trained.targets)
    torch.manual_seed(5)
    assert torch.equal(total(trained.detector, trained.images, trained.targets), first)


@pytest.mark.parametrize("name", DETECTORS)
def test_everything_between_pixels_and_slots_stays_on_its_device(name: str, small_configs: dict[str, Any]) -> None:
    """On the meta device a tensor of the host would be an error, and so would be a shape that depends on values."""
    config = small_configs[name]
    detector = config.build(2).to("meta")
    slots = detector.slots(
        Images(torch.empty(2, 3, 64, 96), torch.empty(2, 2, dtype=torch.int64), torch.empty(2, 20, 4)).to("meta")
    )
    assert slots.boxes.device.type == "meta" and slots.boxes.shape == (2, config.max_detections, 4)
    assert slots.scores.shape == slots.labels.shape == slots.valid.shape == (2, config.max_detections)


def test_a_detector_without_verbs_says_which_are_missing() -> None:
    with pytest.raises(NotImplementedError, match="Detector must define compute_loss"):
        Detector().loss(Images(torch.zeros(0), torch.zeros(0)), [])
    with pytest.raises(NotImplementedError, match="Detector must define slots"):
        Detector().slots(Images(torch.zeros(0), torch.zeros(0)))
