"""`boxwright data merge`: several datasets as one."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from boxwright.cli.arguments import MaxMegapixels, check_folder, dataset_path
from boxwright.cli.data_convert import Bar, report


@dataclass(frozen=True)
class Merge:
    """Write several datasets, of any formats, as one to a new folder. Classes of the same name are the same.

    Splits stay; where only some datasets have them, the images of the others become training images. Images get new
    ids, and equal file names a number.
    """

    data: Positional[Annotated[tuple[Path, ...], arg(metavar="PATH ...", help_behavior_hint="")]] = ()
    """The datasets, two or more: folders, COCO JSON, YOLO YAML or CSV."""
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(required)")] = None
    """The folder to write, which does not exist yet or is empty."""
    to: Annotated[Literal["coco", "voc", "yolo"] | None, arg(metavar="coco|voc|yolo", help_behavior_hint="")] = None
    """The format to write; that of the first dataset if not given, COCO for LabelMe and CSV."""
    images: Literal["copy", "link", "none"] = "copy"
    """Copy the images, link to them, or write annotations only."""
    max_megapixels: MaxMegapixels = None
    json: bool = False
    """Print what was written as JSON."""

    def run(self) -> None:
        if len(self.data) < 2:
            raise ValueError(f"expected two datasets or more, got {len(self.data)}; name their folders or files")
        if self.out is None:
            raise ValueError("no folder to write. Name a new one with --out")
        paths = [dataset_path(path) for path in self.data]
        check_folder("--out", self.out)
        from boxwright.data.check import similar_names
        from boxwright.data.formats import open_dataset
        from boxwright.data.merge import in_two_splits, merge
        from boxwright.data.write import WRITERS, check_outside, write_dataset

        datasets = [open_dataset(path, draw=False) for path in paths]
        for splits in datasets:
            check_outside(self.out, splits)
        merged = merge(datasets)
        notes = [f"{' and '.join(similar)} stay different classes" for similar in similar_names(merged.names)]
        if "all" not in merged:
            whole = [str(path) for path, splits in zip(paths, datasets, strict=True) if "all" in splits]
            notes += [f"{', '.join(whole)}: without splits, so all images are in train"] if whole else []
        if found := in_two_splits(merged):
            path, split, before, its_split = found[0]
            more = f" ({len(found)} such images)" if len(found) > 1 else ""
            notes += [
                f"{path} in {split} has the same content as {before} in {its_split}{more}, so that metrics are too "
                f"good; draw the splits again: boxwright data split {self.out} --redraw --out DIR"
            ]
        format = self.to or (merged.format if merged.format in WRITERS else "coco")
        with ExitStack() as stack:
            written = write_dataset(merged, self.out, format, self.images, Bar(stack, "merge"))
        report(written, self.json, "merge", self.images, notes)
