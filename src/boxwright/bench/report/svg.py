"""Matplotlib's SVG as a part of a page: the page's own colours and letters, ids of its own, points that are links."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from boxwright.bench.report.points import COLORS, INK, PAPER

_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_DIGITS = re.compile(r"(\.\d\d)\d+")
_COLOR = re.compile("#[0-9a-f]{6}")
_COLORS = {INK: "currentColor", PAPER: "var(--paper)"} | {
    color: f"var(--color-{index})" for index, color in enumerate(COLORS)
}


class Link(NamedTuple):
    """Where a point leads to, what a screen reader calls it, and the id of the card that describes it."""

    target: str
    name: str
    card: str


def inline(text: str, name: str, alt: str, links: Mapping[str, Link], kind: str = "wide") -> str:
    """An `<svg>` element for HTML, whole with its own ids.

    name   in front of all its ids, unlike that of any other figure of the page
    alt    what is to be seen, for those who do not see it
    links  by the gid of the artists that become links
    kind   "wide" or "narrow", for the page shows one of them
    """
    root = ElementTree.fromstring(text)
    _remove(root, {f"{_SVG}metadata", f"{_SVG}style"})
    wanted = set(links) | _referred(root)
    for element in root.iter():
        _adapt(element, name, wanted)
    _wrap(root, name, links)
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    # An image has no parts for a screen reader, and links are parts.
    root.attrib |= {"class": f"plot {kind}", "role": "group" if links else "img", "aria-label": alt}
    ElementTree.register_namespace("", _SVG[1:-1])
    return ElementTree.tostring(root, encoding="unicode")


def _remove(root: Element, tags: set[str]) -> None:
    for parent in root.iter():
        for child in [child for child in parent if child.tag in tags]:
            parent.remove(child)


def _referred(root: Element) -> set[str]:
    """The ids that something in the drawing refers to."""
    found = set()
    for element in root.iter():
        found |= {element.get(_LINK, "").removeprefix("#")}
        found |= {one for value in element.attrib.values() for one in _REFERENCE.findall(value)}
    return found


def _adapt(element: Element, name: str, wanted: set[str]) -> None:
    """Ids that are the figure's own, colours that are the page's, and no more digits than are seen."""
    own = element.attrib.pop("id", None)
    if own in wanted:
        element.set("id", f"{name}-{own}")
    if (target := element.attrib.pop(_LINK, None)) is not None:
        element.set("href", f"#{name}-{target.removeprefix('#')}")
    for key, value in element.attrib.items():
        value = _REFERENCE.sub(rf"url(#{name}-\1)", value)
        if key == "style":
            value = re.sub(r"font-family: [^;]*;? ?", "", value)
            value = _COLOR.sub(lambda found: _COLORS.get(found[0], found[0]), value)
        elif key in ("d", "x", "y", "transform", "points"):
            value = _DIGITS.sub(r"\1", value.replace("\n", " "))
        element.set(key, value)
    element.text, element.tail = ((part or "").strip() or None for part in (element.text, element.tail))


def _wrap(root: Element, name: str, links: Mapping[str, Link]) -> None:
    ids = {f"{name}-{gid}": link for gid, link in links.items()}
    for parent in list(root.iter()):
        for index, child in enumerate(list(parent)):
            if (link := ids.get(child.get("id", ""))) is not None:
                attributes = {"href": link.target, "class": "cell", "aria-label": link.name, "data-card": link.card}
                anchor = Element(f"{_SVG}a", attributes)
                title = ElementTree.SubElement(anchor, f"{_SVG}title")  # what a browser shows without a script
                title.text = link.name
                anchor.append(child)
                parent[index] = anchor
