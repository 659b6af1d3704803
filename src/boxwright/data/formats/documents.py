"""JSON, XML and YAML that others wrote: their content, or one DatasetError with the file and the line.

A document never opens another file, and what it holds is bounded by its size: no aliases, no entities of its own.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any, TypeVar
from xml.parsers import expat

import msgspec
import yaml

from boxwright.data.formats.reading import DatasetError
from boxwright.data.formats.text import read_text, text_in
from boxwright.files import open_regular

_LONGEST_YAML = 2**19
"""Bytes; its reader takes 3 s for a million. The names of 13,000 classes have a third of a million."""
_Content = TypeVar("_Content")
_ESCAPED = re.compile(rb"\\u00[2-7]")
"""A letter that needs no escape: a key could be written so."""
_SPACE, _COMMA = re.compile(r"\s*"), re.compile(r"\s*,\s*")
_TEXT_CODECS = re.compile(
    r"ascii|utf_8|iso8859[-_]\d+|cp\d+|koi8[-_][rtu]|gb2312|gbk|gb18030|hz|big5(hkscs)?|cp950|johab|tis_620|kz1048|ptcp154|"
    r"mac_\w+|(euc|shift)_\w+|iso2022_\w+"
)
"""Codecs of text by Python's names; others decompress or execute escapes."""
_WIDER = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949"}
"""What files that declare the key often hold: the same characters and more."""
_DEEPEST = 16
"""Levels of XML elements that are kept; VOC has four. Brackets of YAML that may be nested."""


@contextmanager
def _refusing(path: str | Path, expected: str, mend: str) -> Iterator[None]:
    """Turns whatever a parser raises into a DatasetError in one line."""
    try:
        yield
    except (DatasetError, MemoryError):
        raise
    except RecursionError as error:
        raise DatasetError(f"{path}: expected {expected}: it is nested too deeply; {mend}", Path(path)) from error
    except Exception as error:  # a hostile document can raise nearly anything inside a parser
        line, reason = getattr(error, "lineno", None), " ".join(str(error).split())
        if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
            line, reason = error.problem_mark.line + 1, ": ".join(filter(None, (error.context, error.problem)))
        raise DatasetError(f"{path}: expected {expected}: {reason}; {mend}", Path(path), line) from error


def read_json(path: str | Path, expected: str = "JSON") -> Any:
    """The content of a JSON file. Raises DatasetError.

    expected  what the file should be, for the message

    An integer of thousands of digits, which Python refuses to read, is infinite.
    """
    text = read_text(path)
    with _refusing(path, expected, "export it again, or correct it there"):
        value, end = _decode(text, _skip(text, 0))
        _expect_end(text, end)
        return value


def read_usual(path: str | Path, type: type[_Content]) -> _Content | None:
    """The content of a JSON file in UTF-8 that has this type, a `msgspec.Struct` or a list of them; None for any other
    file, which `read_json` or `read_lists` reads, or refuses with its reasons.

    It takes a tenth of their time. What it decodes, they do, too, to the same values.
    """
    found = _decode_usual(path, type)
    return found and found[0]


def read_usual_lists(path: str | Path, type: type[_Content]) -> tuple[_Content, Mapping[str, Iterable[int]]] | None:
    """As `read_usual`, of lists of objects, with the line of each object by the key of its list."""
    if (found := _decode_usual(path, type)) is None:
        return None
    content, data = found
    keys: tuple[str, ...] = getattr(type, "__struct_fields__", ())
    if data.find(b"\n") in (-1, len(data) - 1):
        return content, dict.fromkeys(keys, repeat(1))
    lines = _lines(data, keys)
    return None if lines is None else (content, lines)


def _decode_usual(path: str | Path, type: type[_Content]) -> tuple[_Content, bytes] | None:
    """The content of a file, and its bytes; None for what msgspec refuses, or would read in another way than
    `read_json`: not in UTF-8, a key that is there twice or might be, since it is written with escapes, or a lone
    carriage return, which ends a line there."""
    keys = getattr(type, "__struct_fields__", ())
    try:
        with open_regular(path) as file:
            data = file.read()
        if not data.isascii():
            _check_utf8(data)
        unusual = (
            (b"\r" in data and data.count(b"\r") != data.count(b"\r\n"))
            or (b"\\" in data and _ESCAPED.search(data))
            or any(data.count(b'"%s"' % key.encode()) > 1 for key in keys)
        )
        return None if unusual else (msgspec.json.decode(data, type=type), data)
    except (OSError, ValueError, RecursionError):  # msgspec's own are ValueErrors, and so is that of text
        return None


def _check_utf8(data: bytes) -> None:
    """Raises UnicodeDecodeError. In parts, as the text would take as much memory again."""
    decoder, view = codecs.getincrementaldecoder("utf-8")(), memoryview(data)
    for start in range(0, len(data), 1 << 20):
        decoder.decode(view[start : start + (1 << 20)], final=start + (1 << 20) >= len(data))


def _lines(data: bytes, keys: Sequence[str]) -> dict[str, list[int]] | None:
    """The line of each element of lists of objects in the outermost object; None where something else is in the way."""
    fields = [(key, list[msgspec.Raw], msgspec.field(default_factory=list)) for key in keys]
    lists = msgspec.json.decode(data, type=msgspec.defstruct("Lists", fields))
    lines: dict[str, list[int]] = {key: [] for key in keys}
    for key, found in lines.items():
        at = max(0, data.find(b'"%s"' % key.encode()))
        line = 1 + data.count(b"\n", 0, at)
        for raw in getattr(lists, key):
            start, text = data.find(b"{", at), bytes(raw)
            if not data.startswith(text, start):
                return None
            line += data.count(b"\n", at, start)
            found.append(line)
            at = start + len(text)
            line += text.count(b"\n")
    return lines


def read_lists(path: str | Path, expected: str = "JSON") -> Iterator[tuple[str, Any, int]]:
    """Every element of the lists in the outermost object: (key, element, line), decoded one at a time.

    Raises DatasetError, also after elements were returned.
    """
    text = read_text(path)
    with _refusing(path, expected, "export it again, or correct it there"):
        yield from _elements(text)


def _elements(text: str) -> Iterator[tuple[str, Any, int]]:
    line, counted = 1, 0
    at = _expect(text, _skip(text, 0), "{")
    while text[at : at + 1] != "}":
        if text[at : at + 1] != '"':
            raise json.JSONDecodeError("expected a key", text, at)
        key, at = _decode(text, at)
        at = _expect(text, _skip(text, at), ":")
        if text[at : at + 1] != "[":
            _, at = _decode(text, at)
        else:
            at = _skip(text, at + 1)
            while text[at : at + 1] != "]":
                line, counted = line + text.count("\n", counted, at), at
                element, at = _decode(text, at)
                yield key, element, line
                if comma := _COMMA.match(text, at):
                    at = comma.end()
                elif text[(at := _skip(text, at)) : at + 1] != "]":
                    _expect(text, at, ",")
            at += 1
        at = _skip(text, at)
        if text[at : at + 1] != "}":
            at = _expect(text, at, ",")
    _expect_end(text, at + 1)


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at


def _expect(text: str, at: int, mark: str) -> int:
    if text[at : at + 1] != mark:
        raise json.JSONDecodeError(f"expected {mark}", text, at)
    return _skip(text, at + 1)


def _expect_end(text: str, at: int) -> None:
    if (end := _skip(text, at)) != len(text):
        raise json.JSONDecodeError("expected the end of the file", text, end)


def _decode(text: str, at: int) -> tuple[Any, int]:
    """The value that begins there, and where it ends."""
    try:
        return _usual.raw_decode(text, at)
    except json.JSONDecodeError:
        raise
    except ValueError:  # an integer that `int` refuses
        return _lenient.raw_decode(text, at)


def _integer(digits: str) -> float:
    try:
        return int(digits)
    except ValueError:
        return float(digits)


_usual, _lenient = json.JSONDecoder(), json.JSONDecoder(parse_int=_integer)  # `parse_int` costs a third of the speed


class _Loader(yaml.BaseLoader):
    """Every scalar as the text in the file: YAML would turn a class called `no` into False."""

    def fetch_alias(self) -> None:
        message = "aliases are not read, since a few lines of them can stand for any amount"
        raise yaml.MarkedYAMLError(None, None, message, self.get_mark())

    def fetch_flow_collection_start(self, token: type[yaml.Token]) -> None:
        if self.flow_level >= _DEEPEST:  # the time for each token grows with the level
            raise yaml.MarkedYAMLError(None, None, "brackets are nested too deeply", self.get_mark())
        super().fetch_flow_collection_start(token)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file, of texts, lists and mappings; {} if it holds something else. Raises DatasetError."""
    text = read_text(path)
    if len(text) > _LONGEST_YAML:
        message = f"{path}: expected YAML of a dataset, at most {_LONGEST_YAML:,} characters, got {len(text):,}; "
        raise DatasetError(f"{message}list images in a text file, and name that", Path(path))
    with _refusing(path, "YAML", "correct it there"):
        content = yaml.load(text, Loader=_Loader)
    return content if isinstance(content, dict) else {}


@dataclass(slots=True)
class Node:
    """An XML element with its line number, which `xml.etree` does not keep, and the first child of each tag."""

    tag: str
    line: int
    pieces: list[str] = field(default_factory=list)
    children: dict[str, Node] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """What is written in it, without that of its children and without blanks around it."""
        return "".join(self.pieces).strip()

    def child(self, tag: str) -> Node | None:
        return self.children.get(tag)

    def text_of(self, tag: str) -> str:
        """The child's text; "" if there is no such child."""
        child = self.child(tag)
        return child.text if child else ""

    def line_of(self, tag: str) -> int:
        """The child's line; this element's own if there is no such child."""
        child = self.child(tag)
        return child.line if child else self.line


def read_xml(path: str | Path, expected: str = "XML") -> Iterator[Node]:
    """The root element without its children, then these, each when it ends.

    Raises DatasetError, also after nodes were returned.
    """
    data = _read_xml(Path(path)).encode()
    stack, done = list[Node](), list[Node]()  # `stack` without the root
    depth = 0
    parser = expat.ParserCreate("utf-8")  # whatever the file declares: `_read_xml` has decoded it
    parser.buffer_text = True

    def start(tag: str, _: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth <= _DEEPEST:
            node = Node(tag, parser.CurrentLineNumber)
            if stack:
                stack[-1].children.setdefault(tag, node)
            else:
                done.append(node)
            if depth > 1:
                stack.append(node)

    def end(_: str) -> None:
        nonlocal depth
        if 1 < depth <= _DEEPEST:
            stack.pop()
        depth -= 1

    def text(written: str) -> None:
        if stack:
            stack[-1].pieces.append(written)

    def entity(*_: object) -> None:
        raise ValueError(f"entities of a file's own are not read, line {parser.CurrentLineNumber} declares one")

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    parser.EntityDeclHandler = entity
    try:
        with _refusing(path, expected, "correct it there, or annotate the image again"):
            for position in range(0, len(data) + 1, 1 << 16):
                piece = data[position : position + (1 << 16)]
                parser.Parse(piece, position + len(piece) >= len(data))
                complete = len(done) - bool(stack)  # the last one has not ended
                yield from done[:complete]
                del done[:complete]
    finally:
        # its handlers name the parser: such cycles are not collected while a dataset is read
        parser.StartElementHandler = parser.EndElementHandler = parser.CharacterDataHandler = None
        parser.EntityDeclHandler = None


def _read_xml(file: Path) -> str:
    """The text of a file by its byte order mark, else by the encoding that it declares, else in UTF-8."""
    try:
        with open_regular(file) as stream:
            data = stream.read()
    except OSError:
        return read_text(file)  # which says why not
    declared = re.match(rb"""<\?xml[^>]*?\sencoding\s*=\s*["']([\w.:-]+)["']""", data[:200])
    name = declared[1].decode() if declared else "utf-8"
    try:
        codec = codecs.lookup(name).name.replace("-", "_")
    except LookupError:
        codec = ""
    if codec.startswith("utf"):  # a declared UTF-16 has a mark, or was copied from another file
        return text_in(data, file)
    if not _TEXT_CODECS.fullmatch(codec):
        message = f"{file}: expected XML in an encoding of text, it declares {name}; save it as UTF-8 and declare that"
        raise DatasetError(message, file, 1)
    try:
        return data.decode(_WIDER.get(codec, codec))
    except UnicodeDecodeError as error:
        message = (
            f"{file}: expected text in {name}, as it declares, got the byte 0x{data[error.start]:02x} at position "
            f"{error.start}; declare its true encoding, or save it as UTF-8"
        )
        raise DatasetError(message, file, data.count(b"\n", 0, error.start) + 1) from error
