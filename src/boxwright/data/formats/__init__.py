"""Open a folder or file of annotations, in any of five formats, as train, validation and test splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from boxwright.data.formats import coco, csv, labelme, voc, yolo
from boxwright.data.formats.build import build
from boxwright.data.formats.given_splits import Layout, split_of
from boxwright.data.formats.reading import DatasetError, Problem, Reading, warn_about, without_collector
from boxwright.data.formats.split import Splits, draw_splits, in_order

__all__ = ["FORMATS", "DatasetError", "Problem", "Splits", "open_dataset", "read_splits"]

FORMATS: dict[str, Any] = {"coco": coco, "voc": voc, "yolo": yolo, "labelme": labelme, "csv": csv}


@without_collector()
def open_dataset(path: str | Path, seed: int = 0, format: str | None = None, draw: bool = True) -> Splits:
    """Open a dataset in any usual layout of COCO JSON, VOC XML, YOLO text, LabelMe JSON or CSV.

    path    its folder, its COCO JSON, its YOLO YAML, or its CSV
    seed    for the splits that have to be drawn: all three (80/10/10) if the dataset has none, validation out of
            training (a tenth) if only that is missing; drawn by content, see `draw_splits`
    format  a key of `FORMATS`, if a folder holds more than one; detected if not given
    draw    False: only the splits that the dataset has itself; one that has none is the split "all"

    Broken boxes, broken annotations and missing images are left out, with one warning that counts them. What concerns
    a whole file or split, such as images of another size than annotated, is a warning in full. Raises
    DatasetError if nothing usable is left; the message lists the expected layouts and the files that were found.
    """
    source = Path(path)
    format, readings = read_splits(source, format)
    names = list(dict.fromkeys(name for reading in readings.values() for name in reading.names))
    splits, problems = {}, []
    for split, reading in readings.items():
        splits[split], its_problems = build(reading, names)
        problems += its_problems
    if broken := next((p for p in problems if p.kind == "unreadable annotations"), None):
        raise DatasetError(str(broken), Path(broken.file), broken.line)
    for split, dataset in splits.items():
        if not len(dataset):
            raise DatasetError(f"{source}: no usable image in the {split} split ({format}). {_first(problems)}")
    if (shares := next((p for p in problems if p.kind == "box in shares"), None)) and not any(
        len(dataset.boxes) for dataset in splits.values()
    ):
        raise DatasetError(str(shares), Path(shares.file), shares.line)
    if not names:
        raise DatasetError(f"{source}: the annotations name no class ({format}). {_first(problems)}")
    warn_about(problems, source)
    if not draw:
        return Splits(in_order(splits), source, format, (), seed)
    drawn: Collection[str] = ()
    if "all" in splits:
        splits = drawn = draw_splits(splits["all"], seed)
    elif "train" in splits and "val" not in splits:
        splits |= draw_splits(splits["train"], seed, {"train": 0.9, "val": 0.1})
        drawn = ("val",)
    return Splits(in_order(splits), source, format, drawn, seed)


@without_collector()
def read_splits(path: Path, format: str | None = None) -> tuple[str, dict[str, Reading]]:
    """The format, and each split's annotations before broken ones are dropped; the split "all" if there are none."""
    format, readings = _read(path, format)
    _report_unlabelled(readings)
    return format, readings


def _report_unlabelled(readings: dict[str, Reading]) -> None:
    """Report each split without a box where other splits have some; a format may have said it with more detail."""
    labelled = [split for split, reading in readings.items() if reading.boxes]
    for split, reading in readings.items():
        known = any(problem.kind == "split without labels" for problem in reading.problems)
        if labelled and reading.images and split not in labelled and not known:
            file = reading.images[0].file
            message = f"none of the {len(reading.images)} images of {split} has a box in the annotations, "
            message += f"though those of {' and '.join(labelled)} have"
            mend = f"put its annotations there, or leave out {split} if it shows no object"
            reading.report("split without labels", file, None, message, mend)


def _read(path: Path, format: str | None) -> tuple[str, dict[str, Reading]]:
    if format is not None and format not in FORMATS:
        raise DatasetError(f"expected a format out of {', '.join(FORMATS)}, got {format}")
    if not path.exists():
        raise DatasetError(f"expected a dataset's folder, COCO JSON, YOLO YAML or CSV at {path}, which does not exist")
    if path.is_file():
        return _read_file(path, format)
    if not path.is_dir():
        raise DatasetError(f"expected a dataset's folder or file at {path}, which is a pipe or a device; name a file")
    tried = FORMATS if format is None else {format: FORMATS[format]}
    folders = [path]
    while True:
        folder = folders[-1]
        for name, module in tried.items():
            if layout := module.find(folder):
                return name, module.read(layout, folder)
        inner = [f for f in folder.iterdir() if f.is_dir() and not f.name.startswith((".", "__"))]
        if len(inner) != 1:  # an unpacked archive often adds an enclosing folder
            raise DatasetError(_nothing_found(path, folders, list(tried)))
        folders += inner


def _read_file(path: Path, format: str | None) -> tuple[str, dict[str, Reading]]:
    found = {".json": "coco", ".yaml": "yolo", ".yml": "yolo", ".csv": "csv"}.get(path.suffix.lower())
    if found is None:
        raise DatasetError(f"expected a folder, a COCO .json, a YOLO .yaml or a .csv, got the file {path}")
    if found == "coco" and labelme.is_labelme(path):
        raise DatasetError(f"{path} is LabelMe's annotation of one image; name its folder, {path.parent}")
    if format not in (None, found):
        raise DatasetError(f"expected {format}, got the file {path}, which is {found}; name its folder")
    if found == "yolo":
        return found, yolo.read(yolo.find_in_yaml(path), path.parent)
    folder = path.parent.parent if path.parent.name.lower() in ("annotations", "labels", "data") else path.parent
    split = split_of(path, folder)
    return found, FORMATS[found].read(Layout({"train" if split == "trainval" else split: path}), folder)


def _nothing_found(path: Path, folders: list[Path], formats: list[str]) -> str:
    """`folders` are `path` and those inside it, each the only folder of the one before; the first one with files is
    described."""
    folder = next((folder for folder in folders if any(file.is_file() for file in folder.iterdir())), folders[-1])
    lines = []
    for module in map(FORMATS.__getitem__, formats):
        lines.append(module.LAYOUTS)
        try:
            missed = module.near_miss(folder)
        except (OSError, DatasetError) as error:
            missed = str(error)
        lines += [f"  but {missed}"] if missed else []
    kinds = Counter(file.suffix or "without suffix" if file.is_file() else "folder" for file in folder.iterdir())
    entries = sorted(file.name + ("/" if file.is_dir() else "") for file in folder.iterdir())
    listed = ", ".join(entries[:12]) + (f" … ({len(entries)} in all)" if len(entries) > 12 else "")
    counts = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    found = f"{listed} ({', '.join(f'{count} × {kind}' for kind, count in counts)})" if counts else "an empty folder"
    searched = "\n  ".join(lines)
    inside = "" if folder == path else f" in {folder}"
    return f"{path} is not a dataset in a supported layout. Looked{inside} for\n  {searched}\nFound {found}"


def _first(problems: list[Problem]) -> str:
    return f"The first of {len(problems)} problems: {problems[0]}" if problems else ""
