"""The work of `boxwright train`: the worked example of a `Run`, from annotated images to checkpoints."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from boxwright import checkpoint, plugins
from boxwright.bench.plan.budget import duration, parse_budget
from boxwright.checkpoint import Loaded, load_detector
from boxwright.cli.arguments import chosen_splits
from boxwright.cli.table import table
from boxwright.cli.train import Train
from boxwright.data.augment import PRESETS
from boxwright.data.dataset import Dataset
from boxwright.data.fingerprint import Fingerprint, changes, fingerprint
from boxwright.data.formats import Splits, open_dataset
from boxwright.data.formats.split import draw_missing, few_objects, shares_with
from boxwright.data.image import limit_megapixels
from boxwright.data.preprocess import Preprocess
from boxwright.detectors import Detector
from boxwright.detectors.config import name_of
from boxwright.detectors.fields import BackboneFields, LearningBackbone, ProposedFields
from boxwright.device import choose_device, choose_precision, free_memory, loading_workers
from boxwright.files import write_atomically
from boxwright.lock import LOCK, HeldError, hold
from boxwright.predict.propose import sources_of, warm
from boxwright.progress import Progress
from boxwright.terminal import fit, say, terminal_width
from boxwright.train.choose import USUAL_BATCH, choose, choose_batch, is_ample
from boxwright.train.config import EARLIER, TrainConfig, read_settings
from boxwright.train.distributed import Process, join
from boxwright.train.estimate import estimate, kept_per_image
from boxwright.train.finetune import Transfer, transfer
from boxwright.train.history import History
from boxwright.train.loop import Training
from boxwright.train.run import Run, frozen, need_objects
from boxwright.types import Size
from boxwright.units import counted
from boxwright.version import __version__
from boxwright.zoo import find, is_offered

Option = TypeVar("Option")

_DATA = "data.json"
"""The fingerprint of the data, in the folder of a run."""

_KEPT = (  # fields in config.json
    "format", "max_megapixels", "start", "classes", "val_fraction", "test_fraction", "size", "resize", "augment",
    "batch", "pretrained", "log_every", "patience", "max_time",
)  # fmt: skip


def train(options: Train) -> int:
    """Exit status: 0 done, 130 stopped by Ctrl-C, 143 by SIGTERM, 129 by a closed terminal."""
    _, stopped_by = start(options)
    return 0 if stopped_by is None else 128 + stopped_by


def start(options: Train) -> tuple[Run, int | None]:
    """The run, and the signal that stopped it; None where it was trained to the end."""
    source, resume, finished = None, options.resume, None
    if resume is not None:
        before = read_options(resume / "config.json")
        changed = {
            "device": options.device,
            "workers": options.workers,
            "max_time": options.max_time or before.max_time,
            "accept_changed_data": options.accept_changed_data,
        }
        if options.training.epochs is None:
            options = replace(before, **changed)
        else:
            options = _further(replace(before, **changed), resume, options.training.epochs)
            resume, finished = None, resume
    if resume is None:
        if options.start is not None:
            source = load_detector(find(options.start))
            options = replace(options, detector=options.detector or source.config, preprocess=source.preprocess)
        options = with_size(options)
    with join(options.device) as process, limit_megapixels(options.max_megapixels), ExitStack() as held:
        if not process.first:
            warnings.simplefilter("ignore")  # the first process warns for all
        elif finished is not None:
            say(f"{finished} is finished; a new run with its options and a new schedule starts from its best weights")
        elif resume is not None:
            held.enter_context(hold(resume))
        return _train(options, process, resume, source, held)


def _train(
    options: Train, process: Process, resume: Path | None, source: Loaded | None, held: ExitStack
) -> tuple[Run, int | None]:
    """`held` keeps the folder from other processes."""
    batch = options.batch or USUAL_BATCH
    if batch % process.world:
        raise ValueError(f"--batch {batch} does not divide among {process.world} processes; give a multiple")
    splits = open_splits(options)
    before = Fingerprint.read(resume / _DATA) if resume is not None else None
    names = opened = options.classes or splits.names
    if before is not None and sorted(before.names) == sorted(opened):  # the rows of the heads are in the run's order
        names = tuple(before.names)
    need_objects(splits, ("train", "val"), names)
    chosen = {split: dataset.restrict(names) for split, dataset in splits.items()}
    reasons: dict[str, str] = {}
    if resume is None:
        given = {*options.given, *["size"] * (options.size is not None)}
        found = choose(chosen["train"], _given(options.detector), options.preprocess, given, options.pretrained)
        if options.start is None:
            options, reasons = replace(options, preprocess=found.preprocess, detector=found.config), found.reasons
        elif found.preprocess != options.preprocess and process.first:
            say(f"boxwright train: the input size is the model's; larger for this data: {found.reasons['size']}")
    usual = Path("runs") / f"{_given(options.data).resolve().stem}-{name_of(options.detector)}"
    run = Run(
        resume or options.out or usual, _given(options.detector), chosen, options.preprocess,
        PRESETS[options.augment], batch, options.training, options.pretrained and options.start is None,
        process.device, loading_workers(process.neighbours) if options.workers is None else options.workers,
        process.rank, process.world, options.log_every, options.patience,
        parse_budget(options.max_time) if options.max_time else None,
    )  # fmt: skip
    if options.patience and run.val is None:
        raise ValueError(
            f"--patience needs AP on val, and {splits.source} has no val split with an object; leave it out"
        )
    if process.first and resume is None and splits.drawn:
        for sentence in few_objects(chosen, splits.drawn):
            say(f"boxwright train: {sentence}")
    at_random = not options.pretrained and source is None
    if process.first and resume is None and at_random and (still := frozen(run.config)):
        learns = isinstance(run.config, LearningBackbone)
        mend = "--frozen-stages 0 --norm batch trains all of it" if learns else "leave --no-pretrained out"
        say(f"boxwright train: the backbone has random weights, and {still} of it would never learn; {mend}")
    if options.batch is None:
        if process.world == 1:
            free = free_memory(process.device)
            kept = None if is_ample(free, run.config, run.preprocess) else kept_per_image(run)
            batch, reasons["batch"] = choose_batch(kept, free)
        options, run = replace(options, batch=batch), replace(run, batch=batch)
    detector, origin = run.build(), {}
    if source is not None:
        transferred = transfer(detector, names, source)
        origin = _origin(options, source, transferred)
        if process.first:
            print(fit(f"from {options.start}: {transferred}"), flush=True)
    training = run.begin(detector)
    if options.training.epochs is None:
        steps = training.total_epochs * training.steps_per_epoch
        reasons["epochs"] = f"--epochs {training.total_epochs}: {steps} steps; about 500 in 6 to 100 epochs are usual"
    if options.dry_run:
        print(fit(_forecast(options, training, run, process, reasons)), flush=True)
        return run, None
    data = _accepted(run, splits, opened, before, options.accept_changed_data) if process.first else None
    if resume is not None:
        training.resume(run.state, options.accept_changed_data)
    if data is not None:  # in the first process
        if resume is None:
            run = replace(run, folder=numbered_folder(run.folder, held))
        data.write(run.folder / _DATA)
        if splits.drawn:
            splits.save(run.folder / "splits.json")
        if resume is None:
            training.save(run.state)
            write_options(replace(options, training=training.config), origin, run.folder / "config.json", reasons)
        origin = read_settings(run.folder / "config.json").get("from")  # of a resumed run too
        run = replace(run, about={"data": str(options.data)} | ({"from": origin} if origin else {}))
        print(fit(_introduction(options, training, run, reasons)), flush=True)
        _propose_ahead(detector, chosen)

    def report(line: str) -> None:
        print(fit(line), flush=True)
        _draw_curves(run)

    command = _next(run, f"boxwright train --resume {run.folder}", f"boxwright.train(resume={str(run.folder)!r})")
    try:
        stopped_by = run.train(training, report=report)
    except (OSError, MemoryError, RuntimeError) as error:  # of the machine, such as a full disk
        if process.first:
            error.add_note(f"what was trained before is kept; to continue: {command}")
        raise
    if process.first:
        if stopped_by is not None:
            say(f"stopped after step {training.step}; to continue: {command}")
        elif not training.finished:
            say(_ended_early(run, training, command))
        if stopped_by is None and run.best.exists():
            _conclude(run, detector)
    return run, stopped_by


def _further(options: Train, folder: Path, epochs: int) -> Train:
    """The options of a new run that trains the detector of a finished one for so many more epochs."""
    state = checkpoint.describe(folder / "resume.safetensors") if (folder / "resume.safetensors").exists() else {}
    done, total = state.get("epoch", 0), options.training.epochs or 0
    out_of_patience = options.patience is not None and History(folder).since_best(done) >= options.patience
    if not state or (done < total and not out_of_patience):
        raise ValueError(
            f"--epochs with --resume trains a finished run further, and {folder} is not finished: it has done {done} "
            f"of {counted(total, 'epoch')}. Without --epochs, --resume finishes it; --from {folder} starts a new run"
        )
    return replace(options, start=str(folder), out=folder, training=replace(options.training, epochs=epochs))


def open_splits(options: Train) -> Splits:
    """The splits to train with. Raises ValueError for a fraction of a split that the data has itself."""
    data, seed = _given(options.data), options.training.seed
    fractions = {"val": options.val_fraction, "test": options.test_fraction}
    if all(fraction is None for fraction in fractions.values()):
        splits = open_dataset(data, seed, options.format)
        chosen_splits(splits.source, splits, "train")
        return splits
    shares_with(options.val_fraction, options.test_fraction)  # refused before the data is read
    given = open_dataset(data, seed, options.format, draw=False)
    if "all" in given:
        return draw_missing(given, seed, options.val_fraction, options.test_fraction)
    chosen_splits(given.source, given, "train")
    for split, fraction in fractions.items():
        if fraction is not None and split in given:
            raise ValueError(
                f"{given.source} has a {split} split itself, so that --{split}-fraction has nothing to draw; leave it "
                f"out, or draw all splits again: boxwright data split {given.source} --redraw --out DIR"
            )
    missing = "val" not in given and options.val_fraction != 0, bool(options.test_fraction)
    return draw_missing(given, seed, options.val_fraction, options.test_fraction) if any(missing) else given


def _ended_early(run: Run, training: Training, command: str) -> str:
    """Why a run that no signal stopped has not done all its epochs."""
    done = f"ended after epoch {training.epoch} of {training.total_epochs}"
    if run.out_of_patience(training.epoch):
        return (
            f"{done}: no better AP on val for {counted(run.history.since_best(training.epoch), 'epoch')} (--patience)"
        )
    nothing = "" if run.best.exists() else ", too short for the first epoch, so that there is no checkpoint yet"
    return f"{done}, as --max-time is over{nothing}\nto continue: {command}"


def _forecast(options: Train, training: Training, run: Run, process: Process, reasons: Mapping[str, str]) -> str:
    """What would be trained, and what it would take."""
    if process.world > 1:
        raise ValueError("--dry-run measures one process; run it without torchrun")
    rows = []
    for split, dataset in run.splits.items():
        height, width = np.median(dataset.sizes, axis=0).astype(int).tolist()
        resized = run.preprocess.size(Size(height, width))
        sizes = [f"{size[1]} x {size[0]}" for size in ((height, width), resized)]
        rows.append([split, len(dataset), int((~dataset.crowd).sum()), *sizes])
    head = _introduction(options, training, run, reasons).rpartition("\n")[0]
    expected = estimate(run, training)
    memory = [
        f"{amount / 1e9:.1f} GB {of}" for amount, of in (
            (expected.memory, "of this process"), (expected.device_memory, f"on {training.device}"),
        ) if amount is not None
    ]  # fmt: skip
    proposals = f", proposals {duration(expected.propose)} in all" if training.detector.propose else ""
    limit = f"; --max-time ends it after {duration(run.max_time)}" if run.max_time else ""
    return "\n".join([
        head, "", table(["split", "images", "objects", "median size", "resized"], rows), "",
        f"a step takes {expected.step:.2g} s, detection {expected.image:.2g} s an image{proposals}",
        f"the run takes about {duration(expected.seconds)}{limit}",
        f"memory at its peak: {', '.join(memory) or 'not known on this system'}",
        "estimated from a few steps; nothing was written",
    ])  # fmt: skip


def _accepted(run: Run, splits: Splits, opened: Sequence[str], before: Fingerprint | None, accept: bool) -> Fingerprint:
    """The fingerprint of the data. Raises ValueError where it differs from that before, unless that is accepted.

    opened  the class names in the order of the data; the run keeps its own
    """
    config = run.config
    proposals = config.proposals_file if isinstance(config, ProposedFields) else None
    data = fingerprint(run.splits, splits.source, proposals, before)
    if before is None or not (different := changes(before, replace(data, names=list(opened)))):
        return data
    changed = f"{splits.source} is not as it was when this run was trained on it: {'; '.join(different)}"
    if len(before.names) != len(data.names):
        raise ValueError(
            f"{changed}. A run keeps the number of its classes; restore the data, or start a new run from its weights: "
            f"--from {run.folder}"
        )
    if not accept:
        raise ValueError(
            f"{changed}. Restore the data, go on all the same with --accept-changed-data, or start a new run from its "
            f"weights: --from {run.folder}"
        )
    say(changed)
    return data


def numbered_folder(preferred: Path, held: ExitStack) -> Path:
    """An empty folder of that name, with a number after it where the name is taken; `held` keeps it from others."""
    preferred.parent.mkdir(parents=True, exist_ok=True)
    folder, number = preferred, 1
    while not _take(folder, held):
        number += 1
        folder = preferred.with_name(f"{preferred.name}-{number}")
    return folder


def _take(folder: Path, held: ExitStack) -> bool:
    """Hold the folder where it is missing, or empty but for what a killed process left before it had begun.

    False where it is not, or where another process holds it.
    """
    try:
        with suppress(FileExistsError):
            folder.mkdir()
        with ExitStack() as lock:
            if folder.is_dir() and (_is_unbegun(folder) or (folder / LOCK).exists()):
                lock.enter_context(hold(folder))
                if _is_unbegun(folder):
                    held.enter_context(lock.pop_all())
                    return True
    except HeldError as error:
        say(f"{folder} is in use by {error.holder}; this run gets another folder")
    return False


def _is_unbegun(folder: Path) -> bool:
    """Whether it is empty, but for the lock and what is written before config.json."""
    names = {path.name for path in folder.iterdir() if path.suffix != ".partial"}
    return not names or (LOCK in names and names <= {LOCK, _DATA, "splits.json", "resume.safetensors"})


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
    if not epochs or ("val" not in epochs[-1] and run.val is not None):  # none where log.jsonl is a link to /dev/null
        return
    try:
        from boxwright.draw.plots import draw_curves
    except ImportError:
        return  # without matplotlib there are no curves; the numbers are in log.jsonl
    draw_curves(epochs, run.folder / "curves.png")


def _conclude(run: Run, detector: Detector) -> None:
    """After the last epoch: measure the best detector on the test split, and in bf16, if there is such."""
    if "test" in run.splits:
        epoch, quality = run.test(detector)
        print(f"\nthe best detector, of epoch {epoch}, on the test split:\n{quality.table(terminal_width())}")
    if run.val is not None and choose_precision(choose_device(run.device)) == "bf16":
        fp32, bf16 = run.measure_bf16(detector)
        verdict = "is offered" if is_offered(fp32, bf16) else "is not offered"
        print(f"\n--precision bf16 {verdict}: AP {bf16:.4f} on val, {fp32:.4f} in fp32")
    in_python = f"boxwright.load({str(run.best)!r})('photo.jpg')"
    print(f"\n{_next(run, f'boxwright detect photo.jpg --model {run.best}', in_python)}")


def _next(run: Run, command: str, in_python: str) -> str:
    """What the user may do next: a command with the plugins that it needs, or Python where a session has them."""
    modules = checkpoint.modules_of(run.config).values()
    if plugins.of_session(modules):
        return f"{in_python}, in this session; commands need what it registered in a file: --plugin FILE"
    return command + plugins.options(modules)


def with_size(options: Train) -> Train:
    """The options with `preprocess` changed by `size` and `resize`, where they are given."""
    before = options.preprocess
    resized = replace(before, mode=options.resize or before.mode).with_sides(*options.size or before.sides)
    return replace(options, preprocess=resized)


def _origin(options: Train, source: Loaded, transferred: Transfer) -> dict[str, Any]:
    """The record of the fine-tuned model in a run and its checkpoints."""
    known = source.metadata.get("from", {}) | source.metadata  # it may have been fine-tuned itself
    about = {key: known[key] for key in ("licence", "origin") if key in known}
    return {"model": options.start, "detector": name_of(source.config), **about, **transferred.to_dict()}


def write_options(options: Train, origin: dict[str, Any], path: Path, reasons: Mapping[str, str] | None = None) -> None:
    """Write config.json, which `read_options` reads, with the reasons for what was chosen."""
    detector, data = _given(options.detector), _given(options.data).resolve()
    content = {"boxwright": __version__, "data": str(data), "detector": name_of(detector), "config": asdict(detector)}
    content |= {"preprocess": options.preprocess.to_dict(), "training": asdict(options.training)}
    content |= checkpoint.plugins_of(detector)
    content |= {
        "options": {name: getattr(options, name) for name in _KEPT},
        "from": origin,
        "chosen": dict(reasons or {}),
    }
    write_atomically(path, json.dumps(content, indent=1) + "\n")


def read_options(path: Path) -> Train:
    """The options of a run's config.json."""
    content = read_settings(path)
    detector = checkpoint.config_of(content, path)
    with checkpoint.named(path):
        if unknown := sorted(content["options"].keys() - set(_KEPT)):
            raise ValueError(f"unknown options {', '.join(unknown):.200}; update boxwright")
        options = replace(
            checkpoint.from_json(Train, content["options"]),
            detector=detector,
            training=checkpoint.from_json(TrainConfig, EARLIER | content["training"]),
            data=Path(content["data"]),
        )
        if "preprocess" not in content:  # written before there was --from
            return with_size(options)
        return replace(options, preprocess=Preprocess.from_dict(content["preprocess"]))


def _introduction(options: Train, training: Training, run: Run, reasons: Mapping[str, str]) -> str:
    learning = sum(p.numel() for p in training.detector.parameters() if p.requires_grad) / 1e6
    images = ", ".join(f"{split} {len(dataset)}" for split, dataset in run.splits.items())
    backbone = f" on {run.config.backbone}" if isinstance(run.config, BackboneFields) else ""
    events = f", also for TensorBoard: tensorboard --logdir {run.folder}" if run.history.plots else ""
    return (
        f"{options.data}: {images} images; {len(run.names)} classes: {', '.join(run.names)}\n"
        f"{type(training.detector).__name__}{backbone}, {learning:.1f} M parameters learn\n"
        f"{counted(training.total_epochs, 'epoch')} of {counted(training.steps_per_epoch, 'step')} "
        f"in {training.config.precision} on {training.device}\n"
        + "".join(f"chosen: {reason}\n" for reason in reasons.values())
        + f"{run.folder}/{events}"
    )


def _given(option: Option | None) -> Option:
    assert option is not None  # `train` has checked it
    return option
