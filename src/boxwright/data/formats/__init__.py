"""From a folder or file of annotations, in whichever format, to its train, validation and test parts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from boxwright.data.formats import coco, voc, yolo
from boxwright.data.formats.reading import DatasetError, Problem, Reading, build, warn_of
from boxwright.data.formats.split import Splits, draw_parts

__all__ = ["DatasetError", "Problem", "Splits", "open_dataset", "read_parts"]

_FORMATS: dict[str, Any] = {"coco": coco, "voc": voc, "yolo": yolo}


def open_dataset(path: str | Path, seed: int = 0, format: str | None = None) -> Splits:
    """Open a dataset in any usual layout of COCO JSON, VOC XML or YOLO text.

    path    its folder, its COCO JSON, or its YOLO YAML
    seed    for the parts that have to be drawn: all three (80/10/10) where the dataset has none, validation out of
            training (a tenth) where only that is missing; by content, see `draw_parts`
    format  "coco", "voc" or "yolo" where a folder holds more than one; found out by itself otherwise

    Broken boxes, annotations and missing images are left out with one warning that counts them. Raises DatasetError
    where there is nothing to use, naming what was looked for and what was found.
    """
    source = Path(path)
    format, readings = read_parts(source, format)
    names = list(dict.fromkeys(name for reading in readings.values() for name in reading.names))
    parts, problems = {}, []
    for part, reading in readings.items():
        parts[part], found = build(reading, names)
        problems += found
    if broken := next((p for p in problems if p.kind == "unreadable annotations"), None):
        raise DatasetError(str(broken), Path(broken.file), broken.line)
    for part, dataset in parts.items():
        if not len(dataset):
            raise DatasetError(f"{source}: no usable image in the {part} part ({format}). {_first(problems)}")
    if not names:
        raise DatasetError(f"{source}: no class is named anywhere ({format}). {_first(problems)}")
    warn_of(problems, source)
    whole, trained = parts.pop("all", None), parts.get("train")
    if whole is not None:
        parts = draw_parts(whole, seed)
    elif trained is not None and "val" not in parts:
        parts |= draw_parts(trained, seed, {"train": 0.9, "val": 0.1})
    made = whole is not None or (trained is not None and parts["train"] is not trained)
    ordered = {part: parts[part] for part in ("train", "val", "test") if part in parts}
    return Splits(ordered, source, format, made, seed)


def read_parts(path: Path, format: str | None = None) -> tuple[str, dict[str, Reading]]:
    """The format, and what each part's files say, nothing left out yet; the part "all" where there are no parts."""
    if format is not None and format not in _FORMATS:
        raise DatasetError(f"expected a format out of {', '.join(_FORMATS)}, got {format}")
    if not path.exists():
        raise DatasetError(f"expected a dataset's folder, COCO JSON or YOLO YAML at {path}, there is nothing")
    if path.is_file():
        return _read_file(path)
    tried = _FORMATS if format is None else {format: _FORMATS[format]}
    folder = path
    while True:
        for name, module in tried.items():
            if found := module.find(folder):
                return name, module.read(found, folder)
        inner = [f for f in folder.iterdir() if f.is_dir() and not f.name.startswith((".", "__"))]
        if len(inner) != 1:  # an unpacked archive often has one more folder around
            raise DatasetError(_nothing_found(path, list(tried)))
        folder = inner[0]


def _read_file(path: Path) -> tuple[str, dict[str, Reading]]:
    if path.suffix.lower() == ".json":
        folder = path.parent.parent if path.parent.name == "annotations" else path.parent
        part = coco.split_of(path, folder)
        return "coco", coco.read({"train" if part == "trainval" else part: path}, folder)
    if path.suffix.lower() in (".yaml", ".yml"):
        return "yolo", yolo.read(yolo.find_in_yaml(path), path.parent)
    raise DatasetError(f"expected a folder, a COCO .json or a YOLO .yaml, got the file {path}")


def _nothing_found(path: Path, formats: list[str]) -> str:
    looked = "\n  ".join(_FORMATS[name].LOOKED_FOR for name in formats)
    kinds = Counter(file.suffix or "without suffix" if file.is_file() else "folder" for file in path.iterdir())
    entries = sorted(file.name + ("/" if file.is_dir() else "") for file in path.iterdir())
    listed = ", ".join(entries[:12]) + (f" … ({len(entries)} in all)" if len(entries) > 12 else "")
    held = ", ".join(f"{count} × {kind}" for kind, count in sorted(kinds.items(), key=lambda item: (-item[1], item[0])))
    return f"{path} is no dataset in a layout known here. Looked for\n  {looked}\nFound {listed or 'nothing'} ({held})"


def _first(problems: list[Problem]) -> str:
    return f"The first of {len(problems)} problems: {problems[0]}" if problems else ""
