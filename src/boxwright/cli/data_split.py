"""`boxwright data split`: draw the splits of a dataset, and keep them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from boxwright.cli.arguments import DataFormat, MaxMegapixels, check_folder, dataset_path
from boxwright.cli.data_convert import Bar, report
from boxwright.terminal import say


@dataclass(frozen=True)
class Split:
    """Draw train, val and test, and write them to a new folder that opens as a dataset.

    The draw depends on the content of each image and the seed: copies of an image are in one split, and adding images
    moves no other. Splits that the dataset has are kept; what it lacks is drawn out of train.
    """

    data: Positional[Annotated[Path, arg(metavar="PATH", help_behavior_hint="")]]
    """The dataset: its folder, COCO JSON, YOLO YAML or CSV."""
    out: Annotated[Path, arg(metavar="DIR", help_behavior_hint="(required)")]
    """The folder to write, which does not exist yet or is empty."""
    form: Literal["lists", "folders"] = "lists"
    """lists: only the files that say which image is in which split, a COCO JSON each, or text for YOLO; the images stay
    where they are. folders: a whole dataset, in the format of this one (COCO for LabelMe and CSV)."""
    val_fraction: Annotated[float | None, arg(metavar="0..1", help_behavior_hint="")] = None
    """The part of the images for val; a tenth if not given, 0 for no val."""
    test_fraction: Annotated[float | None, arg(metavar="0..1", help_behavior_hint="")] = None
    """The part of the images for test; a tenth if not given, 0 for no test. Out of a train split, only if given."""
    seed: int = 0
    """Another seed is another draw."""
    redraw: bool = False
    """Draw all splits again, out of the images of those that the dataset has."""
    images: Annotated[Literal["copy", "link"] | None, arg(metavar="copy|link", help_behavior_hint="")] = None
    """Of --form folders: copy the images, or link to them; copy if not given."""
    format: DataFormat = None
    max_megapixels: MaxMegapixels = None
    json: bool = False
    """Print what was written as JSON."""

    def run(self) -> None:
        data = dataset_path(self.data)
        check_folder("--out", self.out)
        if self.images is not None and self.form == "lists":
            raise ValueError("--images is for --form folders; lists name the images where they are")
        from boxwright.data.formats import open_dataset
        from boxwright.data.formats.split import draw_missing, few_objects, shares_with
        from boxwright.data.write import WRITERS, write_dataset, write_lists

        shares_with(self.val_fraction, self.test_fraction)  # refused before the data is read
        given = open_dataset(data, format=self.format, draw=False)
        splits = draw_missing(given, self.seed, self.val_fraction, self.test_fraction, self.redraw)
        for sentence in few_objects(splits, splits.drawn):
            say(f"boxwright data split: {sentence}")
        if self.form == "lists":
            report(write_lists(splits, self.out), self.json, "split", "none")
            return
        format = splits.format if splits.format in WRITERS else "coco"
        with ExitStack() as stack:
            written = write_dataset(splits, self.out, format, self.images or "copy", Bar(stack, "split"))
        report(written, self.json, "split", self.images or "copy")
