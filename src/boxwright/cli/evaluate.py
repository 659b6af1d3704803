"""`boxwright evaluate`: COCO's metrics of a model on annotated images."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from boxwright.cli.arguments import DataFormat, MaxMegapixels, check_at_least, chosen_splits, dataset_path
from boxwright.device import InferencePrecision
from boxwright.files import Outputs
from boxwright.terminal import fit, say, terminal_width
from boxwright.train.config import read_settings
from boxwright.zoo import DEFAULT

if TYPE_CHECKING:
    from boxwright.data.dataset import Dataset


@dataclass(frozen=True)
class Evaluate:
    """Score a model on annotated images: COCO's twelve numbers, AP per class, precision-recall curves."""

    model: Positional[Annotated[str, arg(metavar="MODEL")]] = DEFAULT
    """A bundled model, a .safetensors file or a run's folder."""
    data: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """The dataset: its folder, COCO JSON, YOLO YAML or CSV."""
    format: DataFormat = None
    max_megapixels: MaxMegapixels = None
    split: Annotated[str | None, arg(metavar="train|val|test", help_behavior_hint="")] = None
    """The split to score on; test if there is one, else val."""
    seed: int = 0
    """For datasets without splits: the seed they were drawn with in training."""
    batch: int = 8
    """Images in a batch at most; the numbers do not depend on it."""
    workers: int = 0
    """Processes that load images."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ... or mps."""
    precision: InferencePrecision = "fp32"
    """bf16 computes networks in bfloat16, and a second time in fp32 to say what that does to AP."""
    json: bool = False
    """Print everything as JSON, curves too, instead of the table."""
    plot: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Draw the precision-recall curves to this file (.png, .svg, .pdf); needs boxwright[plots]."""

    def run(self) -> None:
        data = dataset_path(self.data)
        check_at_least(1, batch=self.batch)
        check_at_least(0, workers=self.workers)
        if self.plot is not None and self.plot.suffix.lower() not in (".png", ".svg", ".pdf"):
            raise ValueError(f"--plot names a .png, .svg or .pdf, got {self.plot}")
        outputs = Outputs()
        outputs.check("--plot", filter(None, [self.plot]))
        from boxwright.data.formats import open_dataset
        from boxwright.zoo import find, load

        splits = open_dataset(data, self.seed, self.format or _format_of_run(Path(self.model), data))
        names = chosen_splits(data, splits, self.split)
        split = next(name for name in ("test", "val", *names) if name in names)
        model = find(self.model)  # up to here no torch is imported, so errors come at once
        if self.plot is not None:
            from boxwright.draw.plots import draw_precision_recall  # before the work: it may not be installed
        from boxwright.measure.evaluate import evaluate_dataset

        predictor = load(model, self.device)
        dataset = labelled_as(predictor.names, splits[split], data)
        about = {"model": str(model), "data": str(data), "split": split, "made": bool(splits.drawn)}
        fp32 = None
        if self.precision != "fp32":
            fp32 = evaluate_dataset(predictor, dataset, self.batch, self.workers).ap
            predictor = predictor.with_precision(self.precision)
            about |= {"precision": self.precision, "ap_fp32": fp32}
        quality = evaluate_dataset(predictor, dataset, self.batch, self.workers)
        if self.json:
            print(json.dumps({**about, **quality.to_dict()}))
        else:
            drawn = f", drawn by boxwright with seed {self.seed}" if splits.drawn else ""
            print(fit(f"{about['model']} on the {split} split of {data}{drawn}"))
            print(quality.table(terminal_width()))
            if fp32 is not None:
                print(f"AP {quality.ap:.4f} in {self.precision}, {fp32:.4f} in fp32")
        if self.plot is not None:
            with outputs.writing(self.plot):
                draw_precision_recall(quality, self.plot)
            say(f"precision-recall curves: {self.plot}")


def _format_of_run(model: Path, data: Path) -> str | None:
    """The --format that the model's run was given for the same data; None if there was none, or no run."""
    path = (model if model.is_dir() else model.parent) / "config.json"
    if not model.exists() or not path.is_file():
        return None
    try:
        config = read_settings(path)
    except ValueError:
        return None  # of another program
    chosen = config["options"].get("format") if config["data"] == str(data.resolve()) else None
    return chosen if isinstance(chosen, str) else None


def labelled_as(names: tuple[str, ...], dataset: Dataset, source: Path) -> Dataset:
    """The dataset with the model's labels; classes that only one of the two has are printed, and not scored."""
    missing = [name for name in names if name not in dataset.names]
    unknown = [name for name in dataset.names if name not in names]
    if len(missing) == len(names):
        both = f"the model has {', '.join(names)}; the data {', '.join(dataset.names)}"
        raise ValueError(f"the model and {source} share no class: {both}")
    if unknown:
        say(f"not scored, because the model does not have them: {', '.join(unknown)}")
    if missing:
        say(f"not scored, because the data has none: {', '.join(missing)}")
    return replace(dataset, names=(*dataset.names, *missing)).restrict(names)
