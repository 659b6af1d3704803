"""What a training chooses where nothing is given, by numbers that can be checked by hand."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from boxwright.boxes.anchors import AnchorGrid
from boxwright.checkpoint import save_detector
from boxwright.cli import main
from boxwright.cli.train import Train
from boxwright.cli.training import read_options
from boxwright.data.dataset import Dataset, Strings
from boxwright.data.preprocess import Preprocess
from boxwright.detectors import DetectorConfig, FasterRCNNConfig, FCOSConfig, RCNNConfig, RetinaNetConfig, SSDConfig
from boxwright.device import free_memory
from boxwright.train.choose import (
    Anchored,
    _anchors_of,
    _variants,
    choose,
    choose_batch,
    choose_size,
    is_ample,
    uncovered,
)
from boxwright.train.run import Run
from boxwright.types import Size
from shapes import write_shapes

USUAL, IMAGE = Preprocess(short=320, long=416), Size(512, 640)


def dataset(*sides: tuple[float, float], image: Size = IMAGE, images: int = 1, step: int = 64) -> Dataset:
    """Boxes of these widths and heights around the points (s, s), (2 s, 2 s) ... of the first image."""
    middles = step * (1 + np.arange(len(sides), dtype=np.float32))[:, None]
    half = np.array(sides, np.float32).reshape(-1, 2) / 2
    boxes, none = np.concatenate([middles - half, middles + half], axis=1), np.zeros(len(sides), bool)
    offsets = np.array([0] + [len(boxes)] * images)
    return Dataset(
        ("thing",), Strings.pack([f"{i}.png" for i in range(images)]), np.arange(images), np.array([image] * images),
        offsets, boxes, np.zeros(len(boxes), np.int64), none, none, (2 * half).prod(axis=1),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("side", "image", "expected"),
    [
        (26, Size(512, 640), (320, 416)),  # 16.25 pixels there, as 320 is .625 of 512
        (25, Size(512, 640), (384, 512)),  # 15.6, and 18.75 at 384
        (19, Size(512, 640), (448, 576)),  # 14.25 at 384, 16.6 at 448
        (4, Size(512, 640), (512, 672)),  # as large as the images
        (4, Size(8000, 10_000), (640, 832)),  # the largest
        (4, Size(300, 400), (320, 416)),  # larger than the images already
        (100, Size(10, 10_000), (640, 832)),
    ],
)
def test_the_size_at_which_objects_have_two_cells(side: int, image: Size, expected: tuple[int, int]):
    assert choose_size(dataset((side, side), image=image))[0].sides == expected


def test_a_quarter_of_the_objects_may_be_smaller():
    large = [(100, 100)] * 4
    assert choose_size(dataset((8, 8), *large))[0] == USUAL
    size, reason = choose_size(dataset(*[(8, 8)] * 3, *large))
    assert size.sides == (512, 672)
    assert reason == (
        "--size 512 672: a quarter of the objects are under 8 pixels across there, and under 5 at 320 416, "
        "where a step takes about 1/2.5 of the time"
    )


def test_finer_maps_show_smaller_objects():
    data = dataset((20, 20))
    assert choose(data, FCOSConfig()).preprocess.sides == (448, 576)
    assert choose(data, FCOSConfig(levels=(2, 3, 4, 5))).preprocess == USUAL
    assert choose(data, FCOSConfig(levels=(4, 5))).preprocess.sides == (448, 576)


def test_a_size_that_is_given_is_kept_and_the_way_of_resizing_too():
    data, small = dataset((4, 4)), Preprocess(short=64, long=96)
    chosen = choose(data, FCOSConfig(), small, {"size"})
    assert chosen == (small, FCOSConfig(), {})
    letterbox = Preprocess("letterbox", height=320, width=416)
    assert choose(data, FCOSConfig(), letterbox).preprocess == Preprocess("letterbox", height=512, width=672)


def test_boxes_without_an_anchor():
    anchors = AnchorGrid(sizes=((16.0,),), ratios=(1.0,), strides=(16.0,), offset=0.5)
    same, quarter, corner, between = [0, 0, 16, 16], [4, 4, 12, 12], [0, 0, 12, 12], [8, 8, 24, 24]
    overlaps = [1, 64 / 256, 144 / 256, 64 / 448]
    for box, overlap in zip([same, quarter, corner, between], overlaps, strict=True):
        assert uncovered(np.array([box], np.float32), anchors) == (overlap < 0.5)
    assert uncovered(np.array([same, quarter, corner, between], np.float32), anchors) == 0.5
    assert uncovered(np.zeros((0, 4), np.float32), anchors) == 0.0


def test_anchors_are_added_where_many_objects_have_none():
    data = dataset(*[(16, 16)] * 8)  # 22.4 pixels have an IoU of 256 / 501.8 with them, 32 pixels .25
    chosen = choose(data, FasterRCNNConfig(), Preprocess(short=512, long=640), {"size"})
    assert chosen.config == FasterRCNNConfig(anchor_scales=(2.8, 4.0, 5.7))
    assert chosen.reasons == {
        "anchors": "--anchor-scales 2.8 4 5.7: with the usual anchors 100% of the objects have none of IoU .5, "
        "with these 0%"
    }
    usual = dataset(*[(40, 40)] * 8)
    for config in (FasterRCNNConfig(), RetinaNetConfig(), SSDConfig()):
        found, reason = choose(usual, config, Preprocess(short=512, long=640), {"size"})[1:]
        assert found == config and reason["anchors"].startswith("the usual anchors: ")


def test_anchors_that_are_given_are_kept():
    data, size = dataset((16, 16), step=60), Preprocess(short=512, long=640)  # in the middle of a cell of 8 pixels
    assert choose(data, SSDConfig(), size, {"size"}).config.box_scale == 2.1  # type: ignore[attr-defined]
    for config, given in ((SSDConfig(), "box_scale"), (SSDConfig(box_sizes=(9.0,) * 6), ""), (FCOSConfig(), ""),
                          (RetinaNetConfig(assignment="atss"), "")):  # fmt: skip
        assert choose(data, config, size, {"size", given}) == (size, config, {})


@pytest.mark.parametrize("config", [FasterRCNNConfig("mobilenet_v3_small"), SSDConfig("mobilenet_v3_small")])
@pytest.mark.parametrize(
    "data",
    [
        dataset(), dataset(images=3), dataset((40, 40)), dataset(*[(40, 40)] * 5), dataset((1, 1), (1, 1)),
        dataset((200, 10), (10, 200), (220, 11)), dataset((9000, 7000), image=Size(20_000, 30_000), step=10_000),
        dataset((0.5, 400)),
    ],
    ids=["no object", "no object in 3", "one", "equal", "one pixel", "long", "giant image", "a line"],
)  # fmt: skip
def test_odd_data_ends_in_a_choice_that_can_be_built(data: Dataset, config: DetectorConfig):
    chosen = choose(data, config)
    assert 320 <= chosen.preprocess.short <= 640
    with torch.device("meta"):
        chosen.config.build(2)


def test_random_weights_are_not_frozen():
    data = dataset((40, 40))
    assert choose(data, FCOSConfig(), pretrained=False).config == FCOSConfig(frozen_stages=0, norm="batch")
    for config, given in ((FCOSConfig(), {"norm"}), (FCOSConfig(frozen_stages=1), set()), (DetectorConfig(), set())):
        assert choose(data, config, given=given, pretrained=False).config == config


def test_the_batch_that_fits():
    gigabyte = 10**9  # 1.7 times that of each image at the peak, in .6 of what is free
    assert [choose_batch(gigabyte, free)[0] for free in (None, 23 * gigabyte, 22 * gigabyte, 1)] == [8, 8, 4, 2]
    assert choose_batch(None, 23 * gigabyte) == (8, "--batch 8: 23.0 GB of memory are free")
    assert choose_batch(gigabyte, 23 * gigabyte)[1] == "--batch 8: takes about 13.6 of 23.0 GB of free memory"
    small, large = USUAL, USUAL.with_sides(640, 832)
    sizes = [(FCOSConfig(), small), (FCOSConfig(), large), (RCNNConfig(), small)]
    assert [is_ample(20 * gigabyte, *given) for given in sizes] == [True, False, False]
    assert not is_ample(None, FCOSConfig(), small)
    free = free_memory(torch.device("cpu"))
    assert free is None or free > 0


def test_what_a_run_chose_is_said_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    data = write_shapes(tmp_path / "data", {"train": 4, "val": 1})
    monkeypatch.setattr("boxwright.cli.training.is_ample", lambda *_: False)
    monkeypatch.setattr("boxwright.cli.training.choose_batch", lambda kept, free: (2, f"--batch 2: {kept > 1e5}"))
    monkeypatch.setattr(Run, "train", lambda run, training, **_: training.save(run.state))
    words = shlex.split("train ssd --no-pretrained --backbone mobilenet_v3_small --extra 16 --device cpu --workers 0")
    assert main([*words, "--data", str(data), "--out", str(tmp_path / "run")]) == 0
    lines = [line.removeprefix("chosen: ") for line in capsys.readouterr().out.splitlines() if "chosen: " in line]
    content = json.loads((tmp_path / "run" / "config.json").read_text())
    assert lines == list(content["chosen"].values())
    assert list(content["chosen"]) == ["size", "anchors", "frozen", "batch", "epochs"]
    assert lines[3:] == ["--batch 2: True", "--epochs 100: 200 steps; about 500 in 6 to 100 epochs are usual"]
    options = read_options(tmp_path / "run" / "config.json")
    assert (options.batch, options.training.epochs, options.preprocess.sides) == (2, 100, (320, 416))
    assert main(["train", "--resume", str(tmp_path / "run"), "--device", "cpu", "--workers", "0"]) == 0
    assert "chosen: " not in capsys.readouterr().out


def test_the_size_of_a_model_is_kept_and_a_larger_one_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data, config = write_shapes(tmp_path / "data", {"train": 4, "val": 1}), SSDConfig("mobilenet_v3_small", extra=(16,))
    preprocess, model = Preprocess(short=32, long=64), tmp_path / "model.safetensors"
    save_detector(model, config.build(1), config, ("circle",), preprocess)
    words = shlex.split("--batch 2 --epochs 1 --workers 0 --device cpu --precision fp32 --dry-run")
    assert main(["train", "--from", str(model), "--data", str(data), *words]) == 0
    out, err = capsys.readouterr()
    assert "larger for this data: --size 64 96: a quarter of the objects are under " in err and "chosen: " not in out


def test_options_of_the_command_line_are_given():
    assert Train.defaults(["ssd", "--box-scale=3", "--data", "x"]).given == ("box_scale", "data")
    assert Train(given=("a",)) == Train()


@pytest.mark.parametrize(
    "config", [FasterRCNNConfig("mobilenet_v3_small"), RetinaNetConfig("mobilenet_v3_small"),
               SSDConfig("mobilenet_v3_small"), SSDConfig("mobilenet_v3_small", extra=())],
)  # fmt: skip
def test_the_anchors_that_are_compared_are_those_of_the_config(config: Anchored):
    for variant, anchors in _variants(config, _anchors_of(config)):
        built = _anchors_of(variant)
        for level in range(len(anchors.strides)):
            np.testing.assert_allclose(anchors.extents(level), built.extents(level), rtol=5e-3)
