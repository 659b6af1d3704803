"""A detector with known detections, for tests of everything around a detector."""

from __future__ import annotations

import torch

from boxwright.data.preprocess import Preprocess
from boxwright.detectors import Detector
from boxwright.detectors.base import Candidates, Select
from boxwright.predict.predictor import Predictor
from boxwright.types import Images, Slots

NAMES = ("whole", "half")


class Halves(Detector):
    """Detects a "whole", the image (score .9), and a "half", its left half (score .4); records the batch sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.weight = torch.nn.Parameter(torch.zeros(()))  # so that it is on a device, like any detector

    def slots(self, images: Images) -> Slots:
        count = len(images)
        self.batches.append(count)
        whole = torch.zeros(count, 4)
        whole[:, 2:] = images.sizes.flip(1)  # height, width -> width, height
        boxes = torch.stack([whole, whole * torch.tensor([1, 1, 0.5, 1])], dim=1)  # (N, 2, 4)
        labels, valid = torch.tensor([[0, 1]]).expand(count, 2), torch.ones(count, 2, dtype=torch.bool)
        return Slots(boxes, torch.tensor([[0.9, 0.4]]).expand(count, 2), labels, valid)


def halves() -> Predictor:
    return Predictor(Halves(), NAMES, Preprocess(mode="short_side", short=64, long=128), threshold=0.5)


class Overlapping(Detector):
    """Two boxes of "whole" with IoU .6 and scores .9 and .8, and a "half" (.7) at the first; NMS at IoU .5."""

    def __init__(self, slots: int) -> None:
        super().__init__()
        self.select = Select(slots=slots)
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def slots(self, images: Images) -> Slots:
        boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 6], [0, 0, 10, 10]]).expand(len(images), 3, 4)
        rows, labels = torch.arange(3).expand(len(images), 3), torch.tensor([0, 0, 1]).expand(len(images), 3)
        scores = torch.tensor([0.9, 0.8, 0.7]).expand(len(images), 3)
        return self.select(boxes, Candidates(rows, labels, torch.zeros_like(labels), scores), images.sizes)


def overlapping(slots: int = 100) -> Predictor:
    return Predictor(Overlapping(slots), NAMES, Preprocess(mode="short_side", short=32, long=32))
