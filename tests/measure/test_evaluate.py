"""An evaluation has the numbers of one image at a time, whatever the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from boxwright import zoo
from boxwright.data.dataset import Dataset, Strings
from boxwright.data.preprocess import Preprocess
from boxwright.detectors import FasterRCNNConfig, FastRCNNConfig, RetinaNetConfig, SPPNetConfig, SSDConfig
from boxwright.detectors.config import DetectorConfig
from boxwright.measure.evaluate import detect_dataset
from boxwright.metrics import evaluate
from boxwright.predict.predictor import Predictor
from boxwright.types import Detections, Size, Target
from calibrated import photographs
from shapes import draw_shapes

NET = "mobilenet_v3_small"
CONFIGS = (
    SSDConfig(NET),
    RetinaNetConfig(NET, channels=16, depth=1, score_threshold=(0.0,)),
    FasterRCNNConfig(NET, channels=16, proposals=20, hidden=16),
    FastRCNNConfig(NET, channels=16, hidden=16, proposer="sliding_window", proposals=30),
    SPPNetConfig(NET, hidden=16, proposer="sliding_window", proposals=30),
)


def dataset(folder: Path, images: list[np.ndarray], targets: list[Target], names: tuple[str, ...]) -> Dataset:
    """The images as PNG files, with these objects."""
    paths = [folder / f"{number}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        PIL.Image.fromarray(image).save(path)
    columns = {
        name: np.concatenate([getattr(target, name).numpy() for target in targets]) for name in vars(targets[0])
    }  # fmt: skip
    return Dataset(
        names, Strings.pack(map(str, paths)), np.arange(len(paths)), np.array([image.shape[:2] for image in images]),
        np.cumsum([0, *map(len, targets)]), **columns,
    )  # fmt: skip


def assert_equal(found: list[Detections], expected: list[Detections]) -> None:
    for of_image, alone in zip(found, expected, strict=True):
        assert of_image.labels.tolist() == alone.labels.tolist()
        torch.testing.assert_close(of_image.boxes, alone.boxes, atol=1e-2, rtol=0)
        torch.testing.assert_close(of_image.scores, alone.scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_detections_do_not_depend_on_the_batch(config: DetectorConfig, tmp_path: Path):
    """Of images whose canvases are 64 x 96, 64 x 64 and 96 x 64, in six resized shapes."""
    sizes = [(80, 120), (80, 110), (80, 80), (120, 80), (80, 75), (105, 80)]
    images, targets = zip(*(draw_shapes(0, number, Size(*size)) for number, size in enumerate(sizes)), strict=True)
    data = dataset(tmp_path, list(images), list(targets), ("circle", "square", "triangle"))
    torch.manual_seed(0)
    predictor = Predictor(config.build(3, pretrained=False), data.names, Preprocess(short=64, long=96))
    alone = detect_dataset(predictor, data, 1, progress=False)
    assert sum(map(len, alone)) > 50
    for batch in (4, 60):
        assert_equal(detect_dataset(predictor, data, batch, progress=False), alone)


def test_the_numbers_of_photographs_do_not_depend_on_the_batch(tmp_path: Path):
    """The objects are what the bundled model finds, ten pixels to the right, so that it is wrong at high overlaps."""
    predictor = zoo.load("voc9", "cpu")
    photos = list(photographs().values())
    alone = [Detections(found.boxes, found.scores, found.labels) for found in predictor(photos, predictor.floor)]
    shift = torch.tensor([10.0, 0, 10, 0])
    targets = [Target(sure.boxes + shift, sure.labels) for sure in (found[found.scores > 0.1] for found in alone)]
    data = dataset(tmp_path, photos, targets, predictor.names)
    found = detect_dataset(predictor, data, batch_size=8, progress=False)
    assert_equal(found, alone)
    expected = evaluate(alone, targets, predictor.names).ap
    assert evaluate(found, targets, predictor.names).ap == pytest.approx(expected, abs=1e-3)
    assert 0.2 < expected < 0.9
