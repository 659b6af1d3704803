"""CSV with a box in each row: `filename,width,height,class,xmin,ymin,xmax,ymax` and the like; the header names columns.

Without a header, a row is `path,x1,y1,x2,y2,class`, as RetinaNet's exports have it. Open Images has its own columns:
corners in shares of the image, and classes named by class-descriptions*.csv. Corners are edges in continuous pixels as
they are written: nothing is subtracted, though some scripts copy them from VOC XML, which counts pixels from 1.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from boxwright.data.formats.given_splits import Layout, divide, layout_of
from boxwright.data.formats.images import files_of, image_folders, images_by_stem, locate, measure, named_folders, where
from boxwright.data.formats.reading import SPLIT_NAMES, BoxRow, DatasetError, Folders, ImageRow, Reading, drop_missing
from boxwright.data.formats.text import is_name, is_path, name_classes, read_text, size_of, start_of
from boxwright.data.image import is_image
from boxwright.units import shown

LAYOUTS = "CSV: NAME.csv or train/NAME.csv, with the columns filename, class, xmin, ymin, xmax and ymax"

_COLUMNS = {  # the first of these words counts
    "image": "filename file filepath path imagepath imagefile imgpath imagename image img imageid",
    "name": "classname labelname class label category name",
    "x1": "xmin x1 left",
    "y1": "ymin y1 top",
    "x2": "xmax x2 right",
    "y2": "ymax y2 bottom",
    "width": "width imagewidth",
    "height": "height imageheight",
    "split": "split subset set",
    "crowd": "isgroupof",
}
_CORNERS = ("x1", "y1", "x2", "y2")
_NEEDED = ("image", *_CORNERS, "name")

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Columns:
    """How the rows of a file are written: the delimiter, the position of each known column, whether the first row names
    them, and whether corners are shares of the image."""

    delimiter: str
    positions: dict[str, int]
    header: bool
    shares: bool


def find(folder: Path) -> Layout | None:
    """The CSV of each split; None if there is none. Raises DatasetError if several could be the same split."""
    return layout_of(filter(_columns, _csv_files(folder)), folder, "CSV of boxes")


def near_miss(folder: Path) -> str:
    """The columns of a CSV without boxes, or where others are; "" if there is none."""
    for file in _csv_files(folder):
        return f"{file.relative_to(folder)} begins with `{_first_line(file)[:100]}`"
    return where(folder, ".csv")


def _csv_files(folder: Path) -> list[Path]:
    parents = named_folders(folder, ("", "annotations", "labels", "data", *SPLIT_NAMES))
    return [file for parent in parents for file in files_of(parent, ".csv")]


def _first_line(file: Path) -> str:
    return start_of(file, 65536).partition("\n")[0].strip()


def _columns(file: Path) -> Columns | None:
    """By its first line; None if it has no boxes, or cannot be read."""
    line = _first_line(file)
    delimiter = max(",;\t", key=line.count)
    cells = [cell.strip() for cell in _cells(line, delimiter)]
    words = [re.sub(r"[^a-z0-9]", "", cell.lower()) for cell in cells]
    found = {meaning: [word for word in known.split() if word in words] for meaning, known in _COLUMNS.items()}
    positions = {meaning: words.index(there[0]) for meaning, there in found.items() if there}
    if positions.keys() >= set(_NEEDED):
        return Columns(delimiter, positions, header=True, shares={"imageid", "labelname"} <= set(words))
    if len(cells) == 6 and is_image(cells[0]) and (_corners(cells[1:5]) or not any(cells[1:])):
        return Columns(delimiter, {name: k for k, name in enumerate(_NEEDED)}, header=False, shares=False)
    return None


def read(layout: Layout, folder: Path) -> dict[str, Reading]:
    """Every split. A file without splits is divided by its column `split`, or by folders of images named like one."""
    readings: dict[str, Reading] = {}
    for split, file in layout.files.items():
        readings |= _read_file(split, file, folder)
    layout.report_unused(next(iter(readings.values())))
    name_classes(readings, folder)
    return readings


def _read_file(split: str, file: Path, folder: Path) -> dict[str, Reading]:
    columns = _columns(file)
    if columns is None:
        needed = ", ".join(_COLUMNS[name].split()[0] for name in _NEEDED)
        raise DatasetError(f"{file}: expected the columns {needed} in the first line; name them there", file, 1)
    reading, index_of, splits = Reading(names=[]), dict[str, int](), dict[int | str, str]()
    words = [word for word, meaning in SPLIT_NAMES.items() if split in ("all", meaning)]
    bases = [file.parent, *(folder / end for word in words for end in (f"images/{word}", word)), folder]
    roots = image_folders(base for base in bases if base.is_dir())
    folders, stems, described = Folders(), images_by_stem(roots), _descriptions((file.parent, folder))
    for line, row in _rows(file, columns):
        image, corners, name = row["image"], [row[corner] for corner in _CORNERS], row["name"]
        box = _corners(corners)
        blank = not name and not any(corners)  # an image without an object
        if not is_path(image) or not (blank or (is_name(name) and box)):
            got = ", ".join(shown(value) if value else "nothing" for value in (image, *corners, name))
            message = f"a row needs an image, four numbers and a class, got {got}"
            reading.report("malformed annotation", file, line, message, "mend or remove the row")
            continue
        if image not in index_of:
            path = stems.get(image) or locate(image, roots, folders) or str(roots[0] / image)
            size = size_of(row.get("height"), row.get("width"))  # without one, that of the image
            index_of[image] = len(reading.images)
            reading.images.append(ImageRow(path, image, size, str(file), line))
            if its_split := SPLIT_NAMES.get(row.get("split", "").lower()):
                splits[image] = its_split
        if box:
            crowd = row.get("crowd") == "1"
            reading.boxes.append(BoxRow(index_of[image], described.get(name, name), box, str(file), line, crowd))
    drop_missing(reading)
    if columns.shares:
        _scale(reading)
    return divide(reading, splits, folder) if split == "all" else {split: reading}


def _rows(file: Path, columns: Columns) -> Iterator[tuple[int, dict[str, str]]]:
    """The number of each line, and its known columns, stripped; missing ones are blank. Raises DatasetError.

    Lines are read one by one, so that a quote which is not closed costs its own line, not all that follow.
    """
    for number, line in enumerate(io.StringIO(read_text(file)), 1):
        cells = _cells(line, columns.delimiter)
        if any(cells) and not (columns.header and number == 1):
            yield number, {name: cells[k].strip() if k < len(cells) else "" for name, k in columns.positions.items()}


def _cells(line: str, delimiter: str = ",") -> list[str]:
    """The cells of a line; the line itself if it is no CSV, as one cell, which is never a box."""
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return [line]


def _corners(cells: list[str]) -> Box | None:
    try:
        x1, y1, x2, y2 = map(float, cells)
    except ValueError:
        return None
    return x1, y1, x2, y2


def _descriptions(folders: Iterable[Path]) -> dict[str, str]:
    """Open Images' names of classes, by the label that its boxes have. Raises DatasetError."""
    names: dict[str, str] = {}
    for file in (file for folder in folders for file in sorted(folder.glob("*class-descriptions*.csv"))):
        rows = map(_cells, io.StringIO(read_text(file)))
        names |= {cells[0]: cells[1] for cells in rows if len(cells) == 2 and is_name(cells[1])}
    return names


def _scale(reading: Reading) -> None:
    """Boxes in shares of their images to pixels; those of images that cannot be read are left out with them."""
    measure(reading)
    rows, reading.boxes = reading.boxes, []
    for row in rows:
        if size := reading.images[row.image].size:
            x1, y1, x2, y2 = row.box
            box = (x1 * size.width, y1 * size.height, x2 * size.width, y2 * size.height)
            reading.boxes.append(row._replace(box=box))
