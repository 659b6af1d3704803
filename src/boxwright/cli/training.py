"""The work of `boxwright train`: the worked example of a `Run`, from annotated images to checkpoints."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from boxwright import checkpoint, plugins
from boxwright.checkpoint import Loaded, load_detector
from boxwright.cli.arguments import chosen_splits
from boxwright.cli.train import Train
from boxwright.data.augment import PRESETS
from boxwright.data.dataset import Dataset
from boxwright.data.formats import Splits, open_dataset
from boxwright.data.preprocess import Preprocess
from boxwright.detectors import Detector
from boxwright.detectors.config import name_of
from boxwright.device import loading_workers
from boxwright.files import write_atomically
from boxwright.predict.propose import sources_of, warm
from boxwright.progress import Progress, say
from boxwright.train.config import TrainConfig
from boxwright.train.distributed import Process, join
from boxwright.train.finetune import Transfer, transfer
from boxwright.train.loop import Training
from boxwright.train.run import Run, need_objects
from boxwright.units import counted
from boxwright.version import __version__
from boxwright.zoo import find

Option = TypeVar("Option")

_KEPT = (  # fields in config.json
    "format", "start", "classes", "size", "resize", "augment", "batch", "pretrained", "log_every",
)  # fmt: skip


def train(options: Train) -> int:
    """Exit status: 0 done, 130 stopped by Ctrl-C, 143 by SIGTERM."""
    _, stopped_by = start(options)
    return 0 if stopped_by is None else 128 + stopped_by


def start(options: Train) -> tuple[Run, int | None]:
    """The run, and the signal that stopped it; None where it was trained to the end."""
    source, resume = None, options.resume
    if resume is not None:
        options = replace(read_options(resume / "config.json"), device=options.device, workers=options.workers)
    else:
        if options.start is not None:
            source = load_detector(find(options.start))
            options = replace(options, detector=options.detector or source.config, preprocess=source.preprocess)
        options = with_size(options)
    with join(options.device) as process:
        if not process.first:
            warnings.simplefilter("ignore")  # the first process warns for all
        return _train(options, process, resume, source)


def _train(
    options: Train, process: Process, resume: Path | None, source: Loaded | None
) -> tuple[Run, int | None]:  # fmt: skip
    if options.batch % process.world:
        raise ValueError(f"--batch {options.batch} does not divide among {process.world} processes; give a multiple")
    splits = open_dataset(_given(options.data), options.training.seed, options.format)
    chosen_splits(splits.source, splits, "train")
    names = options.classes or splits.names
    need_objects(splits, ("train", "val"), names)
    chosen = {split: dataset.restrict(names) for split, dataset in splits.items()}
    usual = Path("runs") / f"{_given(options.data).resolve().stem}-{name_of(options.detector)}"
    run = Run(
        resume or options.out or usual, _given(options.detector), chosen, options.preprocess,
        PRESETS[options.augment], options.batch, options.training, options.pretrained and options.start is None,
        process.device, loading_workers(process.neighbours) if options.workers is None else options.workers,
        process.rank, process.world, options.log_every,
    )  # fmt: skip
    detector, origin = run.build(), {}
    if source is not None:
        transferred = transfer(detector, names, source)
        origin = _origin(options, source, transferred)
        if process.first:
            print(f"from {options.start}: {transferred}", flush=True)
    training = run.begin(detector)
    if resume is not None:
        training.resume(run.state)
    if process.first:
        if resume is None:
            run = _create(run, training, options, splits, origin)
        origin = _read_json(run.folder / "config.json").get("from")  # of a resumed run too
        run = replace(run, about={"data": str(options.data)} | ({"from": origin} if origin else {}))
        print(_introduction(options, training, run), flush=True)
        _propose_ahead(detector, chosen)

    def report(line: str) -> None:
        print(line, flush=True)
        _draw_curves(run)

    stopped_by = run.train(training, report=report)
    if process.first:
        if stopped_by is None:
            _conclude(run, detector)
        else:
            command = f"boxwright train --resume {run.folder}{plugins.options()}"
            say(f"stopped after step {training.step}; to continue: {command}")
    return run, stopped_by


def _create(run: Run, training: Training, options: Train, splits: Splits, origin: dict[str, Any]) -> Run:
    """Make the folder of a new run, with all files that `--resume` needs."""
    run = replace(run, folder=new_folder(run.folder))
    write_options(replace(options, training=training.config), origin, run.folder / "config.json")
    training.save(run.state)
    if splits.drawn:
        splits.save(run.folder / "splits.json")
    return run


def new_folder(preferred: Path) -> Path:
    """An empty folder of that name, with a number after it where the name is taken."""
    folder, number = preferred, 1
    while folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        number += 1
        folder = preferred.with_name(f"{preferred.name}-{number}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _propose_ahead(detector: Detector, splits: dict[str, Dataset]) -> None:
    """Fill the cache of proposals once, over all cores; images that cannot be read are named in training."""
    if detector.propose is None:
        return
    sources = [source for dataset in splits.values() for source in sources_of(dataset)]
    with Progress("proposals", len(sources)) as bar:
        warm(detector.propose, sources, progress=bar.update)


def _draw_curves(run: Run) -> None:
    """After an epoch that was evaluated; after each epoch where none is."""
    epochs = run.history.epochs()
    if "val" not in epochs[-1] and run.val is not None:
        return
    try:
        from boxwright.draw.plots import draw_curves
    except ImportError:
        return  # without matplotlib there are no curves; the numbers are in log.jsonl
    draw_curves(epochs, run.folder / "curves.png")


def _conclude(run: Run, detector: Detector) -> None:
    """After the last epoch: measure the best detector on the test split, if there is one."""
    if "test" in run.splits:
        epoch, quality = run.test(detector)
        print(f"\nthe best detector, of epoch {epoch}, on the test split:\n{quality.table()}")
    print(f"\nboxwright detect photo.jpg --model {run.best}{plugins.options()}")


def with_size(options: Train) -> Train:
    """The options with `preprocess` changed by `size` and `resize`, where they are given."""
    before, mode = options.preprocess, options.resize or options.preprocess.mode
    usual = (before.height, before.width) if before.mode in ("letterbox", "stretch") else (before.short, before.long)
    first, second = options.size or usual
    if mode in ("letterbox", "stretch"):
        return replace(options, preprocess=replace(before, mode=mode, height=first, width=second))
    return replace(options, preprocess=replace(before, mode=mode, short=first, long=second))


def _origin(options: Train, source: Loaded, transferred: Transfer) -> dict[str, Any]:
    """The record of the fine-tuned model in a run and its checkpoints."""
    known = source.metadata.get("from", {}) | source.metadata  # it may have been fine-tuned itself
    about = {key: known[key] for key in ("licence", "origin") if key in known}
    return {"model": options.start, "detector": name_of(source.config), **about, **transferred.to_dict()}


def write_options(options: Train, origin: dict[str, Any], path: Path) -> None:
    """Write config.json, which `read_options` reads."""
    detector, data = _given(options.detector), _given(options.data).resolve()
    content = {"boxwright": __version__, "data": str(data), "detector": name_of(detector), "config": asdict(detector)}
    content |= {"preprocess": options.preprocess.to_dict(), "training": asdict(options.training)}
    content |= checkpoint.plugins_of(detector)
    content |= {"options": {name: getattr(options, name) for name in _KEPT}, "from": origin}
    write_atomically(path, json.dumps(content, indent=1) + "\n")


def read_options(path: Path) -> Train:
    """The options of a run's config.json."""
    content = _read_json(path)
    options = replace(
        checkpoint.from_json(Train, content["options"]),
        detector=checkpoint.config_of(content, path),
        training=checkpoint.from_json(TrainConfig, content["training"]),
        data=Path(content["data"]),
    )
    if "preprocess" not in content:  # written before there was --from
        return with_size(options)
    return replace(options, preprocess=Preprocess.from_dict(content["preprocess"]))


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path.parent} is no folder of a run: it has no {path.name}")
    return json.loads(path.read_text(encoding="utf-8"))


def _introduction(options: Train, training: Training, run: Run) -> str:
    learning = sum(p.numel() for p in training.detector.parameters() if p.requires_grad) / 1e6
    images = ", ".join(f"{split} {len(dataset)}" for split, dataset in run.splits.items())
    events = f", also for TensorBoard: tensorboard --logdir {run.folder}" if run.history.plots else ""
    return (
        f"{options.data}: {images} images; {len(run.names)} classes: {', '.join(run.names)}\n"
        f"{type(training.detector).__name__} on {run.config.backbone}, {learning:.1f} M parameters learn; "
        f"{counted(training.total_epochs, 'epoch')} of {counted(training.steps_per_epoch, 'step')} "
        f"in {training.config.precision} on {training.device}\n{run.folder}/{events}"
    )


def _given(option: Option | None) -> Option:
    assert option is not None  # `train` has checked it
    return option
