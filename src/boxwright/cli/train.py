"""`boxwright train`: the worked example of the training loop, from a folder of annotated images to checkpoints."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import warnings
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import tyro

from boxwright import checkpoint
from boxwright.checkpoint import Loaded, load_detector
from boxwright.data.augment import PRESETS
from boxwright.data.batch import Batches
from boxwright.data.dataset import Dataset
from boxwright.data.formats import open_dataset
from boxwright.data.preprocess import Preprocess
from boxwright.detectors import DETECTORS, Detector
from boxwright.detectors.config import name_of
from boxwright.measure.evaluate import evaluate_dataset
from boxwright.predict.predictor import Predictor
from boxwright.progress import Progress
from boxwright.train.config import TrainConfig
from boxwright.train.distributed import Place, join
from boxwright.train.finetune import Transfer, transfer
from boxwright.train.history import summary
from boxwright.train.loop import Training
from boxwright.train.run import Run, stopping
from boxwright.version import __version__
from boxwright.zoo import find

if TYPE_CHECKING:
    AnyDetector = Any
else:
    _choice = tyro.extras.subcommand_type_from_defaults(
        {name: config() for name, config in DETECTORS.items()}, prefix_names=False, sort_subcommands=False
    )
    AnyDetector = tyro.conf.OmitSubcommandPrefixes[tyro.conf.OmitArgPrefixes[_choice | None]]

_KEPT = ("start", "classes", "size", "resize", "augment", "batch", "pretrained", "log_every")  # fields in config.json
_INHERITED = ("licence", "origin")  # what a file of foreign weights says of them
_SAVE_EVERY = 300.0  # seconds


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
    start: Annotated[str | None, tyro.conf.arg(name="from", metavar="MODEL", help_behavior_hint="")] = None
    """Fine-tune this model: a name, a .safetensors file or a run's folder. Its detector and its size of images are
    the defaults; classes that have the names of its own begin with what it knows of them."""
    classes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="")] = ()
    """Learn only these, in this order; all if not given."""
    size: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="INT INT", help_behavior_hint="")] = None
    """The image as the detector sees it, in pixels: its shorter side, and what its longer side may reach at most.
    For letterbox and stretch: height and width. 320 416 if not given."""
    resize: Annotated[
        Literal["short_side", "letterbox", "stretch"] | None,
        tyro.conf.arg(metavar="{short_side,letterbox,stretch}", help_behavior_hint=""),
    ] = None
    """How images get their size; letterbox and stretch give all of them the same. short_side if not given."""
    preprocess: tyro.conf.Suppress[tyro.conf.Fixed[Preprocess]] = Preprocess(short=320, long=416)
    """What `size` and `resize` change; that of the model which is fine-tuned takes its place."""
    augment: Literal["none", "light", "standard", "strong"] = "standard"
    """How much training images are varied; more pays in longer runs."""
    batch: int = 8
    """Images in a step, shared among the processes of torchrun."""
    pretrained: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """The backbone starts from ImageNet weights (boxwright[pretrained]), without --from; with --no-pretrained from
    random ones."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Processes that load images; one core less than there are, at most 4, if not given."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ... or mps."""
    log_every: int = 10
    """Steps between lines of log.jsonl."""
    training: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)

    def run(self) -> int:
        """Exit status: 0 done, 130 stopped by Ctrl-C, 143 by SIGTERM."""
        source = None
        if self.resume is None:
            if self.data is None or (self.detector is None and self.start is None):
                kinds = "|".join(DETECTORS)
                raise ValueError(f"say what to train on what: boxwright train {kinds} --data PATH, or --from MODEL")
            options = self
            if self.start is not None:
                source = load_detector(find(self.start))
                options = replace(self, detector=self.detector or source.config, preprocess=source.preprocess)
            options = _with_size(options)
        else:
            if self != replace(Train(), resume=self.resume, device=self.device, workers=self.workers):
                raise ValueError("--resume goes on with the options of the run; only --device and --workers may change")
            options = replace(_read_options(self.resume / "config.json"), device=self.device, workers=self.workers)
        with join(options.device) as place:
            if not place.first:
                warnings.simplefilter("ignore")  # the first process says it once for all
            return _train(options, place, self.resume, source)

    def defaults(self) -> Train:
        """What options that are not given are, once `start` is known: the detector's own are those of the model."""
        return Train() if self.start is None else Train(detector=load_detector(find(self.start)).config)


def _train(options: Train, place: Place, resume: Path | None, source: Loaded | None) -> int:
    if options.batch % place.world:
        raise ValueError(f"--batch {options.batch} does not divide among {place.world} processes; give a multiple")
    splits = open_dataset(_given(options.data), seed=options.training.seed)
    names = options.classes or splits.names
    parts = {part: dataset.restrict(names) for part, dataset in splits.items()}
    if not len(parts["train"].boxes):
        raise ValueError(f"{options.data}: no object of {', '.join(names)} in the training part to learn from")

    torch.manual_seed(options.training.seed)
    detector = options.detector.build(len(names), options.pretrained and options.start is None)
    origin = {}
    if source is not None:
        begun = transfer(detector, names, source)
        origin = _origin(options, source, begun)
        if place.first:
            print(f"from {options.start}: {begun}", flush=True)
    detector.to(place.device, memory_format=torch.channels_last)
    batches = Batches(
        parts["train"],
        options.preprocess,
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
        folder = resume or new_folder(options.out or _usual_folder(options))
        if resume is None:
            _write_options(options, origin, folder / "config.json")
        origin = _read_json(folder / "config.json").get("from")  # a run that goes on has it from there
        about = {"data": str(options.data), **({"from": origin} if origin else {})}
        run = Run(folder, options.detector, parts, options.preprocess, options.batch, batches.workers, about)
        if resume is None:
            training.save(run.folder / "resume.safetensors")  # from now on there is something to go on from
            if splits.drawn:
                splits.save(run.folder / "splits.json")
        print(_introduction(options, training, parts, run.folder), flush=True)
        _propose(detector, parts)

    with stopping(training) as caught:
        saved = time.monotonic()
        for step in training.steps():
            if run is None:
                continue
            if step.number % options.log_every == 0:
                run.history.step(step)
            if step.epoch is not None:
                print(run.finish(step.epoch), flush=True)
                _draw_curves(run)
            if step.epoch is not None or training.stop or time.monotonic() - saved > _SAVE_EVERY:
                training.save(run.folder / "resume.safetensors")
                saved = time.monotonic()
    if training.finished:
        if run is not None:
            _conclude(run, detector)
        return 0
    if run is not None:
        print(f"stopped after step {training.step}; to go on: boxwright train --resume {run.folder}", file=sys.stderr)
    return 128 + (caught or [signal.SIGTERM])[0]  # nothing caught: another process was told to stop


def _draw_curves(run: Run) -> None:
    """After an epoch that was evaluated; after each where there is nothing to evaluate on."""
    epochs = run.history.epochs()
    if "val" not in epochs[-1] and "val" in run.parts:
        return
    try:
        from boxwright.draw.plots import draw_curves
    except ImportError:
        return  # without matplotlib there is no image; the numbers are in log.jsonl
    draw_curves(epochs, run.folder / "curves.png")


def _conclude(run: Run, detector: Detector) -> None:
    """After the last epoch: measure the best detector on the test part, if there is one."""
    tensors, described = checkpoint.read(run.best)
    if "test" in run.parts:
        checkpoint.fill(detector, tensors, run.best)
        predictor = Predictor(detector, run.names, run.preprocess)
        quality = evaluate_dataset(predictor, run.parts["test"], run.batch, run.workers)
        run.history.test(quality)
        described["metrics"]["test"] = summary(quality)
        checkpoint.write(run.best, tensors, described)
        print(f"\nthe best detector, of epoch {described['epoch']}, on the test part:\n{quality.table()}")
    print(f"\nboxwright detect photo.jpg --model {run.best}")


def new_folder(wanted: Path) -> Path:
    """An empty folder of that name, or with the first number behind it that makes it a new one."""
    folder, number = wanted, 1
    while folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _propose(detector: Detector, parts: dict[str, Dataset]) -> None:
    """What is slow and does not learn, once and over all cores; images that cannot be read are named in training."""
    if detector.propose is None:
        return
    from boxwright.predict.propose import sources_of, warm

    sources = [source for dataset in parts.values() for source in sources_of(dataset)]
    with Progress("proposals", len(sources)) as bar:
        warm(detector.propose, sources, progress=bar.update)


def _with_size(options: Train) -> Train:
    """The options with a `preprocess` as `size` and `resize` want it, where they are given."""
    before, mode = options.preprocess, options.resize or options.preprocess.mode
    usual = (before.height, before.width) if before.mode in ("letterbox", "stretch") else (before.short, before.long)
    first, second = options.size or usual
    if mode in ("letterbox", "stretch"):
        return replace(options, preprocess=replace(before, mode=mode, height=first, width=second))
    return replace(options, preprocess=replace(before, mode=mode, short=first, long=second))


def _workers(wanted: int | None, place: Place) -> int:
    if wanted is not None:
        return wanted
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores // place.neighbours - 1, 4) if cores > place.neighbours else 0


def _usual_folder(options: Train) -> Path:
    return Path("runs") / f"{_given(options.data).resolve().stem}-{name_of(options.detector)}"


def _origin(options: Train, source: Loaded, begun: Transfer) -> dict[str, Any]:
    """What a run and its checkpoints keep of the model that is fine-tuned."""
    known = source.metadata.get("from", {}) | source.metadata  # it may have been fine-tuned itself
    about = {key: known[key] for key in _INHERITED if key in known}
    return {"model": options.start, "detector": name_of(source.config), **about, **begun.to_dict()}


def _write_options(options: Train, origin: dict[str, Any], path: Path) -> None:
    content = {
        "boxwright": __version__,
        "data": str(_given(options.data).resolve()),
        "detector": name_of(options.detector),
        "config": asdict(options.detector),
        "preprocess": options.preprocess.to_dict(),
        "training": asdict(options.training),
        "options": {name: getattr(options, name) for name in _KEPT},
        "from": origin,
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _read_options(path: Path) -> Train:
    content = _read_json(path)
    options = replace(
        checkpoint.from_json(Train, content["options"]),
        detector=checkpoint.read_config(content["detector"], content["config"]),
        training=checkpoint.from_json(TrainConfig, content["training"]),
        data=Path(content["data"]),
    )
    if "preprocess" not in content:  # written before there was --from
        return _with_size(options)
    return replace(options, preprocess=Preprocess.from_dict(content["preprocess"]))


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path.parent} is no folder of a run: it has no {path.name}")
    return json.loads(path.read_text(encoding="utf-8"))


def _introduction(options: Train, training: Training, parts: dict[str, Dataset], folder: Path) -> str:
    learning = sum(p.numel() for p in training.detector.parameters() if p.requires_grad) / 1e6
    images = ", ".join(f"{part} {len(dataset)}" for part, dataset in parts.items())
    return (
        f"{options.data}: {images} images; {len(parts['train'].names)} classes: {', '.join(parts['train'].names)}\n"
        f"{type(training.detector).__name__} on {options.detector.backbone}, {learning:.1f} M parameters learn; "
        f"{training.total_epochs} epochs of {training.steps_per_epoch} steps in {training.config.precision} "
        f"on {training.device}\n{folder}/"
    )


def _given(path: Path | None) -> Path:
    assert path is not None  # `run` has seen to it
    return path
