"""Times are taken in turn, steps are configured alike, and what differs is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from boxwright.bench.lineage import Cost, configure, differences, propose_ahead, sample, subset, take_times
from boxwright.data.formats import open_dataset
from boxwright.data.preprocess import Preprocess
from boxwright.detectors import DETECTORS, Detector
from boxwright.proposals import CachedProposer, SlidingWindow
from boxwright.types import Images, Slots
from shapes import write_shapes


def test_the_whole_is_proposals_and_network():
    assert Cost("a", proposals=0.5, network=0.25).whole == 0.75


class Told(Detector):
    """Answers nothing, and remembers the proposals it was given."""

    def __init__(self, propose: object) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.propose = propose  # type: ignore[assignment]
        self.seen: list[torch.Tensor] = []

    def slots(self, images: Images) -> Slots:
        self.seen.append(images.proposals)
        none = torch.zeros(len(images), 1)
        return Slots(torch.zeros(len(images), 1, 4), none, none.long(), none > 0)


def test_proposals_are_asked_of_the_bare_proposer_and_once_for_all_who_share_it(tmp_path: Path):
    asked = []

    class Counting(SlidingWindow):
        def __call__(self, image: np.ndarray) -> np.ndarray:
            asked.append(image.shape)
            return super().__call__(image)

    propose = CachedProposer(Counting(count=2), tmp_path)
    detectors = {"one": Told(propose), "two": Told(propose), "own": Told(None)}
    images = [np.zeros((32, 64, 3), np.uint8), np.full((32, 32, 3), 9, np.uint8)]
    times = take_times(detectors, images, Preprocess(short=64, long=128), rounds=1)
    assert len(asked) == 2 + 2 * 2  # for the cache, then in a round to warm up and one that counts
    assert [len(part) for part in times["one"]] == [2, 2]
    assert times["one"].proposals == times["two"].proposals
    assert [len(part) for part in times["own"]] == [0, 2]
    assert detectors["one"].seen[0].tolist()[0][0] == [0, 0, 128, 64]  # the whole image, in pixels of the batch
    assert detectors["own"].seen[0].shape == (1, 0, 4)


def test_what_proposing_ahead_took(tmp_path: Path):
    parts = open_dataset(write_shapes(tmp_path / "data", {"train": 3, "val": 1, "test": 2}))
    propose = CachedProposer(SlidingWindow(count=5), tmp_path / "cache")
    before = propose_ahead(propose, (parts["train"], parts["test"]))
    assert [(one["images"], one["new"]) for one in before] == [(3, 3), (2, 2)]
    assert all(one["seconds"] > 0 for one in before)
    again = propose_ahead(propose, (parts["train"], parts["test"]))
    assert [(one["images"], one["new"]) for one in again] == [(3, 0), (2, 0)]


def test_a_smaller_subset_is_part_of_a_larger_one(tmp_path: Path):
    dataset = open_dataset(write_shapes(tmp_path, {"train": 9, "test": 2}))["train"]
    assert subset(dataset, None, 0) is dataset
    few, many, other = (subset(dataset, count, seed) for count, seed in ((3, 0), (6, 0), (6, 1)))
    ids = [[one.image_id(index) for index in range(len(one))] for one in (few, many, other)]
    assert [len(one) for one in ids] == [3, 6, 6]
    assert set(ids[0]) < set(ids[1]) and ids[1] != ids[2] and ids[1] == sorted(ids[1])


def test_a_sample_passes_over_what_cannot_be_read(tmp_path: Path):
    dataset = open_dataset(write_shapes(tmp_path, {"train": 2, "test": 4}))["test"]
    dataset.path(1).write_bytes(b"no image")
    assert len(sample(dataset, 4, 0)) == 3
    assert len(sample(dataset, 2, 0)) == 2


def test_options_go_to_whoever_has_them():
    configs = {name: configure(name, backbone="resnet50", proposals=7) for name in ("faster_rcnn", "retinanet")}
    assert {name: config.backbone for name, config in configs.items()} == dict.fromkeys(configs, "resnet50")
    assert configs["faster_rcnn"].proposals == 7
    own = differences(configs)
    assert own["faster_rcnn"]["proposals"] == 7 and "proposals" not in own["retinanet"]
    assert own["faster_rcnn"]["anchor_scales"] != own["retinanet"]["anchor_scales"]
    assert "backbone" not in own["faster_rcnn"] and "channels" not in own["retinanet"]


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_can_be_a_step(name: str):
    assert configure(name, backbone="mobilenet_v3_small", nonsense=1).backbone == "mobilenet_v3_small"
