"""`boxwright lineage`: its options. `lineage_race` does the work and imports torch; --help and these checks do not."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from boxwright.bench.plan.rules import Rules
from boxwright.cli.arguments import (
    DataFormat,
    MaxMegapixels,
    check_at_least,
    check_detectors,
    check_folder,
    dataset_path,
)
from boxwright.train.config import TrainConfig

STEPS = ("rcnn", "spp_net", "fast_rcnn", "faster_rcnn", "retinanet")


@dataclass(frozen=True)
class Lineage:
    """Train the detectors from R-CNN to a single stage alike, and compare what they cost and how good they are.

    The folder is that of a race, see `boxwright bench`, with lineage.png and lineage.svg besides. The same command
    again continues, and tries again what failed.
    """

    data: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """The dataset: its folder, COCO JSON, YOLO YAML or CSV."""
    format: DataFormat = None
    max_megapixels: MaxMegapixels = None
    steps: Annotated[tuple[str, ...], tyro.conf.arg(metavar="DETECTOR ...")] = STEPS
    """The detectors; the others are compared to the first."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """The folder; runs/DATA-lineage if not given."""
    backbone: str = "efficientnet_lite0"
    """The backbone of all of them."""
    images: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Train on so many of the training images, drawn with the seed; on all if not given."""
    test_images: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Measure AP on so many of the test images, drawn with the seed; on all if not given."""
    proposer: str = "selective_search"
    """Proposals of the detectors that take them from outside: selective_search, sliding_window, or a file of them."""
    proposals: int = 300
    """Proposals an image, from outside as from a region proposal network. The papers had 2000 and 300."""
    region_samples: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Proposals an image to train on; each detector's own number if not given, which is smaller for R-CNN."""
    size: tuple[int, int] = (320, 416)
    """The image as the detectors get it, in pixels: its shorter side, and what its longer side may reach at most."""
    json: bool = False
    """Print results.json instead of the table."""
    rules: tyro.conf.OmitArgPrefixes[Rules] = field(default_factory=lambda: Rules(seeds=1, timed=10))
    training: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)

    def run(self) -> int:
        """Exit status: 0 done, 1 where a step failed (the others are done), 130 stopped by Ctrl-C, 143 by SIGTERM."""
        data = dataset_path(self.data)
        check_detectors(self.steps)
        if len(set(self.steps)) < len(self.steps):
            raise ValueError(f"--steps takes different detectors, got {' '.join(self.steps)}")
        check_at_least(1, images=self.images, test_images=self.test_images, proposals=self.proposals)
        check_at_least(1, region_samples=self.region_samples)
        check_folder("--out", self.out)
        from boxwright.cli.lineage_race import run

        return run(self, data)
