"""Ours and torchvision's Faster R-CNN, RetinaNet, FCOS and SSD, trained at equal terms: AP, and the time to train.

    python benchmarks/equal_terms.py --data bccd/ --seeds 3 --epochs 6
    python benchmarks/equal_terms.py --data voc/ --images 600 --epochs 4 --detectors fcos ssd

Both sides have the same backbone with ImageNet weights, pyramid or extra levels, widths, anchors, images, batches,
augmentation, optimizer, schedule, average of the weights, precision and epochs, in the loop of `boxwright train`. The
rest is torchvision's (`benchmarks/torchvision_detectors.py`): heads, assignment, sampling, box coder, losses and
suppression. Of its RetinaNet, which has no norm in its heads by default and 32 groups in its second version, both are
trained, and the one with the better mean AP is compared.

AP is of the last epoch's average of the weights, on the test split, over the same resized images. The difference is
ours minus theirs, with its 95 % interval over draws of the same images and seeds for both: *ahead* where all of it is
above 0, *behind* where all of it is below, else *tied*. The time is that of the training loop, loading included: CPU
seconds of this process on a CPU, elapsed seconds elsewhere.

Every training is kept in --runs: its numbers in a JSON, its detections beside it. What is there is not made again with
the same settings and data, whatever became of the code: to repeat a training, remove its files. Two commands may work
on different detectors of one folder at a time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch

import boxwright
from boxwright.bench.run.job import load_detections, save_detections
from boxwright.bench.verdict import write_difference
from boxwright.cli.lineage_race import subset
from boxwright.data.augment import PRESETS
from boxwright.data.batch import Batches
from boxwright.data.dataset import Dataset
from boxwright.data.fingerprint import fingerprint
from boxwright.data.formats import open_dataset
from boxwright.data.preprocess import Preprocess
from boxwright.detectors import DetectorConfig, FasterRCNNConfig, FCOSConfig, RetinaNetConfig, SSDConfig
from boxwright.device import choose_device, machine
from boxwright.files import write_atomically
from boxwright.measure.evaluate import detect_dataset, targets_of
from boxwright.metrics import bootstrap_ap, evaluate, paired_difference
from boxwright.predict.predictor import Predictor
from boxwright.train.config import TrainConfig
from boxwright.train.loop import train
from boxwright.units import Interval, counted, digits, fraction
from boxwright.version import __version__
from record import add_out, save
from torchvision_detectors import (
    TorchvisionFasterRCNNConfig,
    TorchvisionFCOSConfig,
    TorchvisionRetinaNetConfig,
    TorchvisionSSDConfig,
)

TABLE = "equal terms"
COLUMNS = {
    "peer": "against",
    "ours": "AP, ours",
    "theirs": "theirs",
    "ours 50": "AP50, ours",
    "theirs 50": "theirs",
    "difference": "difference in AP",
    "verdict": "ours is",
    "seconds": "to train, ours",
    "their seconds": "theirs",
    "ratio": "ratio",
    "code": "code",
}


class Side(NamedTuple):
    """What is trained: a detector, and what its files are called."""

    name: str
    config: DetectorConfig


class Pair(NamedTuple):
    """Ours, and torchvision's: one, or several of which the best counts."""

    title: str
    ours: Side
    theirs: tuple[Side, ...]


PAIRS = {
    "faster_rcnn": Pair(
        "Faster R-CNN",
        Side("faster_rcnn", FasterRCNNConfig()),
        (Side("torchvision_faster_rcnn", TorchvisionFasterRCNNConfig()),),
    ),
    "retinanet": Pair(
        "RetinaNet",
        Side("retinanet", RetinaNetConfig()),
        (
            Side("torchvision_retinanet", TorchvisionRetinaNetConfig()),
            Side("torchvision_retinanet_groups", TorchvisionRetinaNetConfig(head_norm="group")),
        ),
    ),
    "fcos": Pair("FCOS", Side("fcos", FCOSConfig()), (Side("torchvision_fcos", TorchvisionFCOSConfig()),)),
    "ssd": Pair("SSD", Side("ssd", SSDConfig()), (Side("torchvision_ssd", TorchvisionSSDConfig()),)),
}


@dataclass(frozen=True, eq=False)
class Terms:
    """What is equal for all: the splits "train" and "test", and how they are learnt; `training` without its seed."""

    data: Path
    splits: Mapping[str, Dataset]
    preprocess: Preprocess
    augment: str
    batch: int
    training: TrainConfig
    pretrained: bool
    device: torch.device
    runs: Path

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What numbers depend on, beside the detector, the seed and the code."""
        training = asdict(self.training)
        del training["seed"]
        about = {"augment": self.augment, "batch": self.batch, "pretrained": self.pretrained}
        about |= {"preprocess": self.preprocess.to_dict(), "training": training, "device": self.device.type}
        return {**about, "data": fingerprint(self.splits, self.data).digest}


@dataclass(frozen=True, eq=False)
class Trial:
    """A side with a seed, and its two files."""

    side: Side
    seed: int
    terms: Terms

    @property
    def settings(self) -> dict[str, Any]:
        return {**self.terms.settings, "detector": asdict(self.side.config)}

    @property
    def row(self) -> Path:
        digest = hashlib.sha256(json.dumps(self.settings).encode()).hexdigest()[:8]
        return self.terms.runs / f"{self.side.name}-{digest}-{self.seed}.json"

    @property
    def detections(self) -> Path:
        """On the test split."""
        return self.row.with_suffix(".npz")

    def read(self) -> dict[str, Any]:
        return json.loads(self.row.read_text(encoding="utf-8"))

    def make(self) -> None:
        """Train, detect and evaluate."""
        terms, test = self.terms, self.terms.splits["test"]
        config = replace(terms.training, seed=self.seed)
        torch.manual_seed(self.seed)
        detector = self.side.config.build(len(test.names), terms.pretrained).to(terms.device)
        batches = Batches(
            terms.splits["train"], terms.preprocess, PRESETS[terms.augment], terms.batch, seed=self.seed,
            device=terms.device,
        )  # fmt: skip
        clock = time.process_time if terms.device.type == "cpu" else time.perf_counter
        started, last = clock(), None
        for epoch in train(detector, batches, config):
            last = epoch
        seconds = clock() - started
        assert last is not None
        detector.load_state_dict(last.training.weights())
        found = detect_dataset(Predictor(detector, test.names, terms.preprocess), test, terms.batch)
        quality = evaluate(found, targets_of(test), test.names)
        about = {"side": self.side.name, "seed": self.seed, "code": code(), "machine": machine(terms.device)}
        row = {**about, "seconds": seconds, "losses": last.losses, "test": quality.to_dict(), "settings": self.settings}
        save_detections(self.detections, found)
        write_atomically(self.row, json.dumps(row, indent=1) + "\n")


def code() -> str:
    """The commit in use, or the version where there is no repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return __version__


def compare(pair: Pair, terms: Terms, seeds: Sequence[int], replicates: int) -> Iterator[tuple[str, dict[str, str]]]:
    """A row for each seed that both sides have, and one for all of them together, with their title."""
    sides = [[Trial(side, seed, terms) for seed in seeds] for side in (pair.ours, *pair.theirs)]
    complete = [trials for trials in zip(*sides, strict=True) if all(trial.row.is_file() for trial in trials)]
    if not complete:
        return
    ours, *peers = ([*trials] for trials in zip(*complete, strict=True))
    theirs = max(peers, key=lambda trials: statistics.fmean(trial.read()["test"]["ap"] for trial in trials))
    title = f"{terms.data.resolve().name}, {counted(terms.training.epochs or 0, 'epoch')}: {pair.title}"
    for row in zip(ours, theirs, strict=True):
        yield f"{title}, seed {row[0].seed}", cells([row[0]], [row[1]], replicates)
    if len(ours) > 1:
        yield f"{title}, all seeds", cells(ours, theirs, replicates)


def cells(ours: Sequence[Trial], theirs: Sequence[Trial], replicates: int) -> dict[str, str]:
    """A row of the table, by column of `COLUMNS`: means over seeds, equally many for both sides."""
    test = ours[0].terms.splits["test"]
    targets = targets_of(test)
    aps = [
        bootstrap_ap([load_detections(trial.detections) for trial in trials], targets, test.names, replicates)
        for trials in (ours, theirs)
    ]
    difference = paired_difference(*aps)
    seconds = [[trial.read()["seconds"] for trial in trials] for trials in (ours, theirs)]
    ratio = statistics.median(our / their for our, their in zip(*seconds, strict=True))
    codes = dict.fromkeys(trial.read()["code"] for trial in (*ours, *theirs))
    return {
        "peer": theirs[0].side.name,
        "ours": fraction(aps[0][0, 0]), "theirs": fraction(aps[1][0, 0]),
        "ours 50": fraction(aps[0][1, 0]), "theirs 50": fraction(aps[1][1, 0]),
        "difference": write_difference(difference), "verdict": verdict(difference),
        "seconds": f"{digits(statistics.fmean(seconds[0]))} s",
        "their seconds": f"{digits(statistics.fmean(seconds[1]))} s",
        "ratio": digits(ratio), "code": ", ".join(codes),
    }  # fmt: skip


def verdict(difference: Interval) -> str:
    """Of ours minus theirs."""
    if difference.low > 0:
        return "ahead"
    return "behind" if difference.high < 0 else "tied"


def make_terms(options: argparse.Namespace) -> Terms:
    if options.quick:
        options.images, options.test_images, options.size, options.batch, options.epochs = 2, 2, 64, 2, 1
    splits = open_dataset(options.data)
    chosen = {"train": options.images, "test": options.test_images}
    parts = {name: subset(splits[name], count or len(splits[name]), 0) for name, count in chosen.items()}
    preprocess = Preprocess(short=options.size, long=round(1.3 * options.size))
    return Terms(
        options.data, parts, preprocess, options.augment, options.batch, TrainConfig(epochs=options.epochs),
        pretrained=not options.quick, device=choose_device(options.device), runs=options.runs,
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a dataset, as `boxwright train` takes it")
    parser.add_argument("--images", type=int, help="train on so many of the training images; on all if not given")
    parser.add_argument("--test-images", type=int, help="measure on so many of the test images; on all if not given")
    parser.add_argument("--detectors", nargs="+", default=list(PAIRS), choices=list(PAIRS))
    parser.add_argument("--seeds", type=int, default=3, help="how many: 0, 1, 2 ...")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--size", type=int, default=320, help="the shorter side of images; the longer is 1.3 times it")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--augment", default="standard", choices=list(PRESETS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=Path, default=Path("runs/equal_terms"), help="the folder of all trainings")
    parser.add_argument("--table", action="store_true", help="train nothing: the table of what is there")
    parser.add_argument("--quick", action="store_true", help="one step on two tiny images, from random weights")
    add_out(parser)
    options = parser.parse_args(arguments)
    boxwright.keep_heap()
    terms, replicates = make_terms(options), 20 if options.quick else 1000
    options.runs.mkdir(parents=True, exist_ok=True)
    pairs = [PAIRS[name] for name in options.detectors]
    trials = [
        Trial(side, seed, terms)
        for seed in range(options.seeds)
        for pair in pairs
        for side in (pair.ours, *pair.theirs)
    ]
    for number, trial in enumerate(trials, 1):
        made = trial.row.is_file()
        if not made and options.table:
            continue
        if not made:
            trial.make()
        row = trial.read()
        print(
            f"{number}/{len(trials)} {trial.side.name}, seed {trial.seed}: AP {fraction(row['test']['ap'])}, AP50 "
            f"{fraction(row['test']['ap50'])}, {row['seconds']:.0f} s to train" + " (made before)" * made,
            flush=True,
        )
    rows = dict(row for pair in pairs for row in compare(pair, terms, range(options.seeds), replicates))
    print("| | " + " | ".join(COLUMNS.values()) + " |")
    for title, row in rows.items():
        print(f"| {title} | " + " | ".join(row[column] for column in COLUMNS) + " |")
    save(options.out, rows, TABLE, COLUMNS)


if __name__ == "__main__":
    main()
