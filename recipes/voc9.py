"""The bundled detector `voc9`: Faster R-CNN on EfficientNet-Lite0, nine classes of a Pascal VOC subset, CPU-trained.

    python recipes/voc9.py learn --data DIR --out runs/voc9-3                                       # three epochs
    python recipes/voc9.py go-on --data DIR --out runs/voc9-7 --start runs/voc9-3/last.safetensors  # four more
    python recipes/voc9.py bundle --data DIR --run runs/voc9-7                                      # measure, write it

Each continues where it was when it is called again after having been stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro

from boxwright import checkpoint
from boxwright.data.augment import Augment
from boxwright.data.formats import open_dataset
from boxwright.data.preprocess import Preprocess
from boxwright.detectors import FasterRCNNConfig
from boxwright.measure.evaluate import best_threshold, detect_dataset, evaluate_dataset, targets_of
from boxwright.metrics import evaluate
from boxwright.predict.predictor import Predictor
from boxwright.train.config import TrainConfig
from boxwright.train.run import Run

NAMES = ("person", "cat", "dog", "horse", "sheep", "cow", "car", "bus", "train")
DETECTOR = FasterRCNNConfig(class_agnostic=True, canonical_size=160.0)
PREPROCESS = Preprocess(mode="short_side", short=320, long=416)
COMMON: dict[str, Any] = {
    "backbone_lr": 0.4, "weight_decay": 0.02, "momentum": 0.9, "peak_momentum": 0.9, "precision": "bf16",
}  # fmt: skip
BUNDLED = Path(__file__).parents[1] / "src/boxwright/zoo/voc9.safetensors"


def learn(data: Path, out: Path = Path("runs/voc9-3"), workers: int = 1) -> None:
    """Three epochs from ImageNet weights, flipped and zoomed images only."""
    config = TrainConfig(epochs=3, lr=7e-4, ema=0.995, **COMMON)
    _stage(data, out, config, Augment(scale=(0.7, 1.1)), None, workers)


def go_on(
    data: Path, start: Path, out: Path = Path("runs/voc9-7"), epochs: int = 4, lr: float = 5e-4, workers: int = 1
) -> None:
    """A second cosine from the first one's average, with crops and colours, which pay in a longer training."""
    config = TrainConfig(epochs=epochs, lr=lr, ema=0.998, seed=1, **COMMON)
    _stage(data, out, config, Augment(scale=(0.7, 1.1), crop=0.3, color=0.3), start, workers)


def _stage(data: Path, out: Path, config: TrainConfig, augment: Augment, start: Path | None, workers: int) -> None:
    splits = {split: dataset.restrict(NAMES) for split, dataset in open_dataset(data).items()}
    run = Run(out, DETECTOR, splits, PREPROCESS, augment, batch=8, training=config, workers=workers)
    detector = run.build()
    if start is not None:
        checkpoint.fill(detector, checkpoint.read(start)[0], start)
    training = run.begin(detector)
    if run.state.is_file():
        training.resume(run.state)
    run.train(training)


def bundle(data: Path, run: Path = Path("runs/voc9-7"), out: Path = BUNDLED) -> None:
    """Calibrate the threshold on `val`, measure on `test` once, and write the file in half precision."""
    splits = open_dataset(data)
    loaded = checkpoint.load_detector(run / "best.safetensors")
    validation = splits["val"].restrict(NAMES)
    predictor = Predictor(loaded.detector, NAMES, PREPROCESS)
    found = detect_dataset(predictor, validation)
    targets = targets_of(validation)
    metrics = {
        "val": evaluate(found, targets, NAMES).to_dict(),
        "test": evaluate_dataset(predictor, splits["test"].restrict(NAMES)).to_dict(),
    }
    metadata = {key: loaded.metadata[key] for key in ("epoch", "training")}
    metadata |= {"threshold": round(best_threshold(found, targets), 3), "metrics": metrics, "recipe": "recipes/voc9.py"}
    checkpoint.save_detector(out, loaded.detector, DETECTOR, NAMES, PREPROCESS, metadata, half=True)
    print(json.dumps(metadata, indent=1))


if __name__ == "__main__":
    commands: dict[str, Callable] = {"learn": learn, "go-on": go_on, "bundle": bundle}
    tyro.extras.subcommand_cli_from_dict(commands)
