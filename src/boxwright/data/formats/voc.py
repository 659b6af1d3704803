"""Pascal VOC XML: `Annotations` + `JPEGImages` + `ImageSets/Main`, XML files beside their images, Roboflow exports.

VOC counts pixels from 1 and includes both corners in the box. In continuous coordinates the left and upper edges are
`xmin - 1` and `ymin - 1`, the right and lower ones `xmax` and `ymax`; the whole image is 1, 1, width, height.
The format: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from boxwright.data.formats.reading import SPLIT_NAMES, BoxRow, ImageRow, Problem, Reading, drop_missing
from boxwright.data.formats.text import names_from_file
from boxwright.data.image import IMAGE_SUFFIXES, is_image
from boxwright.types import Size

LAYOUTS = "VOC: Annotations/*.xml (with ImageSets/Main/*.txt if there are splits), *.xml, or train/*.xml"

_XML_FOLDERS = ("Annotations", "annotations", "Annotations/xmls", "annotations/xmls", "xmls", "xml", "labels", "")
_IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "JPEGImage", "imgs", "img", "")


def find(folder: Path) -> dict[str, Path]:
    """For each split the text file that lists it or the folder of its XML files; {} if there is no XML."""
    if xml_folder := _xml_folder(folder):
        lists = {name: folder / "ImageSets" / "Main" / f"{name}.txt" for name in ("train", "val", "test", "trainval")}
        splits = {name: file for name, file in lists.items() if file.is_file()}
        trainval = splits.pop("trainval", None)
        if trainval and "train" not in splits:
            splits["train"] = trainval
        return splits or {"all": xml_folder}
    return {split: inner for name, split in SPLIT_NAMES.items() if (inner := _xml_folder(folder / name))}


def read(sources: dict[str, Path], folder: Path) -> dict[str, Reading]:
    """Every split. Classes are in the order of `labels.txt` or `classes.txt`, otherwise alphabetical."""
    problems: list[Problem] = []
    known = names_from_file(folder, problems, by_index=False)
    readings = {split: _read_split(source, folder, known) for split, source in sources.items()}
    next(iter(readings.values())).problems.extend(problems)
    names = known or sorted({row.name for reading in readings.values() for row in reading.boxes})
    for reading in readings.values():
        reading.names = list(names)
        drop_missing(reading)
    return readings


def _xml_folder(folder: Path) -> Path | None:
    return next((folder / name for name in _XML_FOLDERS if _xml_files(folder / name)), None)


def _xml_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.xml") if not file.name.startswith("."))


def _read_split(source: Path, folder: Path, known: list[str]) -> Reading:
    reading = Reading(names=[])
    files = _listed(source, folder, reading) if source.is_file() else _xml_files(source)
    bases = [base for base in (source, source.parent, folder) if source.is_dir() and base.is_relative_to(folder)]
    roots = [base / name for base in dict.fromkeys(bases or [folder]) for name in _IMAGE_FOLDERS]
    images = _images(roots)
    for file in files:
        try:
            root = _parse(file)
        except (OSError, expat.ExpatError) as error:
            message, mend = f"expected an XML annotation: {error}", "correct it there, or annotate the image again"
            reading.report("malformed annotation", file, getattr(error, "lineno", None), message, mend)
            continue
        image = images.get(file.stem) or _image_by_name(root, file, images, roots)
        size = _size(root.child("size"), file, reading)
        reading.images.append(ImageRow(image, file.stem, size, str(file), root.line_of("size")))
        for node in root.all("object"):
            row = _box(node, len(reading.images) - 1, file, reading)
            if row and known and row.name not in known:
                message, mend = f"class {row.name} is not one of {', '.join(known)}", "rename it, or add it to the list"
                reading.report("unknown class", file, node.line_of("name"), message, mend)
            elif row:
                reading.boxes.append(row)
    return reading


def _listed(source: Path, folder: Path, reading: Reading) -> Iterator[Path]:
    """The XML files of a list of image ids, one per line."""
    xml_folder, seen = _xml_folder(folder), set()
    for line, text in enumerate(source.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not text.strip():
            continue
        entry = Path(text.split()[0])
        stem = entry.stem if entry.suffix.lower() in IMAGE_SUFFIXES | {".xml"} else entry.name
        file = (xml_folder or folder) / f"{stem}.xml"
        if stem in seen:
            reading.report("duplicate image", source, line, f"{stem} is listed a second time", "remove the line")
        elif not file.is_file():
            message, mend = f"expected {file} for {stem}, there is none", "put it there, or remove the line"
            reading.report("missing annotation", source, line, message, mend)
        else:
            yield file
        seen.add(stem)


def _images(roots: list[Path]) -> dict[str, str]:
    """Path of each image by its name without suffix; the first folder that has it counts."""
    images: dict[str, str] = {}
    for root in roots:
        for entry in sorted(os.listdir(root)) if root.is_dir() else ():
            if is_image(entry):
                images.setdefault(os.path.splitext(entry)[0], os.path.join(root, entry))
    return images


def _image_by_name(root: Node, file: Path, images: dict[str, str], roots: list[Path]) -> str:
    """The image that `<filename>` names, or where it should be; out of date once files are renamed, so tried second."""
    named = Path(root.text_of("filename").replace("\\", "/"))
    folder = next((folder for folder in roots if folder.is_dir()), file.parent)
    return images.get(named.stem) or str(folder / (named.name or f"{file.stem}.jpg"))


def _size(node: Node | None, file: Path, reading: Reading) -> Size | None:
    if node is None:
        return None
    try:
        width, height = (int(float(node.text_of(side))) for side in ("width", "height"))
    except (ValueError, OverflowError):
        width = height = 0
    if width > 0 and height > 0:
        return Size(height, width)
    message = f"size is {node.text_of('width') or 'missing'}×{node.text_of('height') or 'missing'}"
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
    if not name:
        given = ", ".join(corner or "nothing" for corner in corners)
        message = f"an object needs a name and four numbers in bndbox, got {node.text_of('name') or 'no name'}, {given}"
        reading.report("malformed annotation", file, line, message, "mend or remove the object")
        return None
    if x1 < x2 and y1 < y2:  # equal corners are a stray click, not a box of one pixel; unchanged, they have no area
        x1, y1 = x1 - 1, y1 - 1
    difficult = node.text_of("difficult") in ("1", "true", "True")
    return BoxRow(image, name, (x1, y1, x2, y2), str(file), line, difficult=difficult)


@dataclass
class Node:
    """An XML element with its line number, which `xml.etree` does not keep."""

    tag: str
    line: int
    text: str = ""
    children: list[Node] = field(default_factory=list)

    def all(self, tag: str) -> list[Node]:
        return [child for child in self.children if child.tag == tag]

    def child(self, tag: str) -> Node | None:
        return next(iter(self.all(tag)), None)

    def text_of(self, tag: str) -> str:
        """The child's stripped text; "" if there is no such child."""
        child = self.child(tag)
        return child.text.strip() if child else ""

    def line_of(self, tag: str) -> int:
        """The child's line; this element's own if there is no such child."""
        child = self.child(tag)
        return child.line if child else self.line


def _parse(file: Path) -> Node:
    """The root element. Raises expat.ExpatError, which has a line number, if the XML is not well-formed."""
    top = Node("", 0)
    stack = [top]
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def start(tag: str, _: dict[str, str]) -> None:
        node = Node(tag, parser.CurrentLineNumber)
        stack[-1].children.append(node)
        stack.append(node)

    def text(data: str) -> None:
        stack[-1].text += data

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: stack.pop()
    parser.CharacterDataHandler = text
    parser.Parse(file.read_bytes(), True)
    return top.children[0]
