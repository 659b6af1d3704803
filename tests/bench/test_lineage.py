"""The parts of a race that the lineage needs: proposals ahead, subsets and samples, configs and their differences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxwright.bench.plan.cells import configure, differences
from boxwright.bench.run.job import propose_ahead
from boxwright.bench.run.timing import sample
from boxwright.cli.lineage_race import subset
from boxwright.data.formats import open_dataset
from boxwright.detectors import DETECTORS
from boxwright.predict.propose import sources_of
from boxwright.proposals import CachedProposer, ProposalsFromFile, SlidingWindow, image_key, write_proposals
from shapes import write_shapes


def test_what_proposing_ahead_took(tmp_path: Path):
    splits = open_dataset(write_shapes(tmp_path / "data", {"train": 3, "val": 1, "test": 2}))
    propose = CachedProposer(SlidingWindow(count=5), tmp_path / "cache")
    before = propose_ahead(propose, splits)
    assert {split: (of["images"], of["new"]) for split, of in before.items()} == {
        "train": (3, 3), "val": (1, 1), "test": (2, 2),
    }  # fmt: skip
    assert all(of["seconds"] > 0 for of in before.values())
    assert [of["new"] for of in propose_ahead(propose, splits).values()] == [0, 0, 0]


def test_a_file_of_proposals_is_asked_for_its_images_only(tmp_path: Path):
    splits = open_dataset(write_shapes(tmp_path / "data", {"train": 2, "val": 1, "test": 1}))
    images = [source.read() for dataset in splits.values() for source in sources_of(dataset)]
    boxes = np.array([[0, 0, 9, 9]], np.float32)
    write_proposals(tmp_path / "boxes.safetensors", {image_key(image): boxes for image in images}, "by hand")
    taken = propose_ahead(ProposalsFromFile(tmp_path / "boxes.safetensors"), splits)
    assert [of["images"] for of in taken.values()] == [2, 1, 1]


def test_a_smaller_subset_is_part_of_a_larger_one(tmp_path: Path):
    dataset = open_dataset(write_shapes(tmp_path, {"train": 9, "test": 2}))["train"]
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
    names = ("faster_rcnn", "retinanet")
    configs: dict[str, Any] = {name: configure(name, backbone="resnet50", proposals=7) for name in names}
    assert {name: config.backbone for name, config in configs.items()} == dict.fromkeys(configs, "resnet50")
    assert configs["faster_rcnn"].proposals == 7
    own = differences(configs)
    assert own["faster_rcnn"]["proposals"] == 7 and "proposals" not in own["retinanet"]
    assert own["faster_rcnn"]["anchor_scales"] != own["retinanet"]["anchor_scales"]
    assert "backbone" not in own["faster_rcnn"] and "channels" not in own["retinanet"]


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_can_be_a_step(name: str):
    config: Any = configure(name, backbone="mobilenet_v3_small", nonsense=1)
    assert config.backbone == "mobilenet_v3_small"
