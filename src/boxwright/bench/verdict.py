"""Which cell to take: the frontier of speed and AP, the user's constraints, the verdict and its reasons."""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from operator import attrgetter
from typing import NamedTuple

from boxwright.bench.result import Entry, Speed, Verdict
from boxwright.units import Interval, Unit, between, counted, digits, fraction, signed

UNKNOWN = Interval(math.nan, math.nan, math.nan)

MIN_OBJECTS, MIN_SEEDS, MIN_EPOCHS, MIN_AP = 50, 2, 3, 0.1
"""What a winner needs: so many objects on test, seeds and epochs, and an AP that reaches this."""

Difference = Callable[[str, str], Interval]
"""From the names of two cells to the AP of the first minus that of the second, by `paired_difference`."""


def fastest(entry: Entry) -> tuple[str, Speed] | None:
    """The runtime in which half of the images take least, and its times; None where no time is known."""
    known = [(runtime, speed) for runtime, speed in entry.speed.items() if not math.isnan(speed.p50.value)]
    return min(known, key=lambda timed: timed[1].p50.value, default=None)


def seconds(entry: Entry) -> float:
    """p50 of one image in the entry's fastest runtime; nan where it is not known."""
    return _p50(entry).value


def frontier(entries: Iterable[Entry]) -> tuple[str, ...]:
    """The names of those that no other beats in AP or speed without losing in the other; fastest first.

    Only cells trained to the end and external models are considered, where both numbers are known.
    """
    known = [entry for entry in entries if _measured(entry) and not math.isnan(seconds(entry))]
    known.sort(key=lambda entry: (seconds(entry), -_ap(entry).value))
    return tuple(entry.name for entry in known if not any(_beats(other, entry) for other in known))


class _Quantity(NamedTuple):
    """What can be constrained: its units, and how it is read from an entry (None: a class must be named)."""

    units: dict[str, float]
    read: Callable[[Entry], float | None] | None
    by_class: bool = False


_TIME = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_BYTES = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
_COUNT = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
_RATE = {"": 1.0, "/s": 1.0}
_FRACTION = {"": 1.0, "%": 0.01}


def _of_speed(name: str) -> Callable[[Entry], float | None]:
    return lambda entry: None if (timed := fastest(entry)) is None else attrgetter(name)(timed[1])


def _of_size(size: str) -> Callable[[Entry], float | None]:
    return lambda entry: entry.quality.sizes.get(size) if entry.quality else None


QUANTITIES = {
    "ap": _Quantity(_FRACTION, lambda entry: _ap(entry).value, by_class=True),
    "ap50": _Quantity(_FRACTION, lambda entry: entry.quality.ap50.value if entry.quality else None, by_class=True),
    **{f"ap_{size}": _Quantity(_FRACTION, _of_size(size)) for size in ("small", "medium", "large")},
    **{name: _Quantity(_FRACTION, None, by_class=True) for name in ("recall", "precision")},
    **{name: _Quantity(_TIME, _of_speed(f"{name}.value")) for name in ("p50", "p95")},
    "throughput": _Quantity(_RATE, _of_speed("throughput")),
    "first": _Quantity(_TIME, attrgetter("first")),
    **{name: _Quantity(_BYTES, attrgetter(name)) for name in ("memory", "device_memory", "file")},
    **{name: _Quantity(_COUNT, attrgetter(name)) for name in ("parameters", "flops")},
}
"""What can be constrained. Times and throughput are those of an entry's fastest runtime, by p50."""

_OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_TEXT = re.compile(
    r"\s*(?P<quantity>\w+)\s*(\[(?P<label>.*)\])?\s*(?P<operator>[<>]=?)"
    r"\s*(?P<number>(\d+\.?\d*|\.\d+)(e[-+]?\d+)?)\s*(?P<unit>\S*)\s*"
)


@dataclass(frozen=True)
class Constraint:
    """A requirement of the user, such as `p95<30ms` or `recall[cat]>90%`.

    text      as the user wrote it
    quantity  a key of `QUANTITIES`
    label     the name of the class; None for all classes
    bound     in seconds, bytes, 0..1 or a plain number
    unit      as the user wrote it, and its `scale` in those
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
        """Raises ValueError, with what was expected, for any other text."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(
                f'expected a constraint like "p95<30ms" or "recall[cat]>0.9" (a quantity, <, <=, > or >=, a number '
                f'and its unit), got "{text}"; {_QUANTITIES}'
            )
        quantity, label = match["quantity"], match["label"]
        if quantity not in QUANTITIES:
            near = _nearest(quantity, QUANTITIES)
            raise ValueError(f'constraint "{text}": there is no quantity "{quantity}"{near}; {_QUANTITIES}')
        kind = QUANTITIES[quantity]
        if label is None and kind.read is None:
            raise ValueError(f'constraint "{text}": expected {quantity}[CLASS], for {quantity} is of one class')
        if label is not None and not kind.by_class:
            by_class = " or ".join(f"{name}[CLASS]" for name, other in QUANTITIES.items() if other.by_class)
            raise ValueError(f'constraint "{text}": {quantity} is not known of a single class; expected {by_class}')
        scale = {unit.lower(): scale for unit, scale in kind.units.items()}.get(match["unit"].lower())
        if scale is None:
            units = ", ".join(unit or "none" for unit in kind.units)
            raise ValueError(f'constraint "{text}": expected the unit of {quantity} ({units}), got "{match["unit"]}"')
        # A product of decimals, for 70 * 0.01 is more than 0.7.
        bound = float(Decimal(match["number"]) * Decimal(repr(scale)))
        if kind.units is _FRACTION and bound > 1:
            raise ValueError(f'constraint "{text}": {quantity} is a fraction; expected 0 to 1, or a number of %')
        return cls(text, quantity, label, match["operator"], bound, match["unit"], scale)

    def __str__(self) -> str:
        return self.text

    def check(self, names: Sequence[str]) -> None:
        """Raises ValueError where the constraint's class is not among the data's `names`."""
        if self.label is not None and self.label not in names:
            near = _nearest(self.label, names)
            known = ", ".join(names)
            raise ValueError(f'constraint "{self}": the data has no class "{self.label}"{near}; it has {known}')

    def value(self, entry: Entry) -> float:
        """The constrained value, in seconds, bytes, 0..1 or a plain number; nan where it is not known."""
        read = QUANTITIES[self.quantity].read
        if self.label is not None:
            of_class = entry.quality.classes.get(self.label) if entry.quality else None
            value = None if of_class is None else getattr(of_class, self.quantity)
        else:
            value = None if read is None else read(entry)
        return math.nan if value is None else float(value)

    def met(self, entry: Entry) -> bool:
        """False where the value is not known."""
        return _OPERATORS[self.operator](self.value(entry), self.bound)

    def miss(self, entry: Entry) -> float:
        """The relative distance of the value from the bound; 0 where it is met, inf where it is not known."""
        if self.met(entry):
            return 0.0
        value = self.value(entry)
        return abs(value - self.bound) / self.bound if self.bound and not math.isnan(value) else math.inf

    def shortfall(self, entry: Entry) -> str:
        """What is missed, for people: "p95 is 41.2 ms where p95<30ms was asked (37.3 % off)"."""
        what = self.quantity if self.label is None else f"{self.quantity}[{self.label}]"
        value, miss = self.value(entry), self.miss(entry)
        if math.isnan(value):
            return f"{what} is not known, where {self} was asked"
        plain = QUANTITIES[self.quantity].units is _FRACTION and not self.unit
        written = fraction(value) if plain else f"{digits(value / self.scale)} {self.unit}".strip()
        off = f" ({digits(100 * miss)} % off)" if math.isfinite(miss) else ""
        return f"{what} is {written} where {self} was asked{off}"


def judge(entries: Iterable[Entry], constraints: Sequence[Constraint], difference: Difference) -> Verdict:
    """The leader among the cells that meet all constraints and were trained to the end, or are external models.

    Cells are tied in AP where the 95 % interval of their paired `difference` contains 0. The fastest of those tied with
    the best, by p50, leads; of those whose intervals of p50 overlap with that of the fastest, the one with the best AP.
    The runner-up is found in the same way among the others. The leader is the winner, unless there is too little
    evidence for one. Where no cell meets the constraints, the nearest misses them by the least sum of relative
    shortfalls; what is not known counts as the worst.
    """
    entries = tuple(entries)
    known = [entry for entry in entries if _measured(entry)]
    if not known:
        states = Counter(entry.state for entry in entries)
        counts = ", ".join(f"{count} {state}" for state, count in states.items())
        unknown = f"No cell can be chosen, for the AP of none is known: {counts}."
        return Verdict(reasons=(unknown if entries else "The race has no cells.",))
    meeting = [entry for entry in known if all(constraint.met(entry) for constraint in constraints)]
    best = _best(meeting or known)
    leader = _leader(meeting, difference) if meeting else None
    others = [entry for entry in meeting if entry is not leader]
    runner_up = _leader(others, difference) if others else None
    lacking = _lacking(known)
    comparable = [entry for entry in entries if not math.isnan(_ap(entry).value)]
    if leader is None:
        nearest, reasons = _nothing_meets(known, constraints)
    else:
        nearest, reasons = None, [*_who_meets(known, meeting, constraints), _why(leader, others, difference)]
        reasons += [f"{runner_up.name} comes next: {_numbers(runner_up)}."] if runner_up else []
        reasons += _better_but(leader, known, constraints, difference)
    return Verdict(
        lacking,
        winner=leader.name if leader and not lacking else None,
        leader=leader.name if leader else None, runner_up=runner_up.name if runner_up else None,
        tied=tuple(entry.name for entry in others if leader and _tied(entry, leader, difference)),
        nearest=nearest.name if nearest else None, frontier=frontier(known), reasons=tuple(reasons), best=best.name,
        to_best={entry.name: difference(entry.name, best.name) for entry in comparable},
        to_leader={entry.name: difference(entry.name, leader.name) for entry in comparable if leader},
    )  # fmt: skip


def too_little_evidence(objects: int, seeds: float, epochs: float, best_ap: float) -> tuple[str, ...]:
    """What is missing for a winner to be named: nothing, or for each reason what there is and what is needed.

    objects        on test
    seeds, epochs  of the cells that were trained; infinite where there are only external models
    best_ap        of all cells; nan where it is not known yet
    """
    reasons = {
        f"{counted(objects, 'object')} on test ({MIN_OBJECTS} are needed)": objects < MIN_OBJECTS,
        f"{seeds} seed ({MIN_SEEDS} are needed)": seeds < MIN_SEEDS,
        f"{counted(epochs, 'epoch')} ({MIN_EPOCHS} are needed)": epochs < MIN_EPOCHS,
        f"best AP {fraction(best_ap)} ({MIN_AP} is needed)": best_ap < MIN_AP,
    }
    return tuple(reason for reason, holds in reasons.items() if holds)


def _lacking(known: Sequence[Entry]) -> tuple[str, ...]:
    trained = [entry for entry in known if entry.state == "finished"]
    qualities = [entry.quality for entry in known if entry.quality]
    objects = max(sum(of_class.objects for of_class in quality.classes.values()) for quality in qualities)
    seeds = min((len(entry.quality.seeds) for entry in trained if entry.quality), default=math.inf)
    epochs = min((entry.epochs for entry in trained), default=math.inf)
    return too_little_evidence(objects, seeds, epochs, _ap(_best(known)).value)


def _best(entries: Iterable[Entry]) -> Entry:
    return max(entries, key=lambda entry: _ap(entry).value)


def _tied(entry: Entry, other: Entry, difference: Difference) -> bool:
    return entry is other or difference(entry.name, other.name).contains(0)


def _leader(entries: Sequence[Entry], difference: Difference) -> Entry:
    """The fastest of those tied in AP with the best; of those that are not measurably slower, the best."""
    best = _best(entries)
    timed = [entry for entry in entries if _tied(entry, best, difference) and not math.isnan(seconds(entry))]
    if not timed:
        return best
    quickest = min(timed, key=seconds)
    return _best(entry for entry in timed if entry is quickest or _p50(entry).overlaps(_p50(quickest)))


def _why(leader: Entry, others: Sequence[Entry], difference: Difference) -> str:
    best = _best((leader, *others))
    if best is leader:
        tied = any(_tied(entry, leader, difference) for entry in others)
        rest = "none tied with it has a measurably lower p50" if tied else "no other is tied with it"
        rest = rest if others else "is the only one"
        return f"{leader.name} has the best AP, {_write(_ap(leader))}, and {rest}."
    aps = f"{fraction(_ap(leader).value)} and {fraction(_ap(best).value)}"
    gap = write_difference(difference(leader.name, best.name))
    tie = f"{leader.name} is tied in AP with the best, {best.name} ({aps}, difference {gap})"
    unit = Unit.of((seconds(leader), seconds(best)))
    p50 = f"and its p50 is {unit.write(seconds(leader))} {unit.short}"
    if math.isnan(seconds(best)):
        return f"{tie}, whose time is not known, {p50}."
    return f"{tie}, {p50} instead of {unit.write(seconds(best))}."


def _who_meets(known: Sequence[Entry], meeting: Sequence[Entry], constraints: Sequence[Constraint]) -> list[str]:
    if not constraints:
        return []
    count = f"{len(meeting)} of {len(known)}" if len(meeting) < len(known) else f"All {len(known)}"
    count = "The only cell" if len(known) == 1 else count
    return [f"{count} {'meets' if len(meeting) == 1 else 'meet'} {_all(constraints)}."]


def _better_but(
    leader: Entry, known: Sequence[Entry], constraints: Sequence[Constraint], difference: Difference
) -> list[str]:
    """What the constraints cost: the best of all, if it does not meet them and is not tied with the leader."""
    best = _best(known)
    missed = [constraint.shortfall(best) for constraint in constraints if not constraint.met(best)]
    if not missed or _tied(best, leader, difference):
        return []
    return [f"{best.name} is better, {_write(_ap(best))}, but {'; '.join(missed)}."]


def _nothing_meets(known: Sequence[Entry], constraints: Sequence[Constraint]) -> tuple[Entry, list[str]]:
    def missing(entry: Entry) -> tuple[int, float, float]:
        misses = [constraint.miss(entry) for constraint in constraints]
        return sum(map(math.isinf, misses)), sum(filter(math.isfinite, misses)), -_ap(entry).value

    nearest = min(known, key=missing)
    return nearest, [
        f"Nothing meets {_all(constraints)}.",
        f"{nearest.name} comes nearest: {_numbers(nearest)}.",
        *(f"Its {constraint.shortfall(nearest)}." for constraint in constraints if not constraint.met(nearest)),
    ]


def _measured(entry: Entry) -> bool:
    return entry.state in ("finished", "external") and not math.isnan(_ap(entry).value)


def _ap(entry: Entry) -> Interval:
    return entry.quality.ap if entry.quality else UNKNOWN


def _p50(entry: Entry) -> Interval:
    return timed[1].p50 if (timed := fastest(entry)) else UNKNOWN


def _beats(entry: Entry, other: Entry) -> bool:
    faster, better = seconds(other) - seconds(entry), _ap(entry).value - _ap(other).value
    return faster >= 0 and better >= 0 and (faster > 0 or better > 0)


def _numbers(entry: Entry) -> str:
    time = seconds(entry)
    unit = Unit.of([time])
    speed = "its time is not known" if math.isnan(time) else f"p50 {unit.write(time)} {unit.short}"
    return f"AP {_write(_ap(entry))}, {speed}"


def _write(interval: Interval) -> str:
    return f"{fraction(interval.value)} {between(interval.low, interval.high)}".strip()


def write_difference(interval: Interval) -> str:
    """With signs: +0.012 [-0.003, +0.027]."""
    return f"{signed(interval.value)} {between(interval.low, interval.high, signed)}".strip()


def _all(constraints: Sequence[Constraint]) -> str:
    *front, last = map(str, constraints)
    return f"{', '.join(front)} and {last}" if front else last


def _nearest(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=1)
    return f' (did you mean "{near[0]}"?)' if near else ""


_QUANTITIES = (
    f"the quantities are {', '.join(QUANTITIES)}; of the times of one image, half are less than p50, 95 % less than p95"
)
