"""Damage to files: of bytes and words in any file, and of the nodes of JSON, YAML and XML."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from random import Random
from typing import Any
from xml.etree import ElementTree

import yaml

from fuzz.reader import Mutator, Reader

VALUES = (
    *("null", "true", "false", "NaN", "Infinity", "-Infinity", "0", "-0.0", "-1", "1e308", "-1e308", "1e999", "1e-320"),
    *(str(2**k + add) for k in (31, 32, 53, 63, 64, 128) for add in (-1, 0, 1)),
    *("9" * 400, "9" * 5000, "-" + "9" * 5000, "0." + "3" * 5000, "1_000", "0x10", "１２", "1,5"),
    *('""', '" "', '"\\u0000"', '"a\\u0000b.png"', '"\\ud800"', '"\\udc00\\ud800"', '"\\u001b[31m"', '"\\u202e"'),
    *('"../../etc/passwd"', '"/dev/zero"', '"/"', '"."', '"C:\\\\a\\\\b"', '"http://["', '"%00"', '"con"'),
    *(f'"{"a" * 3000}"', f'"{"a/" * 3000}"', f'"{"../" * 300}"', f'"{"%2f" * 500}"', '"' + "\\u4e2d" * 200 + '"'),
    *("[]", "{}", "[[]]", '[{"a": [1]}]', '{"": null}', "[1, 2, 3]", "[null, null, null, null]", "[1, 2, 3, 4, 5]"),
    *("[" * 3000, '{"a":' * 3000, "[" * 300 + "]" * 300, '{"a": 1, "a": 2}', f"[{'1,' * 500}1]"),
)
"""Values of JSON, valid and not."""

TOKENS = (
    *(value.encode() for value in VALUES),
    *(b"\0", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"\xff\xfe\0\0", b"\x1a", b"\x1b[2J", b"\r", b"\n\n", b"\t"),
    *(b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\x80", b"\xe9", b"\xe2\x80\xa8", b"\xe2\x80\xae"),
    *(letter.encode() for letter in "\"',;:[]{}<>&*\\/#|-=%"),
    *(b"a" * 20_000, b"1 " * 5000, b" " * 5000, b"../" * 50),
)
"""What is put in the place of a word, or between two."""

_YAML_VALUES = (
    *("&a [*a]", "*a", "!!python/object:os.system x", "!!binary /w==", "? [a]", "<<: *a", "|\n  a", "~", "2001-01-01"),
    *('"\\U00110000"', '"\\UFFFFFFFF"', "- " * 500, "%YAML 9.9", "--- a"),
)
_XML_VALUES = ("&#0;", "&#xD800;", "&lol;", "<![CDATA[]]>", "<![CDATA[", "<!--", "<a>" * 3000, "&amp;" * 3000)
_CODECS = "utf-8 utf-16 gb2312 foo zip rot13 idna undefined cp037 utf-7 unicode_escape raw_unicode_escape hz mbcs"
_XML_HEADS = (
    *(f'<?xml version="1.0" encoding="{codec}"?>' for codec in _CODECS.split()),
    *('<!DOCTYPE a [<!ENTITY lol "ha">]>', '<!DOCTYPE a SYSTEM "file:///dev/zero">', "<!DOCTYPE a>"),
)

_WORD = re.compile(rb"-?\d+(?:\.\d+)?|\w+|[^\w\s]|\s+")
_MARK = "NASTY7VALUE"


def mutate(seeds: Sequence[bytes], reader: Reader, random: Random) -> bytes:
    """A file out of valid ones, damaged one to four times."""
    data = random.choice(seeds)
    tokens = [*TOKENS, *reader.tokens]
    general: list[Mutator] = [_flip, _overwrite, _insert, _cut, _repeat, _truncate, _swap_words]
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 4))):
        kind = random.random()
        if reader.mutators and kind < 0.5:
            data = random.choice(reader.mutators)(data, random)
        elif kind < 0.75:
            data = _replace_word(data, random.choice(tokens), random)
        elif kind < 0.8:
            data = _splice(data, random.choice(seeds), random)
        else:
            data = random.choice(general)(data, random)
    return data


def _flip(data: bytes, random: Random) -> bytes:
    """Some bits."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8))):
        if changed:
            changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _overwrite(data: bytes, random: Random) -> bytes:
    at, count = random.randrange(len(data) + 1), random.choice((1, 2, 4, 8))
    return data[:at] + random.choice((b"\0", b"\xff", b"\x80", b"\x7f")) * count + data[at + count :]


def _insert(data: bytes, random: Random) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + random.randbytes(random.choice((1, 2, 4, 16))) + data[at:]


def _cut(data: bytes, random: Random) -> bytes:
    first, last = sorted(random.randrange(len(data) + 1) for _ in range(2))
    return data[:first] + data[min(last, first + random.choice((1, 10, 100, len(data)))) :]


def _repeat(data: bytes, random: Random) -> bytes:
    first, last = sorted(random.randrange(len(data) + 1) for _ in range(2))
    part = data[first:last]
    return data[:first] + part * min(random.choice((2, 3, 50)), 1 + 100_000 // (len(part) + 1)) + data[last:]


def _truncate(data: bytes, random: Random) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _splice(data: bytes, other: bytes, random: Random) -> bytes:
    """The beginning of one file and the end of another."""
    return data[: random.randrange(len(data) + 1)] + other[random.randrange(len(other) + 1) :]


def _swap_words(data: bytes, random: Random) -> bytes:
    words = list(_WORD.finditer(data))
    if len(words) < 2:
        return data
    first, second = sorted(random.sample(words, 2), key=re.Match.start)
    between = data[first.end() : second.start()]
    return data[: first.start()] + second[0] + between + first[0] + data[second.end() :]


def _replace_word(data: bytes, token: bytes, random: Random) -> bytes:
    words = list(_WORD.finditer(data))
    if not words:
        return token
    word = random.choice(words)
    return data[: word.start()] + token + data[random.choice((word.start(), word.end(), word.end())) :]


def json_node(data: bytes, random: Random) -> bytes:
    """A node of JSON becomes another value, or one that no JSON has; or a key is removed, renamed or doubled."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return data
    changed = json.dumps(_change_node(tree, random), ensure_ascii=False)
    return changed.replace(f'"{_MARK}"', random.choice(VALUES)).encode("utf-8", "surrogatepass")


def yaml_node(data: bytes, random: Random) -> bytes:
    """As `json_node`, with values that only YAML has; in block style or, since JSON is YAML too, in flow style."""
    try:
        tree = yaml.load(data, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError):
        return data
    tree = _change_node(tree, random)
    text = json.dumps(tree) if random.random() < 0.3 else yaml.safe_dump(tree)
    value = random.choice((*VALUES, *_YAML_VALUES))
    return text.replace(f'"{_MARK}"', value).replace(_MARK, value).encode("utf-8", "surrogatepass")


def xml_node(data: bytes, random: Random) -> bytes:
    """The text of an element becomes another; or one is removed, doubled, renamed, moved into another or emptied."""
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError):
        return data
    parents = [node for node in root.iter() if len(node)]
    node, parent = random.choice(list(root.iter())), random.choice(parents or [root])
    kind = random.randrange(7)
    if kind == 0 and len(parent):
        parent.remove(random.choice(parent))
    elif kind == 1 and len(parent):
        parent.append(random.choice(parent))
    elif kind == 2:
        node.tag = random.choice([other.tag for other in root.iter()])
    elif kind == 3:
        node.clear()
    elif kind == 4:
        node.append(ElementTree.fromstring("<a>" * 200 + "</a>" * 200))
    else:
        node.text = _MARK
    text = ElementTree.tostring(root, encoding="unicode")
    head = random.choice(_XML_HEADS) if random.random() < 0.3 else ""
    return (head + text.replace(_MARK, random.choice((*VALUES, *_XML_VALUES)))).encode("utf-8", "surrogatepass")


def _change_node(tree: Any, random: Random) -> Any:
    """The tree with a mark in the place of a random node, or a key removed, renamed or doubled."""
    places = [(None, None), *_places(tree)]
    holder, key = random.choice(places)
    if holder is None:
        return _MARK
    kind = random.random()
    if kind < 0.7:
        holder[key] = _MARK
    elif kind < 0.8:
        del holder[key]
    elif isinstance(holder, list):
        holder.insert(key, holder[random.randrange(len(holder))])
    else:
        holder[random.choice([*holder, _MARK])] = holder[key]
    return tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every node but the root: what holds it, and its key or index."""
    found, open_nodes = [], [tree]
    while open_nodes:
        node = open_nodes.pop()
        if isinstance(node, dict | list):
            keys = list(node) if isinstance(node, dict) else range(len(node))
            found += [(node, key) for key in keys]
            open_nodes += [node[key] for key in keys]
    return found
