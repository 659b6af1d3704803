"""The options of `boxwright train`. `training` does the work and imports torch; --help and these checks do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from boxwright.bench.plan.budget import parse_budget
from boxwright.cli.arguments import DataFormat, MaxMegapixels, check_at_least, dataset_path, no_detector
from boxwright.data.preprocess import Preprocess
from boxwright.detectors.config import DETECTORS, name_of, readers_of
from boxwright.train.config import TrainConfig
from boxwright.zoo import find
from boxwright.zoo.foreign import is_foreign

if TYPE_CHECKING:
    from boxwright.detectors.config import DetectorConfig

    AnyDetector = DetectorConfig | None
else:

    def _choice():
        """Of the detectors that are known when the command line is read, those of plugins among them."""
        names = {name: config() for name, config in DETECTORS.items()}
        choice = tyro.extras.subcommand_type_from_defaults(names, prefix_names=False, sort_subcommands=False)
        return tyro.conf.OmitSubcommandPrefixes[tyro.conf.OmitArgPrefixes[choice | None]]

    AnyDetector = Annotated[object, tyro.conf.arg(constructor_factory=_choice)]


@dataclass(frozen=True)
@tyro.conf.configure(tyro.conf.CascadeSubcommandArgs)
class Train:
    """Train a detector on your own data: COCO JSON, VOC XML, YOLO text, LabelMe JSON or CSV, in any usual layout.

    The folder of the run gets best.safetensors and last.safetensors (for `boxwright detect` and `evaluate`), log.jsonl,
    curves.png, and resume.safetensors, from which a stopped run continues with the same result as one never stopped.
    Where TensorBoard is installed, it also gets its event files: tensorboard --logdir DIR.
    """

    detector: AnyDetector = None
    data: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """The dataset: its folder, COCO JSON, YOLO YAML or CSV."""
    format: DataFormat = None
    max_megapixels: MaxMegapixels = None
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """The run's folder; runs/DATA-DETECTOR if not given. A number is added rather than anything overwritten."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Continue the run in this folder, with its options; with --epochs, train a finished one further."""
    accept_changed_data: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """With --resume: go on although images, boxes or classes have changed since."""
    start: Annotated[str | None, tyro.conf.arg(name="from", metavar="MODEL", help_behavior_hint="")] = None
    """Fine-tune this model: a name, a .safetensors file or a run's folder. Its detector and image size are the
    defaults; classes of the same name start from its weights."""
    classes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="")] = ()
    """Learn only these, in this order; all if not given."""
    val_fraction: Annotated[float | None, tyro.conf.arg(metavar="0..1", help_behavior_hint="")] = None
    """The part of the images drawn for val where the dataset has no such split; a tenth if not given, 0 for no val."""
    test_fraction: Annotated[float | None, tyro.conf.arg(metavar="0..1", help_behavior_hint="")] = None
    """The same for test; out of a train split, only if given."""
    size: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="INT INT", help_behavior_hint="")] = None
    """The input size in pixels: the shorter side, and the maximum of the longer side; for letterbox and stretch,
    height and width. 320 416 if not given, or larger where many objects are small."""
    resize: Annotated[
        Literal["short_side", "letterbox", "stretch"] | None,
        tyro.conf.arg(metavar="{short_side,letterbox,stretch}", help_behavior_hint=""),
    ] = None
    """How images are resized; letterbox and stretch give all the same size. short_side if not given."""
    preprocess: tyro.conf.Suppress[tyro.conf.Fixed[Preprocess]] = Preprocess(short=320, long=416)
    """Changed by `size` and `resize`; with --from, that of the model."""
    augment: Literal["none", "light", "standard", "strong"] = "standard"
    """Augmentation of training images; more pays off in longer runs."""
    batch: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Images in a step, divided among the processes of torchrun; 8 if not given, or fewer where memory is short."""
    pretrained: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Without --from, the backbone starts from ImageNet weights (boxwright[pretrained]); with --no-pretrained from
    random ones, and all of it learns (--frozen-stages 0 --norm batch) if not given otherwise."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Processes that load images; one core less than there are, at most 4, if not given."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ... or mps."""
    log_every: int = 10
    """Steps between lines of log.jsonl."""
    patience: Annotated[int | None, tyro.conf.arg(metavar="EPOCHS", help_behavior_hint="")] = None
    """End the run after so many epochs without a better AP on val."""
    max_time: Annotated[str, tyro.conf.arg(metavar="30m|8h", help_behavior_hint="")] = ""
    """End the run after the last epoch that fits into this time; --resume goes on with it."""
    dry_run: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Only describe the data and estimate time and memory from a few steps; nothing is written."""
    training: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)
    given: tyro.conf.Suppress[tyro.conf.Fixed[tuple[str, ...]]] = field(default=(), compare=False)
    """Options of the detector that the user gave, and which are therefore not chosen by the data."""

    def run(self) -> int:
        """Exit status: 0 done, 130 stopped by Ctrl-C, 143 by SIGTERM."""
        self.check()
        from boxwright.cli.training import train  # here, because it imports torch

        return train(self)

    def check(self) -> None:
        """Raises ValueError for options that do not go together, and for paths that do not exist."""
        if self.resume is not None:
            allowed = {name: getattr(self, name) for name in _RESUMED}
            if self != replace(Train(), **allowed, training=TrainConfig(epochs=self.training.epochs)):
                raise ValueError(
                    "--resume runs with the options of the run; only --device, --workers and --max-time may change, "
                    "the data with --accept-changed-data, and --epochs if the run is finished. To train its detector "
                    f"with other options: --from {self.resume} --data PATH"
                )
            if not (self.resume / "config.json").is_file():
                raise ValueError(f"{self.resume} is no folder of a run: it has no config.json")
        elif self.accept_changed_data:
            raise ValueError("--accept-changed-data continues a run; name its folder: --resume DIR")
        elif self.data is None or (self.detector is None and self.start is None):
            kinds = "|".join(DETECTORS)
            raise ValueError(f"name a detector and data: boxwright train {kinds} --data PATH, or --from MODEL")
        else:
            dataset_path(self.data)
            check_at_least(1, batch=self.batch, log_every=self.log_every, size=min(self.size or (1,)))
            check_at_least(1, patience=self.patience)
        check_at_least(0, workers=self.workers)
        if self.max_time:
            parse_budget(self.max_time, "--max-time")

    @classmethod
    def defaults(cls, words: Sequence[str]) -> Train:
        """The options that are not given; with --from MODEL, the detector's are those of the checkpoint's header."""
        model = _model_of(words)
        given = tuple(word[2:].partition("=")[0].replace("-", "_") for word in words if word.startswith("--"))
        if model is None or ({"-h", "--help"} & set(words) and (is_foreign(model) or model.startswith("hf:"))):
            return cls(given=given)  # --help downloads and converts no model
        from boxwright.checkpoint import config_of, describe

        path = find(model)
        return cls(detector=config_of(describe(path), path), given=given)

    @classmethod
    def explain(cls, word: str, words: Sequence[str]) -> str | None:
        """Why a word is not understood: a detector's name misspelt, or an option that this detector does not read."""
        detector = next((name for name in words if name in DETECTORS), None)
        if not word.startswith("-"):
            return None if detector else no_detector(word)
        readers = ", ".join(readers_of(word.removeprefix("--").removeprefix("no-").replace("-", "_")))
        if not readers:
            return None
        config = cls.defaults(words).detector
        reader = detector or (None if config is None else name_of(config))
        if reader is None:
            return f"{word} is an option of {readers}; name the detector first: boxwright train DETECTOR"
        return f"{word} is not read by {reader}; it is read by {readers}"


_RESUMED = ("resume", "device", "workers", "max_time", "accept_changed_data")
"""The options that go with --resume, and --epochs."""


def _model_of(words: Sequence[str]) -> str | None:
    """The value of --from."""
    split = [part for word in words for part in (word.split("=", 1) if word.startswith("--from=") else [word])]
    return next((value for option, value in pairwise(split) if option == "--from"), None)
