"""Commands as functions, with their options as keywords: `boxwright.train`, `boxwright.evaluate`, `boxwright.race`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxwright import plugins

if TYPE_CHECKING:
    from boxwright.bench.plan.cells import Cell
    from boxwright.bench.result import Race
    from boxwright.bench.run.external import ExternalModel
    from boxwright.data.dataset import Dataset
    from boxwright.data.formats import Splits
    from boxwright.detectors.config import DetectorConfig
    from boxwright.metrics import Evaluation
    from boxwright.predict.predictor import Predictor
    from boxwright.train.run import Run


def train(
    detector: str | DetectorConfig | None = None, data: str | Path | None = None, *, start: str | Path | None = None,
    resume: str | Path | None = None, out: str | Path | None = None, **options: Any,
) -> Run:  # fmt: skip
    """Train a detector as `boxwright train` does: `boxwright.train("ssd", "my_dataset/", epochs=12, batch=4)`.

    detector  a name, such as "ssd" or one that was registered; or its config, such as SSDConfig(lite=True), of which
              nothing is chosen by the data (`boxwright.train.choose`)
    data      the dataset: its folder, COCO JSON, YOLO YAML or CSV
    start     the model to fine-tune (--from): a name, a .safetensors file or a run's folder
    resume    the folder of a run to continue; `device`, `workers`, `max_time` and `accept_changed_data` may be given
              too, and `epochs` to train a finished run further in a new folder
    out       the run's folder; runs/DATA-DETECTOR if not given
    options   those of the command, with _ for -: of `TrainConfig`, of the detector's config, and size, resize, augment,
              batch, classes, format, val_fraction, test_fraction, pretrained, workers, device, log_every, patience,
              max_time, dry_run

    Returns the run, finished unless `max_time` or `dry_run` is given: `boxwright.load(run.best)` is its best detector,
    `run.history` its losses and metrics.

    Raises ValueError for what cannot be trained, TypeError for an unknown option, and StoppedError on Ctrl-C or
    SIGTERM, after the step is finished and saved.
    """
    from boxwright.cli.arguments import check_detectors
    from boxwright.cli.train import Train
    from boxwright.detectors.config import DETECTORS
    from boxwright.train.config import TrainConfig

    plugins.refuse_while_loading("boxwright.train")
    plugins.discover()
    whole = not (detector is None or isinstance(detector, str))
    if isinstance(detector, str):
        check_detectors([detector])
        detector = DETECTORS[detector]()
    model = None if start is None else str(start)
    config = detector or Train.defaults(["--from", model] if model else []).detector
    of_training, of_detector, of_command = _divided(
        options, TrainConfig, None if config is None else type(config), Train
    )
    given = vars(config) if whole else of_detector
    chosen = Train(
        detector=config if config is None else replace(config, **of_detector), start=model, data=_path(data),
        resume=_path(resume), out=_path(out), training=TrainConfig(**of_training), given=tuple(given), **of_command,
    )  # fmt: skip
    chosen.check()
    from boxwright.cli.training import start as begin
    from boxwright.train.stop import StoppedError

    run, stopped_by = begin(chosen)
    if stopped_by is not None:
        raise StoppedError(f"stopped; to continue: boxwright.train(resume={str(run.folder)!r})", stopped_by)
    return run


def evaluate(
    model: str | Path | Predictor, data: str | Path | Splits | Dataset, split: str | None = None, *, batch: int = 8,
    workers: int = 0, device: str = "auto", format: str | None = None, seed: int = 0,
) -> Evaluation:  # fmt: skip
    """COCO's numbers of a model on annotated images: `boxwright.evaluate(run.best, "my_dataset/").ap50`.

    model    as `load` takes it, or what it returned
    data     as `open_dataset` takes it with `format` and `seed`, what it returned, or one of its datasets
    split    "test" if there is one, else "val", unless given
    batch    images in a batch at most; the numbers do not depend on it
    workers  processes that load images
    device   of a model that is loaded here

    Classes that only the model or only the data has are named on standard error, and not scored. Raises ValueError
    where there is no such split, or no class in common.
    """
    from boxwright.cli.arguments import chosen_splits
    from boxwright.cli.evaluate import labelled_as
    from boxwright.data.dataset import Dataset
    from boxwright.data.formats import open_dataset
    from boxwright.measure.evaluate import evaluate_dataset
    from boxwright.zoo import load

    if isinstance(data, str | Path):
        data = open_dataset(data, seed, format)
    if isinstance(data, Dataset):
        source, dataset = Path("the data"), data
    else:
        source, names = data.source, chosen_splits(data.source, data, split)
        dataset = data[next(name for name in ("test", "val", *names) if name in names)]
    predictor = load(model, device) if isinstance(model, str | Path) else model
    return evaluate_dataset(predictor, labelled_as(predictor.names, dataset, source), batch, workers)


def race(
    detectors: Sequence[str | Cell | ExternalModel], data: str | Path | Splits, *,
    backbones: Sequence[str] = ("efficientnet_lite0",), sizes: Sequence[int] = (320,), proposals: Sequence[int] = (),
    out: str | Path | None = None, constraints: Sequence[str] = (), report_images: int = 6, retry: bool = False,
    **options: Any,
) -> Race:  # fmt: skip
    """Which detector to take, as `boxwright bench` finds out: `race(["ssd", "fcos"], "my_dataset/", budget="30m")`.

    detectors    names, of which every one is raced with all `backbones`, `sizes` and `proposals`, as in
                 `boxwright.bench.grid`; or cells and external models
    options      those of the command, with _ for -: of `Rules` (budget, seeds, batch ...) and `TrainConfig`

    The others, what is returned and what is raised are those of `boxwright.bench.race`; TypeError for an option
    that there is not.
    """
    from boxwright.bench import Rules, grid
    from boxwright.bench import race as race_cells
    from boxwright.train.config import TrainConfig

    plugins.refuse_while_loading("boxwright.race")
    plugins.discover()
    of_rules, of_training = _divided(options, Rules, TrainConfig)
    cells = [
        cell for item in detectors
        for cell in (grid([item], backbones, sizes, proposals) if isinstance(item, str) else [item])
    ]  # fmt: skip
    return race_cells(
        cells, data, Rules(**of_rules), TrainConfig(**of_training), out=out, constraints=constraints,
        report_images=report_images, retry=retry, command="boxwright.race(...)",
    )  # fmt: skip


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _divided(options: dict[str, Any], *kinds: type | None) -> list[dict[str, Any]]:
    """The options of each of these dataclasses. TypeError for one that none has, ValueError for a wrong choice."""
    from boxwright.detectors.fields import choices_of
    from boxwright.typed import either

    known = [[] if kind is None else [field.name for field in fields(kind)] for kind in kinds]
    parts: list[dict[str, Any]] = [{} for _ in kinds]
    for name, value in options.items():
        index = next((index for index, names in enumerate(known) if name in names), None)
        if index is None:
            near = get_close_matches(name, [name for names in known for name in names], n=3)
            raise TypeError(f"there is no option {name}" + (f"; did you mean {either(near)}?" if near else ""))
        kind = kinds[index]
        choices = () if kind is None else choices_of(kind).get(name, ())
        if choices and value not in choices:
            raise ValueError(f"{name} is {either(choices)}, got {value!r}")
        parts[index][name] = tuple(value) if isinstance(value, list) else value
    return parts
