"""Somebody's detector in an ONNX file in a race: YOLOX (Ge et al. 2021), run by ONNX Runtime.

    pip install onnxruntime
    python recipes/race_onnx.py --weights yolox_nano.onnx --data coco128/ --epochs 3

What a file's network expects of an image, and what its outputs mean, is in no ONNX file: `Preprocess` and `YOLOX` are
what its authors' code does. With these two a `Predictor` reads images and moves boxes back, as for our own detectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import tyro
from torch import Tensor
from torchvision.ops import batched_nms

from boxwright.bench import ExternalModel, Race, Rules, grid, race
from boxwright.data.formats import open_dataset
from boxwright.data.preprocess import Preprocess
from boxwright.predict.predictor import Predictor
from boxwright.train.config import TrainConfig
from boxwright.types import Images, Slots
from boxwright.zoo.coco import NAMES

PREPROCESS = Preprocess("letterbox", height=416, width=416, fill=114, resample="plain", rounding="floor")


class YOLOX:
    """A `Program`: one image (1, 3, H, W) to slots, by an ONNX file as YOLOX's `export_onnx.py` writes it.

    The network takes blue, green, red, 0..255. It gives a row per cell of the strides 8, 16 and 32: the centre from the
    corner of the cell, in cells; the logarithms of width and height in cells; "is there an object"; a score per class.

    score, nms  the thresholds with which YOLOX is evaluated
    """

    def __init__(self, path: Path, score: float = 0.01, nms: float = 0.65, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.input, self.score, self.nms = self.session.get_inputs()[0].name, score, nms

    def __call__(self, images: Images) -> Slots:
        (answer,) = self.session.run(None, {self.input: images.pixels.flip(1).numpy()})
        rows = torch.from_numpy(answer)[0]  # (R, 5 + K)
        corners, strides = cells(*images.pixels.shape[2:])
        centers, sides = (rows[:, :2] + corners) * strides, rows[:, 2:4].exp() * strides
        scores, labels = (rows[:, 4:5] * rows[:, 5:]).max(1)
        boxes = torch.cat([centers - sides / 2, centers + sides / 2], dim=1)
        likely = scores >= self.score
        boxes, scores, labels = boxes[likely], scores[likely], labels[likely]
        kept = batched_nms(boxes, scores, labels, self.nms)  # best first
        columns = boxes[kept], scores[kept], labels[kept], torch.ones_like(kept, dtype=torch.bool)
        return Slots(*(column[None] for column in columns))


def cells(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Of all strides, row by row: the corner of each cell in cells (R, 2), and its stride (R, 1)."""
    corners, strides = [], []
    for stride in (8, 16, 32):
        corners.append(torch.cartesian_prod(torch.arange(height // stride), torch.arange(width // stride)).flip(1))
        strides.append(torch.full((len(corners[-1]), 1), stride))
    return torch.cat(corners), torch.cat(strides)


def external_model(weights: Path, names: Sequence[str], threads: int = 0) -> ExternalModel:
    """The file as an entrant, on data with these classes; what it detects of other classes is left out."""
    predictor = Predictor(YOLOX(weights, threads=threads), tuple(NAMES.values()), PREPROCESS, threshold=0.0)
    known = [name for name in predictor.names if name in names]

    def detect(path: Path) -> tuple[Tensor, Tensor, list[int]]:
        result = predictor(path, classes=known)
        return result.boxes, result.scores, [names.index(name) for name in result.label_names]

    return ExternalModel(weights.stem, detect)


def main(
    weights: Path, data: Path, epochs: int = 3, size: int = 320, seeds: int = 1, out: Path = Path("runs/race-onnx")
) -> Race:
    """The detector in an ONNX file against our SSD, trained here."""
    splits = open_dataset(data)
    entrants = [*grid(["ssd"], sizes=[size]), external_model(weights, splits.names, torch.get_num_threads())]
    result = race(entrants, splits, Rules(seeds=seeds, workers=0), TrainConfig(epochs=epochs), out=out, report_images=0)
    print(out / "report.html")
    return result


if __name__ == "__main__":
    tyro.cli(main)
