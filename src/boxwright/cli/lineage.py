"""`boxwright lineage`: what each idea from R-CNN to a single stage was worth, measured anew on your own images.

The charts are those of Girshick 2015 ("Fast R-CNN", table 4) and of Ren et al. 2015 ("Faster R-CNN", table 5): training
time, test time with and without the proposals, and quality.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from boxwright.bench.lineage import Recipe, configure, learn, propose_ahead, sample, subset, take_times
from boxwright.checkpoint import load_detector, save_detector
from boxwright.cli.lineage_record import Steps, draw, introduce, report, say
from boxwright.data.augment import PRESETS
from boxwright.data.batch import Batches, Propose
from boxwright.data.formats import open_dataset
from boxwright.data.image import read_image
from boxwright.data.preprocess import Preprocess
from boxwright.detectors import DETECTORS
from boxwright.device import choose_device, loading_workers, machine
from boxwright.measure.speed import Quartiles
from boxwright.train.config import TrainConfig
from boxwright.units import Unit, fraction
from boxwright.version import __version__

STEPS = ("rcnn", "spp_net", "fast_rcnn", "faster_rcnn", "retinanet")
_AUGMENT = "standard"


@dataclass(frozen=True)
class Lineage:
    """Train the detectors from R-CNN to a single stage alike, and compare what they cost and how good they are.

    The folder gets lineage.json, written after every step, lineage.png and lineage.svg with the bars, and a checkpoint
    of each detector. The same command again goes on after the last finished step.
    """

    data: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """The dataset: its folder, COCO JSON or YOLO YAML."""
    steps: Annotated[tuple[str, ...], tyro.conf.arg(metavar="DETECTOR ...")] = STEPS
    """The detectors; the others are compared to the first."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """The folder; runs/DATA-lineage if not given."""
    backbone: str = "efficientnet_lite0"
    """The one that all of them have."""
    images: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Learn from so many of the training images, drawn with the seed; from all if not given."""
    test_images: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Measure AP on so many of the test images, drawn with the seed; on all if not given."""
    proposer: str = "selective_search"
    """Who tells where to look, where a detector is told: selective_search, sliding_window, or a file of proposals."""
    proposals: int = 300
    """Proposals an image, from outside as from a region proposal network. The papers had 2000 and 300."""
    region_samples: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Proposals an image to learn from; each detector's own number if not given, which is smaller for R-CNN."""
    size: tuple[int, int] = (320, 416)
    """The image as the detectors see it, in pixels: its shorter side, and what its longer side may reach at most."""
    batch: int = 8
    """Images in a step of the training."""
    pretrained: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """The backbone starts from ImageNet weights (boxwright[pretrained]); with --no-pretrained from random ones."""
    timed: int = 10
    """Test images that the test time is taken on, three times each."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Processes that load images for training; one core less than there are, at most 4, if not given."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ... or mps."""
    json: bool = False
    """Print lineage.json instead of the table."""
    training: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)

    def run(self) -> int:
        """Exit status 1 if a step failed; the others are done."""
        self._check()
        recipe = self._recipe(choose_device(self.device))
        options: dict[str, Any] = {"backbone": self.backbone, "proposer": self.proposer, "proposals": self.proposals}
        if self.region_samples is not None:
            options["region_samples"] = self.region_samples
        configs = {name: configure(name, **options) for name in self.steps}
        told = {name: config.build(len(recipe.train.names)).propose for name, config in configs.items()}
        folder = self.out or Path("runs") / f"{_given(self.data).resolve().stem}-lineage"
        record = Steps(folder / "lineage.json", self._settings(recipe), configs)
        say(introduce(record, configs))
        for name, config in configs.items():
            if not record.has(name):
                _propose_ahead(told[name], recipe, record)
                _step(name, config, recipe, record)
        _take_times(self, recipe, record)
        print(json.dumps(record.content) if self.json else report(record, self.steps))
        draw(record, self.steps)
        return 0 if all(map(record.has, self.steps)) else 1

    def _check(self) -> None:
        if self.data is None:
            raise ValueError("measure on which data? Name a dataset with --data")
        unknown = [name for name in self.steps if name not in DETECTORS]
        if unknown or not self.steps or len(set(self.steps)) < len(self.steps):
            raise ValueError(f"--steps takes different ones of {', '.join(DETECTORS)}; got {' '.join(self.steps)}")
        for name in ("images", "test_images", "proposals", "region_samples", "timed"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} is 1 or more, got {value}")
        if self.out is not None and self.out.is_file():
            raise ValueError(f"--out names a folder, and {self.out} is a file; give another")

    def _recipe(self, device: torch.device) -> Recipe:
        seed = self.training.seed
        splits = open_dataset(_given(self.data), seed)
        part = "test" if "test" in splits else "val"
        chosen = {}
        for name, wanted, option in (("train", self.images, "--images"), (part, self.test_images, "--test-images")):
            if name not in splits:
                raise ValueError(f"{self.data} has no {name} part; it has {', '.join(splits)}")
            if wanted is not None and wanted > len(splits[name]):
                raise ValueError(f"{option} asks for {wanted} images; the {name} part has {len(splits[name])}")
            chosen[name] = subset(splits[name], wanted, seed)
            if not len(chosen[name].boxes):
                raise ValueError(f"{self.data}: the images chosen of the {name} part hold no object")
        preprocess = Preprocess(short=self.size[0], long=self.size[1])
        steps = len(Batches(chosen["train"], preprocess, batch_size=self.batch))
        training = self.training.resolve(steps, device)
        return Recipe(
            chosen["train"], chosen[part], preprocess, PRESETS[_AUGMENT], self.batch, training, self.pretrained,
            device, loading_workers() if self.workers is None else self.workers,
        )  # fmt: skip

    def _settings(self, recipe: Recipe) -> dict[str, Any]:
        """What must be the same for results to stand side by side."""
        same = ("backbone", "proposer", "proposals", "size", "batch", "pretrained", "timed")
        return {
            "data": str(_given(self.data).resolve()),
            "training images": len(recipe.train),
            "test images": len(recipe.test),
            "classes": recipe.train.names,
            **{name: getattr(self, name) for name in same},
            "augment": _AUGMENT,
            "workers": recipe.workers,
            **asdict(recipe.training),
            **machine(recipe.device),
        }


def _propose_ahead(propose: Propose | None, recipe: Recipe, record: Steps) -> None:
    """Training is to find its proposals on disk: what they take is a number of its own."""
    if propose is None:
        return
    train, test = propose_ahead(propose, (recipe.train, recipe.test))
    if train["new"] or test["new"] or not record.content["proposals"]:  # else it is known from an earlier step
        record.set("proposals", {"train": train, "test": test})


def _step(name: str, config: Any, recipe: Recipe, record: Steps) -> None:
    """Train and measure one detector. What goes wrong with it is no reason to give up those after it."""
    say(f"{name} ...")
    try:
        detector, result = learn(config, recipe)
        metadata = {"boxwright": __version__, "metrics": {"test": result}}
        save_detector(record.checkpoint(name), detector, config, recipe.train.names, recipe.preprocess, metadata)
    except Exception as error:
        result = {"error": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}
    record.set("steps", {**record.content["steps"], name: result})
    cost = record.cost(name)
    time = Unit.of([cost.training])
    trained = f"trained in {time.write(cost.training)} {time.name}, AP {fraction(cost.ap)}, AP50 {fraction(cost.ap50)}"
    say(f"{name}: {trained if record.has(name) else result['error']}")


def _take_times(options: Lineage, recipe: Recipe, record: Steps) -> None:
    """All together and last: times that were not taken side by side do not compare."""
    names = [name for name in options.steps if record.has(name)]
    if not names or list(record.content["times"]) == names:
        return
    detectors = {name: load_detector(record.checkpoint(name), recipe.device).detector for name in names}
    images = map(read_image, sample(recipe.test, options.timed, recipe.training.seed))
    taken = take_times(detectors, images, recipe.preprocess)
    parts = {name: times._asdict() for name, times in taken.items()}
    record.set("times", {name: {part: _described(one) for part, one in of.items()} for name, of in parts.items()})


def _described(seconds: list[float]) -> dict[str, Any]:
    return {**Quartiles.of(seconds)._asdict(), "seconds": [round(one, 6) for one in seconds]} if seconds else {}


def _given(path: Path | None) -> Path:
    assert path is not None  # `_check` has seen to it
    return path
