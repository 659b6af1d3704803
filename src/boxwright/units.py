"""Numbers, intervals and values of others as text; times that are shown together share the unit of the longest."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple


class Interval(NamedTuple):
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float

    def overlaps(self, other: Interval) -> bool:
        """Whether the intervals share a point; unknown ones (nan) share none."""
        return self.low <= other.high and other.low <= self.high

    def contains(self, value: float) -> bool:
        """False where an end is not known (nan)."""
        return self.low <= value <= self.high


class Unit(NamedTuple):
    """A unit of time, and its length in seconds."""

    name: str
    seconds: float

    @classmethod
    def of(cls, times: Iterable[float]) -> Unit:
        """Hours from 2 h on, minutes from 2 min on, seconds from 1 s on, otherwise milliseconds; times in seconds."""
        longest = max((time for time in times if math.isfinite(time)), default=0.0)
        if longest >= 7200:
            return cls("hours", 3600.0)
        if longest >= 120:
            return cls("minutes", 60.0)
        return cls("seconds", 1.0) if longest >= 1 else cls("milliseconds", 0.001)

    @property
    def short(self) -> str:
        return {"milliseconds": "ms", "seconds": "s", "minutes": "min", "hours": "h"}[self.name]

    def write(self, time: float) -> str:
        """A time in seconds as a number of these units."""
        return digits(time / self.seconds)


def counted(number: float, noun: str) -> str:
    """A number of things: "1 image", "2 images"."""
    return f"{number} {noun}{'s' * (number != 1)}"


def digits(value: float) -> str:
    """Three significant digits, never an exponent; a dash for nan and infinity."""
    if not math.isfinite(value):
        return "–"
    rounded = float(f"{value:.2e}")
    places = 0 if rounded == 0 else max(0, 2 - math.floor(math.log10(abs(rounded))))
    return f"{value:.{places}f}"


_HIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
"""Characters that move the cursor, change the terminal or the order of letters, are half of a pair, or are none."""


def printable(text: str) -> str:
    """A text for a terminal or a page, with escapes in the place of characters that would act on it; lines stay."""
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def shown(value: object, most: int = 120) -> str:
    """A value as JSON, or a text as it is, for a message: in one line, `printable`, cut off if it is long."""
    try:
        text = value if isinstance(value, str) else json.dumps(value)
    except (RecursionError, TypeError, ValueError):  # nested too deeply; no JSON; an integer that is too long for text
        text = f"a {type(value).__name__}"
    text = text if len(text) <= most else f"{text[: most - 3]}..."
    return printable(text).replace("\n", "\\n")


def fraction(value: float) -> str:
    """A fraction such as an AP, with three decimals; a dash for nan and infinity."""
    return f"{value:.3f}" if math.isfinite(value) else "–"


def signed(value: float) -> str:
    """A difference of fractions, with its sign; a dash for what is no number."""
    return f"{round(value, 3) + 0.0:+.3f}" if math.isfinite(value) else "–"


def between(low: float, high: float, write: Callable[[float], str] = fraction) -> str:
    """An interval in brackets; nothing where an end is not known."""
    return f"[{write(low)}, {write(high)}]" if math.isfinite(low + high) else ""
