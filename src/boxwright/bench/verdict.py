"""Which cell to take: the frontier of speed and AP, the user's constraints, and the verdict with its reasons."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from boxwright.bench.result import Entry, Quality, Speed, Verdict
from boxwright.metrics.compare import Interval
from boxwright.units import Unit, digits, fraction

UNKNOWN = Interval(math.nan, math.nan, math.nan)


def fastest(entry: Entry) -> tuple[str, Speed] | None:
    """The runtime in which half of the images take least, and its times; None where no time is known."""
    known = [(runtime, speed) for runtime, speed in entry.speed.items() if not math.isnan(speed.p50.value)]
    return min(known, key=lambda one: one[1].p50.value, default=None)


def seconds(entry: Entry) -> float:
    """p50 of one image in the entry's fastest runtime; nan where it is not known."""
    return _p50(entry).value


def frontier(entries: Iterable[Entry]) -> tuple[str, ...]:
    """The names of those that no other beats in AP or speed without losing in the other; fastest first.

    Only who was trained to the end, or is an external model, and has both numbers can be there.
    """
    known = sorted(
        (entry for entry in entries if _measured(entry) and not math.isnan(seconds(entry))),
        key=lambda entry: (seconds(entry), -_ap(entry).value),
    )
    return tuple(one.name for one in known if not any(_beats(other, one) for other in known))


class _Quantity(NamedTuple):
    """What can be constrained: its units, and where it stands in an entry (None: a class must be named)."""

    units: dict[str, float]
    read: Callable[[Entry], float | None] | None
    by_class: bool = False


_TIME = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_BYTES = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
_COUNT = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
_RATE = {"": 1.0, "/s": 1.0}
_FRACTION = {"": 1.0, "%": 0.01}


def _of_speed(read: Callable[[Speed], float]) -> Callable[[Entry], float | None]:
    return lambda entry: None if (found := fastest(entry)) is None else read(found[1])


def _of_quality(read: Callable[[Quality], float | None]) -> Callable[[Entry], float | None]:
    return lambda entry: None if entry.quality is None else read(entry.quality)


QUANTITIES = {
    "ap": _Quantity(_FRACTION, _of_quality(lambda quality: quality.ap.value), by_class=True),
    "ap50": _Quantity(_FRACTION, _of_quality(lambda quality: quality.ap50.value), by_class=True),
    "ap_small": _Quantity(_FRACTION, _of_quality(lambda quality: quality.sizes.get("small"))),
    "ap_medium": _Quantity(_FRACTION, _of_quality(lambda quality: quality.sizes.get("medium"))),
    "ap_large": _Quantity(_FRACTION, _of_quality(lambda quality: quality.sizes.get("large"))),
    "recall": _Quantity(_FRACTION, None, by_class=True),
    "precision": _Quantity(_FRACTION, None, by_class=True),
    "p50": _Quantity(_TIME, _of_speed(lambda speed: speed.p50.value)),
    "p95": _Quantity(_TIME, _of_speed(lambda speed: speed.p95.value)),
    "throughput": _Quantity(_RATE, _of_speed(lambda speed: speed.throughput)),
    "first": _Quantity(_TIME, lambda entry: entry.first),
    "memory": _Quantity(_BYTES, lambda entry: entry.memory),
    "device_memory": _Quantity(_BYTES, lambda entry: entry.device_memory),
    "file": _Quantity(_BYTES, lambda entry: entry.file),
    "parameters": _Quantity(_COUNT, lambda entry: entry.parameters),
    "flops": _Quantity(_COUNT, lambda entry: entry.flops),
}
"""What a constraint can speak of. Times and throughput are those of an entry's fastest runtime."""

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": lambda value, bound: value < bound,
    "<=": lambda value, bound: value <= bound,
    ">": lambda value, bound: value > bound,
    ">=": lambda value, bound: value >= bound,
}
_TEXT = re.compile(
    r"\s*(?P<quantity>\w+)\s*(\[(?P<label>.*)\])?\s*(?P<operator>[<>]=?)"
    r"\s*(?P<number>(\d+\.?\d*|\.\d+)(e[-+]?\d+)?)\s*(?P<unit>\S*)\s*"
)


@dataclass(frozen=True)
class Constraint:
    """What a detector must do to be of use, such as `p95<30ms` or `recall[cat]>90%`.

    text      as the user wrote it
    quantity  a key of `QUANTITIES`
    label     the class that it speaks of; None for all
    bound     in seconds, bytes, 0..1 or a plain number
    unit      that the user wrote, and its `scale`: how many of those it is
    """

    text: str
    quantity: str
    label: str | None
    operator: str
    bound: float
    unit: str
    scale: float

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """Raises ValueError that says what was expected."""
        found = _TEXT.fullmatch(text)
        if found is None:
            raise ValueError(
                f'expected a constraint like "p95<30ms" or "recall[cat]>0.9" (a quantity, <, <=, > or >=, a number '
                f'and its unit), got "{text}"; {_QUANTITIES}'
            )
        quantity, label = found["quantity"], found["label"]
        if quantity not in QUANTITIES:
            near = _nearest(quantity, QUANTITIES)
            raise ValueError(f'constraint "{text}": there is no quantity "{quantity}"{near}; {_QUANTITIES}')
        kind = QUANTITIES[quantity]
        if label is None and kind.read is None:
            raise ValueError(f'constraint "{text}": expected {quantity}[CLASS], for {quantity} is of one class')
        if label is not None and not kind.by_class:
            ones = ", ".join(f"{name}[CLASS]" for name, one in QUANTITIES.items() if one.by_class)
            raise ValueError(f'constraint "{text}": {quantity} is not known of a single class; expected one of {ones}')
        scale = {unit.lower(): scale for unit, scale in kind.units.items()}.get(found["unit"].lower())
        if scale is None:
            units = ", ".join(unit or "none" for unit in kind.units)
            raise ValueError(f'constraint "{text}": expected the unit of {quantity} ({units}), got "{found["unit"]}"')
        # A product of decimals, for 70 * 0.01 is more than 0.7.
        bound = float(Decimal(found["number"]) * Decimal(repr(scale)))
        if kind.units is _FRACTION and bound > 1:
            raise ValueError(f'constraint "{text}": {quantity} is a fraction; expected 0 to 1, or a number of %')
        return cls(text, quantity, label, found["operator"], bound, found["unit"], scale)

    def __str__(self) -> str:
        return self.text

    def check(self, names: Sequence[str]) -> None:
        """Raises ValueError where the constraint speaks of a class that is not among the data's `names`."""
        if self.label is not None and self.label not in names:
            near = _nearest(self.label, names)
            known = ", ".join(names)
            raise ValueError(f'constraint "{self}": the data has no class "{self.label}"{near}; it has {known}')

    def value(self, entry: Entry) -> float:
        """What is constrained, in seconds, bytes, 0..1 or a plain number; nan where it is not known."""
        read = QUANTITIES[self.quantity].read
        if self.label is not None:
            of_class = entry.quality.classes.get(self.label) if entry.quality else None
            value = None if of_class is None else getattr(of_class, self.quantity)
        else:
            value = None if read is None else read(entry)
        return math.nan if value is None else float(value)

    def met(self, entry: Entry) -> bool:
        """Never by a value that is not known."""
        return _OPERATORS[self.operator](self.value(entry), self.bound)

    def miss(self, entry: Entry) -> float:
        """How far the value is from the bound, in parts of the bound; 0 where it is met, inf where it is not known."""
        if self.met(entry):
            return 0.0
        value = self.value(entry)
        return abs(value - self.bound) / self.bound if self.bound and not math.isnan(value) else math.inf

    def shortfall(self, entry: Entry) -> str:
        """What is amiss, for people: "p95 is 41.2 ms where p95<30ms was asked (37.3 % off)"."""
        what = self.quantity if self.label is None else f"{self.quantity}[{self.label}]"
        value, miss = self.value(entry), self.miss(entry)
        if math.isnan(value):
            return f"{what} is not known, where {self} was asked"
        plain = QUANTITIES[self.quantity].units is _FRACTION and not self.unit
        written = fraction(value) if plain else f"{digits(value / self.scale)} {self.unit}".strip()
        off = f" ({digits(100 * miss)} % off)" if math.isfinite(miss) else ""
        return f"{what} is {written} where {self} was asked{off}"


def judge(entries: Iterable[Entry], constraints: Sequence[Constraint] = ()) -> Verdict:
    """Who wins among those trained to the end, and external models, that meet all constraints.

    AP first: whoever's interval overlaps that of the best is tied with it, and the fastest of the tied wins; where
    intervals of p50 overlap as well, the higher AP does. The runner-up is found in the same way without the winner.
    Where nobody meets the constraints, the nearest is who misses them by the least sum of relative shortfalls; what is
    not known counts as the worst.
    """
    entries = tuple(entries)
    known = [entry for entry in entries if _measured(entry)]
    meeting = [entry for entry in known if all(constraint.met(entry) for constraint in constraints)]
    if not known:
        return Verdict(None, None, (), None, (), (_nobody(entries),))
    if not meeting:
        return _nothing_meets(known, constraints)
    winner = _first(meeting)
    others = [entry for entry in meeting if entry is not winner]
    runner_up = _first(others) if others else None
    tied = tuple(entry.name for entry in others if _ap(entry).overlaps(_ap(winner)))
    reasons = [
        *_who_meets(known, meeting, constraints),
        _why(winner, others),
        *([f"{runner_up.name} comes next: {_numbers(runner_up)}."] if runner_up else []),
        *_better_but(winner, known, constraints),
    ]
    return Verdict(winner.name, runner_up.name if runner_up else None, tied, None, frontier(known), tuple(reasons))


def _first(entries: Sequence[Entry]) -> Entry:
    """The fastest of those that are tied in AP with the best; of the fastest that cannot be told apart, the best."""
    best = max(entries, key=lambda entry: _ap(entry).value)
    tied = [entry for entry in entries if entry is best or _ap(entry).overlaps(_ap(best))]
    timed = [entry for entry in tied if not math.isnan(seconds(entry))]
    if not timed:
        return best
    quickest = min(timed, key=seconds)
    alike = [entry for entry in timed if entry is quickest or _p50(entry).overlaps(_p50(quickest))]
    return max(alike, key=lambda entry: _ap(entry).value)


def _why(winner: Entry, others: Sequence[Entry]) -> str:
    best = max((winner, *others), key=lambda entry: _ap(entry).value)
    if best is winner:
        tied = any(_ap(entry).overlaps(_ap(winner)) for entry in others)
        rest = "none tied with it is measurably faster" if tied else "no other is tied with it"
        rest = rest if others else "is the only one"
        return f"{winner.name} has the best AP, {_write(_ap(winner))}, and {rest}."
    tie = f"{winner.name} is tied in AP with the best, {best.name} ({_write(_ap(winner))} and {_write(_ap(best))})"
    times = (seconds(winner), seconds(best))
    unit = Unit.of(times)
    if math.isnan(times[1]):
        return f"{tie}, whose time is not known, and takes {unit.write(times[0])} {_short(unit)} an image."
    return f"{tie}, and takes {unit.write(times[0])} {_short(unit)} an image instead of {unit.write(times[1])}."


def _who_meets(known: Sequence[Entry], meeting: Sequence[Entry], constraints: Sequence[Constraint]) -> list[str]:
    if not constraints:
        return []
    count = f"{len(meeting)} of {len(known)}" if len(meeting) < len(known) else f"All {len(known)}"
    return [f"{count} {'meets' if len(meeting) == 1 else 'meet'} {_all(constraints)}."]


def _better_but(winner: Entry, known: Sequence[Entry], constraints: Sequence[Constraint]) -> list[str]:
    """What the constraints cost: the best of those that do not meet them, if it is better beyond its interval."""
    best = max(known, key=lambda entry: _ap(entry).value)
    missed = [constraint.shortfall(best) for constraint in constraints if not constraint.met(best)]
    if not missed or _ap(best).low <= _ap(winner).high:
        return []
    return [f"{best.name} is better, {_write(_ap(best))}, but {'; '.join(missed)}."]


def _nothing_meets(known: Sequence[Entry], constraints: Sequence[Constraint]) -> Verdict:
    def missing(entry: Entry) -> tuple[int, float, float]:
        misses = [constraint.miss(entry) for constraint in constraints]
        return sum(map(math.isinf, misses)), sum(filter(math.isfinite, misses)), -_ap(entry).value

    nearest = min(known, key=missing)
    reasons = (
        f"Nothing meets {_all(constraints)}.",
        f"{nearest.name} comes nearest: {_numbers(nearest)}.",
        *(f"Its {constraint.shortfall(nearest)}." for constraint in constraints if not constraint.met(nearest)),
    )
    return Verdict(None, None, (), nearest.name, frontier(known), reasons)


def _nobody(entries: Sequence[Entry]) -> str:
    if not entries:
        return "Nobody took part."
    states = [entry.state for entry in entries]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return f"There is nobody to choose from, for nobody's AP is known: {counts}."


def _measured(entry: Entry) -> bool:
    return entry.state in ("finished", "guest") and not math.isnan(_ap(entry).value)


def _ap(entry: Entry) -> Interval:
    return entry.quality.ap if entry.quality else UNKNOWN


def _p50(entry: Entry) -> Interval:
    found = fastest(entry)
    return found[1].p50 if found else UNKNOWN


def _beats(one: Entry, other: Entry) -> bool:
    slower, worse = seconds(other) - seconds(one), _ap(one).value - _ap(other).value
    return slower >= 0 and worse >= 0 and (slower > 0 or worse > 0)


def _numbers(entry: Entry) -> str:
    time = seconds(entry)
    unit = Unit.of([time])
    speed = "its time is not known" if math.isnan(time) else f"{unit.write(time)} {_short(unit)} an image"
    return f"AP {_write(_ap(entry))}, {speed}"


def _short(unit: Unit) -> str:
    return {"milliseconds": "ms", "seconds": "s"}.get(unit.name, unit.name)


def _write(interval: Interval) -> str:
    return f"{fraction(interval.value)} [{fraction(interval.low)}, {fraction(interval.high)}]"


def _all(constraints: Sequence[Constraint]) -> str:
    *front, last = map(str, constraints)
    return f"{', '.join(front)} and {last}" if front else last


def _nearest(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=1)
    return f' (did you mean "{near[0]}"?)' if near else ""


_QUANTITIES = f"the quantities are {', '.join(QUANTITIES)}"
