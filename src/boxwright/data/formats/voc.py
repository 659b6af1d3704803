"""Pascal VOC XML: `Annotations` + `JPEGImages` + `ImageSets/Main`, XML files beside their images, Roboflow exports, or
any one folder of XML beside one of images.

VOC counts pixels from 1 and includes both corners in the box. In continuous coordinates the left and upper edges are
`xmin - 1` and `ymin - 1`, the right and lower ones `xmax` and `ymax`; the whole image is 1, 1, width, height.
The format: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.sax.saxutils import escape

from boxwright.data.dataset import Dataset
from boxwright.data.formats.documents import Node, read_xml
from boxwright.data.formats.images import (
    entries_of,
    files_of,
    image_folders,
    image_of,
    images_by_stem,
    inner_folders,
    named_folders,
    where,
)
from boxwright.data.formats.reading import SPLIT_NAMES, BoxRow, DatasetError, Folders, ImageRow, Reading, drop_missing
from boxwright.data.formats.text import (
    flag,
    is_name,
    is_path,
    name_classes,
    problem_of,
    read_text,
    size_of,
    spelled,
    start_of,
)
from boxwright.data.image import IMAGE_SUFFIXES
from boxwright.types import Size
from boxwright.units import shown

LAYOUTS = (
    "VOC: Annotations/*.xml (with ImageSets/Main/*.txt if there are splits), *.xml, train/*.xml, "
    "or any one folder of XML beside one of images"
)

_XML_FOLDERS = ("Annotations", "Annotations/xmls", "xmls", "xml", "labels", "")


def find(folder: Path) -> dict[str, Path]:
    """For each split the text file that lists it or the folder of its XML files; {} if there is no XML."""
    if xml_folder := _xml_folder(folder):
        lists = {name: folder / "ImageSets" / "Main" / f"{name}.txt" for name in ("train", "val", "test", "trainval")}
        splits = {name: file for name, file in lists.items() if file.is_file()}
        trainval = splits.pop("trainval", None)
        if trainval and "train" not in splits:
            splits["train"] = trainval
        return splits or {"all": xml_folder}
    return {split: inner for name, split in SPLIT_NAMES.items() if (inner := _xml_folder(spelled(folder, name)))}


def near_miss(folder: Path) -> str:
    """The root of an XML file of another format, or where XML files are; "" if there are none."""
    for file in files_of(folder, ".xml"):
        if root := re.search(r"<\w+", start_of(file)):
            return f"{file.name} begins with {root[0]}>, not with <annotation>"
    return where(folder, ".xml")


def read(sources: dict[str, Path], folder: Path) -> dict[str, Reading]:
    """Every split."""
    readings = {split: _read_split(source, folder) for split, source in sources.items()}
    name_classes(readings, folder)
    for reading in readings.values():
        drop_missing(reading)
    return readings


def _xml_folder(folder: Path | None) -> Path | None:
    if folder is None or not folder.is_dir():
        return None
    for inner in named_folders(folder, _XML_FOLDERS):
        files = files_of(inner, ".xml")
        if files and (inner != folder or any(map(_is_voc, files[:8]))):
            return inner
    return _only_xml_folder(folder)


def _only_xml_folder(folder: Path) -> Path | None:
    """A folder of any name, if no other one has VOC XML, and one beside it has images of the same names."""
    entries = [name.lower() for name in entries_of(folder)]
    if "labels" in entries or any(name.endswith((".yaml", ".yml", ".data")) for name in entries):
        return None  # YOLO text that keeps the XML out of which it was made
    inner_xml = _without_splits(folder)
    found = [(inner, files) for inner in inner_xml if (files := files_of(inner, ".xml")) and _is_voc(files[0])]
    if len(found) != 1:
        return None
    ((inner, files),) = found
    return inner if _only_image_folder(folder, {file.stem for file in files}) else None


def _only_image_folder(folder: Path, stems: set[str]) -> Path | None:
    """The folder or sub-folder with images of these names; None if there are several, since one may hold masks."""
    candidates = [folder, *_without_splits(folder)]
    found = [inner for inner in candidates if not stems.isdisjoint(images_by_stem([inner]))]
    return found[0] if len(found) == 1 else None


def _without_splits(folder: Path) -> list[Path]:
    return [inner for inner in inner_folders(folder) if inner.name.lower() not in SPLIT_NAMES]


def _is_voc(file: Path) -> bool:
    """Whether there is an element `annotation`; that of CVAT is `annotations`."""
    return re.search(r"<annotation[\s>]", start_of(file)) is not None


def _read_split(source: Path, folder: Path) -> Reading:
    reading = Reading(names=[])
    files = list(_listed(source, folder, reading)) if source.is_file() else files_of(source, ".xml")
    bases = [base for base in (source, source.parent, folder) if source.is_dir() and base.is_relative_to(folder)]
    bases = list(dict.fromkeys(bases or [folder]))
    roots, folders = image_folders(bases), Folders()
    images, stems = images_by_stem(roots), {file.stem for file in files}
    if stems.isdisjoint(images):
        others = (inner for base in bases if (inner := _only_image_folder(base, stems)))
        images |= images_by_stem(list(others))
    for file in files:
        found = Reading(names=[])  # used only if the file is whole
        try:
            root, boxes = _read_file(file, len(reading.images), found)
        except DatasetError as error:
            reading.problems.append(problem_of(error))
            continue
        reading.problems += found.problems
        named = root.text_of("filename")
        image = image_of(file, named if is_path(named) else "", images, roots, folders)
        size = _size(root.child("size"), file, reading)
        reading.images.append(ImageRow(image, file.stem, size, str(file), root.line_of("size")))
        reading.boxes += boxes
    return reading


def _read_file(file: Path, image: int, reading: Reading) -> tuple[Node, list[BoxRow]]:
    """The root element with its children but for the objects, and the boxes of these. Raises DatasetError."""
    nodes = read_xml(file, "an XML annotation")
    root, boxes = next(nodes), list[BoxRow]()
    for node in nodes:
        if node.tag != "object":
            root.children.setdefault(node.tag, node)
        elif row := _box(node, image, file, reading):
            boxes.append(row)
    return root, boxes


def _listed(source: Path, folder: Path, reading: Reading) -> Iterator[Path]:
    """The XML files of a list of image ids or file names, one per line, perhaps with 1 or -1 for a class behind it."""
    try:
        lines = read_text(source).splitlines()
    except DatasetError as error:
        reading.problems.append(problem_of(error))
        return
    xml_folder, seen = _xml_folder(folder) or folder, set()
    files = {file.stem: file for file in files_of(xml_folder, ".xml")}
    for line, text in enumerate(lines, 1):
        if not text.strip():
            continue
        stem = _stem(text.strip())
        if stem not in files:
            stem = _stem(text.split()[0])
        if not is_path(stem):
            message = f"expected the name of an image, got {shown(stem)}"
            reading.report("malformed annotation", source, line, message, "mend or remove the line")
        elif stem in seen:
            reading.report("duplicate image", source, line, f"{shown(stem)} is listed a second time", "remove the line")
        elif stem not in files:
            message = f"expected {xml_folder / stem}.xml for {shown(stem)}, there is none"
            reading.report("missing annotation", source, line, message, "put it there, or remove the line")
        else:
            yield files[stem]
        seen.add(stem)


def _stem(entry: str) -> str:
    """The id of an image: the last part of its path, without a suffix of images or XML."""
    name = re.split(r"[/\\]", entry)[-1]
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in IMAGE_SUFFIXES | {".xml"} else name


def _size(node: Node | None, file: Path, reading: Reading) -> Size | None:
    if node is None:
        return None
    if size := size_of(node.text_of("height"), node.text_of("width")):
        return size
    width, height = (shown(node.text_of(side)) if node.text_of(side) else "missing" for side in ("width", "height"))
    message = f"size is {width}×{height}"
    mend = "write the image's width and height; until then they are read from the image"
    reading.report("wrong size", file, node.line, message, mend)
    return None


def _box(node: Node, image: int, file: Path, reading: Reading) -> BoxRow | None:
    name, box, line = node.text_of("name"), node.child("bndbox"), node.line_of("bndbox")
    corners = [box.text_of(corner) if box else "" for corner in ("xmin", "ymin", "xmax", "ymax")]
    try:
        x1, y1, x2, y2 = map(float, corners)
    except ValueError:
        name = ""
        x1 = y1 = x2 = y2 = 0.0
    if not is_name(name):
        given = ", ".join(shown(corner) if corner else "nothing" for corner in corners)
        got = f"{shown(node.text_of('name')) or 'no name'}, {given}"
        message = f"an object needs a name and four numbers in bndbox, got {got}"
        reading.report("malformed annotation", file, line, message, "mend or remove the object")
        return None
    if x1 < x2 and y1 < y2:  # equal corners are a stray click, not a box of one pixel; unchanged, they have no area
        x1, y1 = x1 - 1, y1 - 1
    written = node.text_of("difficult")
    difficult = flag(written)
    if difficult is None:
        message = f"expected 0 or 1 in difficult, got {shown(written)}; the object counts as not difficult"
        reading.report("malformed annotation", file, node.line_of("difficult"), message, "write 0 or 1", "warning")
    return BoxRow(image, name, (x1, y1, x2, y2), str(file), line, difficult=bool(difficult))


def image_folder(split: str) -> str:
    """Where `write` expects the images of a split, or of "all"."""
    return "JPEGImages"


def write(splits: Mapping[str, Dataset], folder: Path) -> None:
    """Write an XML for each image, a list in ImageSets/Main for each split but "all", and labels.txt for the order of
    the classes.

    VOC knows neither crowds, which are written as others, nor boxes of a pixel's width, which no reader keeps.
    """
    (folder / "Annotations").mkdir(parents=True)
    for split, dataset in splits.items():
        for index in range(len(dataset)):
            path = folder / "Annotations" / f"{dataset.path(index).stem}.xml"
            path.write_text(_annotation(dataset, index), encoding="utf-8")
        if split != "all":
            lists = folder / "ImageSets" / "Main"
            lists.mkdir(parents=True, exist_ok=True)
            stems = [dataset.path(index).stem for index in range(len(dataset))]
            (lists / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")
    names = next(iter(splits.values())).names
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def _annotation(dataset: Dataset, index: int) -> str:
    """The XML of one image."""
    (height, width), path = dataset.size(index), dataset.path(index)
    lines = [
        "<annotation>",
        f"  <folder>{path.parent.name}</folder>",
        f"  <filename>{escape(path.name)}</filename>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
    ]
    for row in range(dataset.offsets[index], dataset.offsets[index + 1]):
        x1, y1, x2, y2 = dataset.boxes[row].tolist()
        corners = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}
        lines += [
            "  <object>",
            f"    <name>{escape(dataset.names[dataset.labels[row]])}</name>",
            f"    <difficult>{int(dataset.difficult[row])}</difficult>",
            f"    <bndbox>{''.join(f'<{tag}>{_number(value)}</{tag}>' for tag, value in corners.items())}</bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


def _number(value: float) -> str:
    """A whole number without a point: many readers take no other."""
    return str(int(value) if value.is_integer() else value)
