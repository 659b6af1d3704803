"""A training of seconds, for tests and, as a script, for processes that tests stop or start in pairs.

python tiny_run.py slow DATA FOLDER     saves after every step and says so; to be killed
torchrun ... tiny_run.py pair FOLDER    two processes, one of them without objects; each writes what became of it
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from boxwright.data.augment import PRESETS
from boxwright.data.batch import Batches
from boxwright.data.formats import open_dataset
from boxwright.data.preprocess import Preprocess
from boxwright.detectors import Detector, FasterRCNNConfig, RetinaNetConfig
from boxwright.train.config import TrainConfig
from boxwright.train.distributed import Process, join
from boxwright.train.loop import DivergedError, Training
from boxwright.types import Images, Losses, Target

CONFIG = FasterRCNNConfig("mobilenet_v3_small", channels=16, proposals=20, rpn_samples=32, region_samples=16, hidden=16)
RETINANET = RetinaNetConfig("mobilenet_v3_small", channels=16, depth=1)
PREPROCESS = Preprocess(short=64, long=96)


def training(data: Path, workers: int = 0, **options) -> Training:
    """Two epochs of four steps of two batches of two images; `options` are those of TrainConfig."""
    torch.manual_seed(0)
    detector = CONFIG.build(num_classes=3).to(memory_format=torch.channels_last)
    part = open_dataset(data)["train"]
    batches = Batches(part, PREPROCESS, PRESETS["standard"], batch_size=2, seed=3, workers=workers)
    return Training(detector, batches, TrainConfig(**{"epochs": 2, "accumulate": 2, "precision": "fp32", **options}))


class Counter(Detector):
    """Guesses from an image's mean colour how many objects are in it: a loss that is a mean over images."""

    def __init__(self) -> None:
        super().__init__()
        self.guess = nn.Linear(3, 1)

    def compute_loss(self, images: Images, targets: list[Target]) -> Losses:
        guesses = self.guess(images.pixels.mean((2, 3)) / 255)[:, 0]  # (N,)
        expected = torch.tensor([float(len(target)) for target in targets])
        return {"count": (guesses - expected).square().mean()}


class Noise:
    """Batches of noise from memory, with what `Training` reads of them; `objects` is the number by image."""

    def __init__(self, objects: list[int], batch_size: int, rank: int = 0, world: int = 1) -> None:
        self.dataset, self.objects, self.batch_size, self.rank, self.world = objects, objects, batch_size, rank, world
        self.seed = 0

    def __len__(self) -> int:
        return len(self.objects) // (self.batch_size * self.world)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Images, list[Target]]]:
        for batch in range(start, len(self)):
            first = batch * self.batch_size * self.world + self.rank
            places = range(first, first + self.batch_size * self.world, self.world)
            pixels = torch.stack([_noise(epoch, place) for place in places])
            yield Images(pixels, torch.tensor([[64, 64]] * len(places))), [_target(self.objects[p]) for p in places]


def _noise(epoch: int, place: int) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * epoch + place)
    return torch.rand(3, 64, 64, generator=generator) * 255


def _target(objects: int) -> Target:
    boxes = torch.tensor([[8.0 * k, 8.0 * k, 8.0 * k + 24, 8.0 * k + 32] for k in range(objects)]).reshape(-1, 4)
    return Target(boxes, torch.arange(objects) % 3)


def _slow(data: Path, folder: Path) -> None:
    run = training(data, workers=1)
    for step in run.steps(progress=False):
        run.save(folder / "resume.safetensors")
        print("step", step.number, flush=True)


def _pair(folder: Path) -> None:
    with join("cpu") as process:
        report = {
            "faster_rcnn": one_epoch_and_a_step(lambda: CONFIG.build(3), process.rank, process.world),
            "retinanet": one_epoch_and_a_step(lambda: RETINANET.build(3), process.rank, process.world),
            "counter": one_epoch_and_a_step(Counter, process.rank, process.world),
            "diverged": _diverged(process),
        }
        (folder / f"{process.rank}.json").write_text(json.dumps(report))


def one_epoch_and_a_step(
    build: Callable[[], Detector], rank: int = 0, world: int = 1, batch_size: int = 2, accumulate: int = 1
) -> dict:
    """What becomes of three steps and, since the last process is then to stop, one step of the next epoch."""
    torch.manual_seed(0)
    detector = build()
    batches = Noise([2, 0] * 6, batch_size, rank, world)
    config = TrainConfig(epochs=2, precision="fp32", ema=0.5, accumulate=accumulate)
    run = Training(detector, batches, config)  # type: ignore[arg-type]
    losses = {}
    for step in run.steps(progress=False):
        run.stop = rank == world - 1 and step.epoch is not None
        losses = step.epoch.losses if step.epoch else losses
    states = {"weights": detector.state_dict(), "averages": run.weights()}
    sums = {name: [v.double().sum().item() for v in state.values()] for name, state in states.items()}
    return {"steps": run.step, "losses": losses, **sums}


def _diverged(process: Process) -> str:
    detector = Counter()
    run = Training(detector, Noise([0] * 4, 1, process.rank, process.world), TrainConfig(epochs=1, precision="fp32"))  # type: ignore[arg-type]
    if process.rank == 1:
        loss = detector.loss
        detector.loss = lambda images, targets: {"count": loss(images, targets)["count"] * torch.inf}
    try:
        list(run.steps(progress=False))
    except DivergedError as error:
        return str(error)
    return "went on"


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, *paths = sys.argv[1:]
    {"slow": _slow, "pair": _pair}[what](*map(Path, paths))
