"""`boxwright data convert`: a dataset in another format."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from boxwright.cli.arguments import DataFormat, MaxMegapixels, check_folder, dataset_path
from boxwright.cli.table import table
from boxwright.terminal import fit, say, terminal_width

if TYPE_CHECKING:
    from boxwright.data.write import Images, Written


@dataclass(frozen=True)
class Convert:
    """Write a dataset as COCO, VOC or YOLO to a new folder: boxes to the pixel, classes and splits as they are.

    Only boxes are written, not masks or key points. What the new format cannot express is listed. Files that are there
    are never overwritten.
    """

    data: Positional[Annotated[Path, arg(metavar="PATH", help_behavior_hint="")]]
    """The dataset: its folder, COCO JSON, YOLO YAML or CSV."""
    to: Annotated[Literal["coco", "voc", "yolo"], arg(metavar="coco|voc|yolo", help_behavior_hint="(required)")]
    """The format to write."""
    out: Annotated[Path, arg(metavar="DIR", help_behavior_hint="(required)")]
    """The folder to write, which does not exist yet or is empty."""
    images: Literal["copy", "link", "none"] = "copy"
    """Copy the images, link to them, or write annotations only."""
    format: DataFormat = None
    max_megapixels: MaxMegapixels = None
    json: bool = False
    """Print what was written as JSON."""

    def run(self) -> None:
        data = dataset_path(self.data)
        check_folder("--out", self.out)
        from boxwright.data.formats import open_dataset
        from boxwright.data.write import write_dataset

        splits = open_dataset(data, format=self.format, draw=False)
        with ExitStack() as stack:
            written = write_dataset(splits, self.out, self.to, self.images, Bar(stack, "convert"))
        report(written, self.json, "convert", self.images)


class Bar:
    """The progress of writing images. The bar starts with the first image, when the total is known."""

    def __init__(self, stack: ExitStack, title: str) -> None:
        self.stack, self.title = stack, title

    def __call__(self, done: int, total: int) -> None:
        if done == 1:
            from boxwright.progress import Progress

            self.progress = self.stack.enter_context(Progress(self.title, total))
        self.progress.update()


def report(written: Written, as_json: bool, command: str, images: Images, notes: list[str] | None = None) -> None:
    """What was written, and the notes on it, which go to stderr."""
    for note in [*(notes or []), *written.notes]:
        say(f"boxwright data {command}: {note}")
    if as_json:
        print(json.dumps({**asdict(written), "folder": str(written.folder)}))
        return
    how = {"copy": "images copied", "link": "links to the images", "none": "annotations only"}[images]
    rows = [("images", *written.images.values()), ("boxes", *written.boxes.values())]
    print(fit(f"{written.folder}: {written.format}, {how}"))
    print(table(("", *written.images), rows, terminal_width()))
