"""The bundled detector `voc9`: Faster R-CNN on EfficientNet-Lite0, nine classes of a Pascal VOC subset.

    python recipes/voc9.py learn --data DIR --seed 0 --out runs/voc9  # again, to continue a stopped one
    python recipes/voc9.py bundle --data DIR --weights runs/voc9/last.safetensors  # measure it, and write the file

`--start FILE` begins with the weights of another training.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import tyro

from boxwright import checkpoint
from boxwright.data.augment import Augment
from boxwright.data.dataset import Dataset
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
AUGMENT = Augment(scale=(0.7, 1.2), crop=0.5, color=0.5, mosaic=0.2)
BUNDLED = Path(__file__).parents[1] / "src/boxwright/zoo/voc9.safetensors"


def splits_of(data: Path) -> dict[str, Dataset]:
    """All splits that there are, of the nine classes."""
    return {split: dataset.restrict(NAMES) for split, dataset in open_dataset(data).items()}


def make_run(
    splits: Mapping[str, Dataset], out: Path, seed: int, epochs: int, batch: int, workers: int, device: str
) -> Run:
    """The rate grows with the root of the batch, as AdamW wants it."""
    lr = 1.2e-3 * (batch / 64) ** 0.5
    config = TrainConfig(
        epochs=epochs, lr=lr, backbone_lr=0.4, weight_decay=0.05, flat=0.3, light_end=0.15, ema=0.998, seed=seed
    )
    return Run(out, DETECTOR, splits, PREPROCESS, AUGMENT, batch, config, device=device, workers=workers)


def learn(
    data: Path, out: Path = Path("runs/voc9"), seed: int = 0, epochs: int = 36, batch: int = 64, workers: int = 4,
    device: str = "auto", start: Path | None = None,
) -> None:  # fmt: skip
    """Train from ImageNet weights, or those of `start`, and continue where it was when it is called again."""
    run = make_run(splits_of(data), out, seed, epochs, batch, workers, device)
    detector = run.build()
    if start is not None:
        checkpoint.fill(detector, checkpoint.read(start)[0], start)
    training = run.begin(detector)
    if run.state.is_file():
        training.resume(run.state)
    run.train(training)


def bundle(data: Path, weights: Path, out: Path = BUNDLED) -> None:
    """Calibrate the threshold on `val`, measure on `test` once, and write the file in half precision."""
    splits = splits_of(data)
    loaded = checkpoint.load_detector(weights)
    predictor = Predictor(loaded.detector, NAMES, PREPROCESS)
    found, targets = detect_dataset(predictor, splits["val"]), targets_of(splits["val"])
    metrics = {
        "val": evaluate(found, targets, NAMES).to_dict(),
        "test": evaluate_dataset(predictor, splits["test"]).to_dict(),
    }
    metadata = {key: loaded.metadata[key] for key in ("epoch", "training")}
    metadata |= {"threshold": round(best_threshold(found, targets), 3), "metrics": metrics, "recipe": "recipes/voc9.py"}
    checkpoint.save_detector(out, loaded.detector, DETECTOR, NAMES, PREPROCESS, metadata, half=True)
    print(json.dumps(metadata, indent=1))


if __name__ == "__main__":
    commands: dict[str, Callable] = {"learn": learn, "bundle": bundle}
    tyro.extras.subcommand_cli_from_dict(commands)
