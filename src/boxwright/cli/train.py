"""`boxwright train`: the worked example of the training loop, from a folder of annotated pictures to checkpoints."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import tyro

from boxwright import __version__
from boxwright.data.augment import PRESETS
from boxwright.data.batch import Batches
from boxwright.data.dataset import Dataset
from boxwright.data.formats import open_dataset
from boxwright.data.preprocess import Preprocess
from boxwright.detectors import DETECTORS, Detector
from boxwright.engine import checkpoint
from boxwright.engine.checkpoint import name_of
from boxwright.engine.distributed import Place, join
from boxwright.engine.evaluate import best_threshold, detect_dataset, evaluate_detector, targets_of
from boxwright.engine.history import History, rank, summary
from boxwright.engine.progress import Progress
from boxwright.engine.train import Epoch, TrainConfig, Training
from boxwright.metrics import Evaluation, evaluate

if TYPE_CHECKING:
    AnyDetector = Any
else:
    _choice = tyro.extras.subcommand_type_from_defaults(
        {name: config() for name, config in DETECTORS.items()}, prefix_names=False, sort_subcommands=False
    )
    AnyDetector = tyro.conf.OmitSubcommandPrefixes[tyro.conf.OmitArgPrefixes[_choice | None]]

_KEPT = ("classes", "size", "resize", "augment", "batch", "pretrained", "log_every")  # fields in config.json
_SAVE_EVERY = 300.0  # seconds
_EVALUATION_SHARE = 0.1  # of the time that training takes; a picture costs a third of what it costs to learn from it


@dataclass(frozen=True)
@tyro.conf.configure(tyro.conf.CascadeSubcommandArgs)
class Train:
    """Train a detector on your own data: COCO JSON, VOC XML or YOLO text, in any usual layout.

    The folder of the run gets best.safetensors and last.safetensors (for `boxwright detect` and `evaluate`), log.jsonl,
    curves.png, and resume.safetensors, from which a run that was stopped goes on as if it never had.
    """

    detector: AnyDetector = None
    data: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """The dataset: its folder, COCO JSON or YOLO YAML."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """The run's folder; runs/DATA-DETECTOR if not given. A number is added rather than anything overwritten."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Go on with the run in this folder, with its options; only --device and --workers may be given too."""
    classes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="")] = ()
    """Learn only these, in this order; all if not given."""
    size: tuple[int, int] = (320, 416)
    """The picture as the detector sees it, in pixels: its shorter side, and what its longer side may reach at most.
    For letterbox and stretch: height and width."""
    resize: Literal["short_side", "letterbox", "stretch"] = "short_side"
    """How pictures get their size; letterbox and stretch give all of them the same."""
    augment: Literal["none", "light", "standard", "strong"] = "standard"
    """How much training pictures are varied; more pays in longer runs."""
    batch: int = 8
    """Pictures in a step, shared among the processes of torchrun."""
    pretrained: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """The backbone starts from ImageNet weights (boxwright[pretrained]); with --no-pretrained from random ones."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Processes that load pictures; one core less than there are, at most 4, if not given."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ... or mps."""
    log_every: int = 10
    """Steps between lines of log.jsonl."""
    training: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)

    def run(self) -> int:
        """Exit status: 0 done, 130 stopped by Ctrl-C, 143 by SIGTERM."""
        if self.resume is None:
            if self.detector is None or self.data is None:
                raise ValueError(f"say what to train on what: boxwright train {'|'.join(DETECTORS)} --data PATH")
            options = self
        else:
            if self != replace(Train(), resume=self.resume, device=self.device, workers=self.workers):
                raise ValueError("--resume goes on with the options of the run; only --device and --workers may change")
            options = replace(_read_options(self.resume / "config.json"), device=self.device, workers=self.workers)
        with join(options.device) as place:
            if not place.first:
                warnings.simplefilter("ignore")  # the first process says it once for all
            return _train(options, place, self.resume)


def _train(options: Train, place: Place, resume: Path | None) -> int:
    if options.batch % place.world:
        raise ValueError(f"--batch {options.batch} does not divide among {place.world} processes; give a multiple")
    splits = open_dataset(_given(options.data), seed=options.training.seed)
    names = options.classes or splits.names
    parts = {part: dataset.restrict(names) for part, dataset in splits.items()}
    if not len(parts["train"].boxes):
        raise ValueError(f"{options.data}: no object of {', '.join(names)} in the training part to learn from")

    torch.manual_seed(options.training.seed)
    detector = options.detector.build(len(names), options.pretrained)
    detector.to(place.device, memory_format=torch.channels_last)
    batches = Batches(
        parts["train"],
        _preprocess(options),
        PRESETS[options.augment],
        options.batch // place.world,
        seed=options.training.seed,
        workers=_workers(options.workers, place),
        rank=place.rank,
        world=place.world,
        device=place.device,
        propose=detector.propose,
    )
    training = Training(detector, batches, options.training)
    options = replace(options, training=training.config)
    if resume is not None:
        training.resume(resume / "resume.safetensors")

    run = None
    if place.first:
        run = Run(resume or new_folder(options.out or _usual_folder(options)), options, parts, names, batches.workers)
        if resume is None:
            _write_options(options, run.folder / "config.json")
            training.save(run.folder / "resume.safetensors")  # from now on there is something to go on from
            if splits.made:
                splits.save(run.folder / "splits.json")
        print(_introduction(options, training, parts, run.folder), flush=True)
        _propose(detector, parts)

    with _stopping(training) as caught:
        saved = time.monotonic()
        for step in training.steps():
            if run is None:
                continue
            if step.number % options.log_every == 0:
                run.history.step(step)
            if step.epoch is not None:
                run.finish(step.epoch)
            if step.epoch is not None or training.stop or time.monotonic() - saved > _SAVE_EVERY:
                training.save(run.folder / "resume.safetensors")
                saved = time.monotonic()
    if training.finished:
        if run is not None:
            run.conclude(detector)
        return 0
    if run is not None:
        print(f"stopped after step {training.step}; to go on: boxwright train --resume {run.folder}", file=sys.stderr)
    return 128 + (caught or [signal.SIGTERM])[0]  # nothing caught: another process was told to stop


class Run:
    """The folder of a run, and what is done there between epochs."""

    def __init__(
        self, folder: Path, options: Train, parts: dict[str, Dataset], names: tuple[str, ...], workers: int
    ) -> None:
        self.folder, self.options, self.parts, self.names = folder, options, parts, names
        self.preprocess = _preprocess(options)
        self.history = History(folder)
        self.workers = workers
        self.best, self.last = folder / "best.safetensors", folder / "last.safetensors"

    def finish(self, epoch: Epoch) -> None:
        """After an epoch: evaluate if it is time, save, log, say how it went."""
        metadata: dict[str, Any] = {
            "boxwright": __version__,
            "epoch": epoch.number,
            "training": asdict(epoch.training.config),
            "data": str(self.options.data),
            "metrics": {},
        }
        quality, best = None, "val" not in self.parts
        if not best and (epoch.number % self._evaluate_every() == 0 or epoch.training.finished):
            with epoch.training.averaged() as detector:
                quality, metadata["threshold"] = self._evaluate(detector)
            metadata["metrics"]["val"] = summary(quality)
            best = rank(quality.ap) > self.history.best(epoch.number - 1) or not self.best.exists()
        if best:
            self._save(self.best, epoch, metadata)
        self._save(self.last, epoch, metadata)
        self.history.append(epoch, quality)
        if quality is not None or epoch.training.finished:
            self._draw_curves()
        print(_line(epoch, quality, best), flush=True)

    def conclude(self, detector: Detector) -> None:
        """After the last epoch: measure the best detector on the test part, if there is one."""
        tensors, described = checkpoint.read(self.best)
        if "test" in self.parts:
            checkpoint.fill(detector, tensors, self.best)
            dataset, batch = self.parts["test"], self.options.batch
            quality = evaluate_detector(detector, dataset, self.names, self.preprocess, batch, self.workers)
            self.history.test(quality)
            described["metrics"]["test"] = summary(quality)
            checkpoint.write(self.best, tensors, described)
            print(f"\nthe best detector, of epoch {described['epoch']}, on the test part:\n{quality.table()}")
        print(f"\nboxwright detect photo.jpg --model {self.best}")

    def _evaluate(self, detector: Detector) -> tuple[Evaluation, float]:
        """The quality on the validation part, and the score from which on detections should be shown."""
        dataset = self.parts["val"]
        found = detect_dataset(detector, dataset, self.preprocess, self.options.batch, self.workers)
        targets = targets_of(dataset)
        return evaluate(found, targets, self.names), best_threshold(found, targets)

    def _evaluate_every(self) -> int:
        return math.ceil(len(self.parts["val"]) / len(self.parts["train"]) / 3 / _EVALUATION_SHARE)

    def _save(self, path: Path, epoch: Epoch, metadata: dict[str, Any]) -> None:
        training = epoch.training
        checkpoint.save_detector(
            path,
            training.detector,
            self.options.detector,
            self.names,
            self.preprocess,
            metadata,
            weights=training.weights(),
        )

    def _draw_curves(self) -> None:
        try:
            from boxwright.report.plots import draw_curves
        except ImportError:
            return  # without matplotlib there is no picture; the numbers are in log.jsonl
        draw_curves(self.history.epochs(), self.folder / "curves.png")


@contextmanager
def _stopping(training: Training) -> Iterator[list[int]]:
    """Within, the first Ctrl-C or SIGTERM stops the training after a whole step; a second Ctrl-C stops it at once.

    Yields the signals that came.
    """
    caught: list[int] = []

    def stop(number: int, frame: object) -> None:
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(number)
        training.stop = True
        os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _propose(detector: Detector, parts: dict[str, Dataset]) -> None:
    """What is slow and does not learn, once and over all cores; pictures that cannot be read are named in training."""
    if detector.propose is None:
        return
    from boxwright.engine.propose import sources_of, warm

    sources = [source for dataset in parts.values() for source in sources_of(dataset)]
    with Progress("proposals", len(sources)) as bar:
        warm(detector.propose, sources, progress=bar.update)


def _preprocess(options: Train) -> Preprocess:
    first, second = options.size
    if options.resize == "short_side":
        return Preprocess(short=first, long=second)
    return Preprocess(mode=options.resize, height=first, width=second)


def _workers(wanted: int | None, place: Place) -> int:
    if wanted is not None:
        return wanted
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores // place.neighbours - 1, 4) if cores > place.neighbours else 0


def new_folder(wanted: Path) -> Path:
    """An empty folder of that name, or with the first number behind it that makes it a new one."""
    folder, number = wanted, 1
    while folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _usual_folder(options: Train) -> Path:
    return Path("runs") / f"{_given(options.data).resolve().stem}-{name_of(options.detector)}"


def _write_options(options: Train, path: Path) -> None:
    content = {
        "boxwright": __version__,
        "data": str(_given(options.data).resolve()),
        "detector": name_of(options.detector),
        "config": asdict(options.detector),
        "training": asdict(options.training),
        "options": {name: getattr(options, name) for name in _KEPT},
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _read_options(path: Path) -> Train:
    if not path.is_file():
        raise ValueError(f"{path.parent} is no folder of a run: it has no {path.name}")
    content = json.loads(path.read_text(encoding="utf-8"))
    return replace(
        checkpoint.from_json(Train, content["options"]),
        detector=checkpoint.from_json(DETECTORS[content["detector"]], content["config"]),
        training=checkpoint.from_json(TrainConfig, content["training"]),
        data=Path(content["data"]),
    )


def _introduction(options: Train, training: Training, parts: dict[str, Dataset], folder: Path) -> str:
    learning = sum(p.numel() for p in training.detector.parameters() if p.requires_grad) / 1e6
    pictures = ", ".join(f"{part} {len(dataset)}" for part, dataset in parts.items())
    return (
        f"{options.data}: {pictures} pictures; {len(parts['train'].names)} classes: {', '.join(parts['train'].names)}\n"
        f"{type(training.detector).__name__} on {options.detector.backbone}, {learning:.1f} M parameters learn; "
        f"{training.total_epochs} epochs of {training.steps_per_epoch} steps in {training.config.precision} "
        f"on {training.device}\n{folder}/"
    )


def _line(epoch: Epoch, quality: Evaluation | None, best: bool) -> str:
    parts = [f"epoch {epoch.number}/{epoch.training.total_epochs}", f"loss {epoch.losses['total']:.3f}"]
    if quality is not None:
        parts.append(f"AP {quality.ap:.3f} AP50 {quality.ap50:.3f}" + " (best)" * best)
    return " · ".join([*parts, f"{epoch.seconds:.0f} s, {epoch.images_per_second:.1f} images/s"])


def _given(path: Path | None) -> Path:
    assert path is not None  # `run` has seen to it
    return path
