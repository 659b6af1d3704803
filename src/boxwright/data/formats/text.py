"""What people and tools write into annotation files: text of any encoding, flags, class lists, foreign paths."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeGuard

from boxwright.data.formats.reading import DatasetError, Problem, Reading
from boxwright.files import open_regular
from boxwright.types import Size
from boxwright.units import shown

_MARKS = (  # that of UTF-32 first: it begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
_DEEPEST = 64
"""Folders in a path; no real one has as many."""

_FLAGS = {"": False, "false": False, "no": False, "0": False, "0.0": False}
_FLAGS |= {"true": True, "yes": True, "1": True, "1.0": True}


def encoding_of(path: str | Path) -> str:
    """That of a text file's byte order mark; UTF-8 without one. Raises OSError if the file cannot be read."""
    with open_regular(path) as file:
        return _encoding(file.read(4))


def _encoding(start: bytes) -> str:
    return next((encoding for mark, encoding in _MARKS if start.startswith(mark)), "utf-8")


def read_text(path: str | Path) -> str:
    """The text of a file: in the encoding of its byte order mark, or in UTF-8 without one.

    Raises DatasetError for a file that cannot be read, and, with the line, for other text.
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            data = file.read()
    except OSError as error:
        reason = error.strerror or str(error)
        raise DatasetError(f"{path}: expected text, it cannot be read ({reason}); allow reading", path) from error
    return text_in(data, path)


def text_in(data: bytes, path: Path) -> str:
    """As `read_text`, of the content of a file. Lines end in `\\n`, whatever they end in there."""
    encoding = _encoding(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        at = error.start
        if data.startswith(tuple(mark for mark, _ in _MARKS)):
            expected, mend = f"{encoding.upper()}, as its first bytes say", "save the file as UTF-8"
        else:
            expected, mend = "UTF-8", f"it looks like {_likely_encoding(data)}; save the file as UTF-8"
        message = f"{path}: expected text in {expected}, got the byte 0x{data[at]:02x} at position {at}; {mend}"
        raise DatasetError(message, path, data.count(b"\n", 0, at) + 1) from error
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def start_of(path: Path, count: int = 4096) -> str:
    """The first characters of a file, with marks for those that are no text; "" if it cannot be read."""
    try:
        with path.open(encoding=encoding_of(path), errors="replace") as file:
            return file.read(count)
    except OSError:
        return ""


def _likely_encoding(data: bytes) -> str:
    """A guess. Western letters beyond ASCII stand alone and are above 0x9f; the usual Asian encodings use pairs."""
    if re.search(rb"[\x80-\xff]{2}|[\x80-\x9f]", data):
        for encoding, name in (("gb2312", "GBK"), ("big5", "Big5"), ("shift_jis", "Shift JIS"), ("cp1251", "CP1251")):
            try:
                data.decode(encoding)
            except UnicodeDecodeError:
                continue
            return name
    return "CP1252"


def problem_of(error: DatasetError, kind: str = "malformed annotation") -> Problem:
    """The problem of a file that cannot be read, where the rest of the dataset can."""
    message, _, mend = str(error).removeprefix(f"{error.file}: ").rpartition("; ")
    return Problem(kind, str(error.file), error.line, message, mend)


def listed(values: Collection[object], most: int = 20) -> str:
    """The first values, for a message, and how many there are if that is not all."""
    first = ", ".join(shown(value, 60) for value in islice(values, most))
    return first if len(values) <= most else f"{first} … ({len(values):,} in all)"


def is_name(value: object, longest: int = 1000) -> TypeGuard[str]:
    """Whether a value can name a class or an image: text, not blank, not endless, that files and libraries take.

    JSON and YAML can write NUL, and half a surrogate pair, which is no character.
    """
    if not isinstance(value, str) or not value or len(value) > longest or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_path(value: object) -> TypeGuard[str]:
    """Whether a value can be the path of a file, existing or not."""
    return is_name(value, 4096) and value.count("/") + value.count("\\") <= _DEEPEST


def flag(value: object) -> bool | None:
    """What a yes-or-no entry such as `iscrowd` says; None if it is malformed. Absent and blank entries say no."""
    if value is None:
        return False
    if isinstance(value, int | float):
        return bool(value) if value in (0, 1) else None
    return _FLAGS.get(value.strip().lower()) if isinstance(value, str) else None


EXACT = 2**53
"""Integers below it are exact as floats."""


def number(value: Any) -> float | None:
    """A number, which may be written as text; None if it is none, or an integer that a float would round."""
    if type(value) is float:
        return value
    if type(value) is int:
        return value if -EXACT < value < EXACT else None
    try:
        return float(value) if isinstance(value, str) else None
    except ValueError:
        return None


def size_of(height: Any, width: Any) -> Size | None:
    """An annotated size in pixels, whose numbers may be text; None if it is none."""
    sides = [side for side in (number(height), number(width)) if side is not None and 1 <= side < 2**31]
    return Size(*map(int, sides)) if len(sides) == 2 else None


def class_list(values: Iterable[str], indices: Sequence[int] | None = None) -> tuple[list[str], list[tuple[int, str]]]:
    """A name for each entry of a list of class names, all different; and (index, what is wrong) of those changed.

    indices  of the classes; their positions if not given

    A blank name becomes its index, a repeated one `dog (2)`.
    """
    given = [value.strip() for value in values]
    taken = set(given)
    names: dict[str, int] = {}
    wrong: list[tuple[int, str]] = []
    for index, text in zip(indices or range(len(given)), given, strict=True):
        base = text or str(index)
        name, number = base, 1
        if not text or text in names:
            while name in taken or name in names:
                number += 1
                name = f"{base} ({number})"
            what = f"is called {text} as class {names[text]} is" if text else "has no name"
            wrong.append((index, f"class {index} {what}; it is `{name}` here"))
        names[name] = index
    return list(names), wrong


def names_from_file(folder: Path, problems: list[Problem], by_index: bool = True) -> list[str]:
    """Class names, one per line, from the list that labelling tools leave in the folder; [] if there is none.

    problems  gets what is wrong with the list
    by_index  whether annotations name a class by its line, as those of YOLO do; otherwise, blank and repeated lines
              have no meaning and are left out
    """
    usual = [folder / inner / name for inner in ("", "labels", "Annotations") for name in ("labels.txt", "classes.txt")]
    names, used = list[str](), folder
    for file in filter(Path.is_file, [*usual, folder / "obj.names"]):
        found = read_names(file, [] if names else problems, by_index)
        if not names:
            names, used = found, file
        elif found and found != names:
            message, mend = f"its names are not those of {used}, which are used", "keep one of the two lists"
            problems.append(Problem("ambiguous class", str(file), None, message, mend))
    return names


def read_names(file: Path, problems: list[Problem], by_index: bool = True) -> list[str]:
    """As `names_from_file`, from this file; [] if it is not text, which is a problem."""
    try:
        lines = read_text(file).rstrip().splitlines()
    except DatasetError as error:
        problems.append(problem_of(error, "unreadable list"))
        return []
    if not by_index:
        return list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    names, wrong = class_list(lines)
    for index, what in wrong:
        mend = "give each class its own name; the line decides the index"
        problems.append(Problem("ambiguous class", str(file), index + 1, what, mend))
    return names


def name_classes(readings: Mapping[str, Reading], folder: Path) -> None:
    """Name the classes of annotations that have their names: in the order of `labels.txt` or `classes.txt`, otherwise
    alphabetically. Boxes of a class that such a list does not have are left out and reported."""
    known = names_from_file(folder, next(iter(readings.values())).problems, by_index=False)
    names = known or sorted({row.name for reading in readings.values() for row in reading.boxes})
    for reading in readings.values():
        reading.names = list(names)
        for row in reading.boxes:
            if row.name not in names:
                message, mend = f"class {row.name} is not one of {listed(known)}", "rename it, or add it to the list"
                reading.report("unknown class", row.file, row.line, message, mend)
        reading.boxes = [row for row in reading.boxes if row.name in names]


def find_path(value: str, roots: Sequence[str | Path], exists: Callable[[str], bool]) -> str | None:
    """The existing path that an entry written on another machine, or relative to another folder, means; or None.

    First the entry as it is, below each root. Then with `/` for `\\`, and without one leading part after another: a
    drive letter, a foreign root, a prefix. The longest end that exists below a root counts, but not a lone `images`,
    which every split of an export may have.
    """
    if not is_path(value):
        return None
    parts = [part for part in re.split(r"[/\\]", value) if part not in ("", ".", "..")]
    ends = ["/".join(parts[k:]) for k in range(len(parts)) if k == 0 or parts[k:] != ["images"]]
    candidates = (os.path.join(root, end) for end in (value, *ends) for root in roots)
    return next(filter(exists, candidates), None)


def spelled(folder: Path, name: str) -> Path | None:
    """An entry of a folder, whatever its upper and lower case; the one spelled like `name` if there are several."""
    if (folder / name).exists():
        return folder / name
    try:
        entries = sorted(os.listdir(folder))
    except OSError:
        return None
    return next((folder / entry for entry in entries if entry.lower() == name.lower()), None)
