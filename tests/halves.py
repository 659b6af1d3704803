"""A detector with known detections, for tests of everything around a detector."""

from __future__ import annotations

import torch

from boxwright.data.preprocess import Preprocess
from boxwright.detectors import Detector
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
