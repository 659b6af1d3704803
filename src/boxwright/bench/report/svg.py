"""Matplotlib's SVG inlined into a page: with the page's colours and font, unique ids, and points that are links."""

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
    """The target of a point's link, its name for screen readers, and the id of the card that describes it."""

    target: str
    name: str
    card: str


def inline(text: str, name: str, alt: str, links: Mapping[str, Link], kind: str = "wide") -> str:
    """An `<svg>` element for HTML.

    name   prefix of all its ids, unique in the page
    alt    description for screen readers
    links  by the gid of the artists that become links
    kind   "wide" or "narrow": the page shows one of them
    """
    root = ElementTree.fromstring(text)
    for parent in root.iter():
        for child in [child for child in parent if child.tag in (f"{_SVG}metadata", f"{_SVG}style")]:
            parent.remove(child)
    kept = set(links) | _referred(root)
    for element in root.iter():
        _adapt(element, name, kept)
    _wrap(root, name, links)
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    # Screen readers skip the children of an image, and links are children.
    root.attrib |= {"class": f"plot {kind}", "role": "group" if links else "img", "aria-label": alt}
    ElementTree.register_namespace("", _SVG[1:-1])
    return ElementTree.tostring(root, encoding="unicode")


def _referred(root: Element) -> set[str]:
    """The ids that are referred to in the drawing."""
    ids = set()
    for element in root.iter():
        ids |= {element.get(_LINK, "").removeprefix("#")}
        ids |= {name for value in element.attrib.values() for name in _REFERENCE.findall(value)}
    return ids


def _adapt(element: Element, name: str, kept: set[str]) -> None:
    """Prefix the ids, take the page's colours, and drop digits that are not visible."""
    old_id = element.attrib.pop("id", None)
    if old_id in kept:
        element.set("id", f"{name}-{old_id}")
    if (target := element.attrib.pop(_LINK, None)) is not None:
        element.set("href", f"#{name}-{target.removeprefix('#')}")
    for key, value in element.attrib.items():
        value = _REFERENCE.sub(rf"url(#{name}-\1)", value)
        if key == "style":
            value = re.sub(r"font-family: [^;]*;? ?", "", value)
            value = _COLOR.sub(lambda match: _COLORS.get(match[0], match[0]), value)
        elif key in ("d", "x", "y", "transform", "points"):
            value = _DIGITS.sub(r"\1", value.replace("\n", " "))
        element.set(key, value)
    element.text, element.tail = ((text or "").strip() or None for text in (element.text, element.tail))


def _wrap(root: Element, name: str, links: Mapping[str, Link]) -> None:
    ids = {f"{name}-{gid}": link for gid, link in links.items()}
    for parent in list(root.iter()):
        for index, child in enumerate(list(parent)):
            if (link := ids.get(child.get("id", ""))) is not None:
                attributes = {"href": link.target, "class": "cell", "aria-label": link.name, "data-card": link.card}
                anchor = Element(f"{_SVG}a", attributes)
                title = ElementTree.SubElement(anchor, f"{_SVG}title")  # shown by a browser without scripts
                title.text = link.name
                anchor.append(child)
                parent[index] = anchor
