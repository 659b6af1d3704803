"""Entries of COCO JSON as tools write them: ids of any type, numbers as text, boxes of masks, names in URLs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from boxwright.data.formats.text import is_name, is_path, number
from boxwright.units import shown

Id = int | str


def id_of(value: Any) -> Id | None:
    """The id in its normal form, 1 for 1.0; None if it is none."""
    if type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if is_name(value) else None


def in_other_type(key: Id) -> Id | None:
    """The number that a text writes, or the text of a number; None for other text, also for "01", which is not 1."""
    if isinstance(key, int):
        return str(key)
    try:
        number = int(key)
    except ValueError:
        return None
    return number if str(number) == key else None


class Table(dict[Id, Any]):
    """What `meet` looks up, complete: it is asked for each annotation."""

    @cached_property
    def only_type(self) -> type | None:
        """That of all ids; None if they have several, or there is none."""
        types = set(map(type, self))
        return types.pop() if len(types) == 1 else None


def meet(value: Any, table: Table) -> Id | None:
    """The id of the table that an annotation means, or None.

    A number meets its text where all ids of the table have one type; otherwise both may be there.
    """
    key = id_of(value)
    if key is None or key in table:
        return key
    other = in_other_type(key)
    return other if other in table and table.only_type else None


def unmet(value: Any, table: Table) -> str:
    """Describes an id that the table does not have."""
    text = f"the text {json.dumps(shown(value))}" if isinstance(value, str) else shown(value)
    only = table.only_type
    if only is None or isinstance(id_of(value), only):
        return text
    return f"{text} (ids there are {'numbers' if only is int else 'texts'})"


def box(annotation: Mapping[str, Any]) -> tuple[float, float, float, float] | None:
    """x, y, width, height of `bbox`; None if that is not four numbers."""
    values = annotation.get("bbox")
    if not isinstance(values, list) or len(values) != 4:
        return None
    x, y, width, height = map(number, values)
    return None if x is None or y is None or width is None or height is None else (x, y, width, height)


def box_of_mask(mask: Any) -> tuple[float, float, float, float] | None:
    """x, y, width, height of the polygons or the RLE of `segmentation`; None if there is no area to bound."""
    if isinstance(mask, dict):
        import hotcoco.mask  # here, because few annotations need it

        try:
            x, y, width, height = hotcoco.mask.to_bbox(mask).tolist()
        except (ValueError, TypeError, OverflowError):
            return None
        return (x, y, width, height) if width else None
    polygons = mask if isinstance(mask, list) and mask and isinstance(mask[0], list) else [mask]
    try:
        points = np.concatenate([np.array(polygon, np.float64).reshape(-1, 2) for polygon in polygons if polygon])
        (x, y), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    except (ValueError, TypeError, OverflowError):
        return None
    return x, y, right - x, bottom - y


_LOCAL_FILE = re.compile(r"/local-files/\?d=(?P<path>[^&]+)")
"""What Label Studio calls an image of its local storage: /data/local-files/?d=photos%2Fa.jpg."""


def file_name(image: Mapping[str, Any]) -> str:
    """`file_name`, or without one, as in LVIS, `coco_url` or `flickr_url`; an address gives its path. "" if none."""
    for key in ("file_name", "coco_url", "flickr_url"):
        value = image.get(key)
        if isinstance(value, str) and value:
            local = _LOCAL_FILE.search(value) if "?" in value else None
            path = unquote(local["path"]) if local else _path_in(value) if "://" in value else value
            return path if is_path(path) else ""
    return ""


def _path_in(address: str) -> str:
    try:
        return unquote(urlsplit(address).path).lstrip("/")
    except ValueError:  # such as "https://[a"
        return ""
