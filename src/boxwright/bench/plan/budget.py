"""What fits into a budget: as many cells trained to the end as the time allows, the others stopped by halving.

Successive halving: Jamieson and Talwalkar 2016, "Non-stochastic Best Arm Identification and Hyperparameter
Optimization", section 3. Cells are stopped by AP on val, but a cell that is faster than all better ones is kept before
one that is neither: the frontier is what the race is for (as in Schmucker et al. 2021, "Multi-objective Asynchronous
Successive Halving"). Imports no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from boxwright.bench.result import Rung, Standing
from boxwright.units import counted

_SLACK = 0.9  # of the budget is planned: a few steps predict the time of thousands only roughly
_LENGTH = re.compile(r"(?:(\d+\.?\d*)h)?(?:(\d+\.?\d*)m(?:in)?)?(?:(\d+\.?\d*)s)?")
_FEWEST = 2  # cells trained to the end: a race of one has no runner-up
_SMALL = 224  # pixels, the size that is offered where all others are too dear


class Pace(NamedTuple):
    """Seconds that a cell takes: for an epoch of training, for an evaluation on val, once for each seed (detection on
    test), and once for the cell (proposals, timing)."""

    epoch: float
    validation: float
    seed: float
    cell: float


class BudgetError(ValueError):
    """Not even one epoch of each cell fits into the budget."""


@dataclass(frozen=True)
class Plan:
    """The course of a race.

    epochs   of the cells trained to the end; the learning rate of all cells falls along a cosine of this length
    rungs    the epochs after which the field is halved; none where all cells are trained to the end
    seconds  that the race takes if the most expensive cells are those that are kept
    """

    epochs: int
    rungs: tuple[int, ...]
    seconds: float


def make_plan(
    paces: Mapping[str, Pace], seeds: int, epochs: int, validate_every: int, budget: float | None = None,
    parallel: int = 1, spent: float = 0.0,
) -> Plan:  # fmt: skip
    """The plan with the fewest halvings that leaves at least half the `epochs` to the cells trained to the end; where
    there is none, the plan with the most epochs.

    epochs          of every cell without a budget
    validate_every  epochs between evaluations on val
    budget          seconds
    parallel        jobs at a time; timing is done alone
    spent           seconds of the budget that are over: the paces took them

    Raises BudgetError where not even one epoch of each fits. It says what the time goes to, and what suffices.
    """

    def seconds(length: int, halvings: int) -> float:
        rungs = rungs_of(length, halvings)
        slowest = sorted(paces.values(), key=lambda pace: -pace.epoch)
        training = sum(
            (end - start) * pace.epoch + math.ceil((end - start) / validate_every) * pace.validation
            for start, end, count in zip((0, *rungs), (*rungs, length), _counts(len(paces), halvings), strict=True)
            for pace in slowest[:count]
        )
        tested = sum(pace.seed for pace in slowest)
        return seeds * (training + tested) / min(parallel, seeds * max(len(paces), 1)) + sum(p.cell for p in slowest)

    if budget is None:
        return Plan(epochs, (), seconds(epochs, 0))
    most = max(0, math.floor(math.log2(max(len(paces), 1) / _FEWEST)))
    fitting = []
    for halvings in range(most + 1):
        lengths = [n for n in range(2**halvings, epochs + 1) if seconds(n, halvings) <= _SLACK * (budget - spent)]
        fitting += [(max(lengths), -halvings)] if lengths else []
    if not fitting:
        raise BudgetError(_too_small(paces, seeds, budget, parallel, spent))
    length, fewest = next((plan for plan in fitting if plan[0] >= epochs / 2), max(fitting))
    return Plan(length, rungs_of(length, -fewest), seconds(length, -fewest))


def _too_small(paces: Mapping[str, Pace], seeds: int, budget: float, parallel: int, spent: float) -> str:
    at_a_time = min(parallel, max(1, seeds * len(paces)))
    parts = {
        "training": seeds * sum(pace.epoch for pace in paces.values()) / at_a_time,
        "evaluation on val": seeds * sum(pace.validation for pace in paces.values()) / at_a_time,
        "detection on test": seeds * sum(pace.seed for pace in paces.values()) / at_a_time,
        "timing": sum(pace.cell for pace in paces.values()),
    }
    field = f"{counted(len(paces), 'cell')} with {counted(seeds, 'seed')}"
    before = f" {duration(spent)} of it went into a few steps of each cell, which give the pace." if spent else ""
    listed = ", ".join(f"{part} {duration(seconds)}" for part, seconds in parts.items() if seconds)
    least = sum(parts.values()) / _SLACK
    enough = spent + least if spent + least < 120 else 60 * math.ceil((spent + least) / 60)
    return (
        f"the budget of {duration(budget)} is too small for {field}.{before} One epoch of each takes {duration(least)} "
        f"with its measurements, a tenth kept in reserve: {listed}. A budget of {duration(enough)} suffices."
    )


def smaller(
    cells: Mapping[str, Mapping[str, str | int]], paces: Mapping[str, Pace], seeds: int, epochs: int,
    validate_every: int, budget: float, parallel: int = 1, spent: float = 0.0,
) -> tuple[dict[str, list[str | int]], Plan] | None:  # fmt: skip
    """The nearest race that fits into a budget: the options that differ, with their values, and its plan.

    cells  by name, what `grid` made them of: "detectors", "backbones" and "sizes", one of each

    Seeds are given up first, then large images, backbones and detectors, the dearest of each first; two cells are
    left at least. Where no size is 224 or less, 224 is tried too, at the pace of the smallest size by number of pixels.
    None where nothing fits.
    """
    keys = ("detectors", "backbones", "sizes")
    values = {key: list(dict.fromkeys(cells[name][key] for name in paces)) for key in keys}

    def cost(key: str, value: str | int) -> float:
        return sum(pace.epoch for name, pace in paces.items() if cells[name][key] == value)

    choices: dict[str, list[list[str | int]]] = {}
    for key in keys:
        cheapest = sorted(values[key], key=lambda value: cost(key, value))
        choices[key] = [[value for value in values[key] if value in cheapest[:count]]
                        for count in range(len(cheapest), 0, -1)]  # fmt: skip
    least = min(map(int, values["sizes"]), default=0)
    if least > _SMALL:
        choices["sizes"].append([_SMALL])
    for chosen in product(*choices.values()):
        options = dict(zip(keys, chosen, strict=True))
        shrunk = options["sizes"] == [_SMALL] and least > _SMALL
        taken = options | {"sizes": [least]} if shrunk else options
        kept = {name: pace for name, pace in paces.items() if all(cells[name][key] in taken[key] for key in keys)}
        if len(kept) < min(_FEWEST, len(paces)):
            continue
        if shrunk:
            scale = (_SMALL / least) ** 2
            kept = {name: pace._replace(epoch=scale * pace.epoch, validation=scale * pace.validation)
                    for name, pace in kept.items()}  # fmt: skip
        for fewer in range(seeds, 0, -1):
            try:
                plan = make_plan(
                    kept, fewer, epochs, validate_every, budget, parallel, spent * len(kept) / len(paces)
                )  # fmt: skip
            except BudgetError:
                continue
            changed = {key: value for key, value in options.items() if value != values[key]}
            if fewer < seeds:
                changed = {"seeds": [fewer], **changed}
            return changed, plan
    return None


def rungs_of(epochs: int, halvings: int) -> tuple[int, ...]:
    """A half of the epochs, a quarter, an eighth ... in ascending order."""
    return tuple(round(epochs / 2**power) for power in range(halvings, 0, -1))


def halve(epoch: int, measured: Mapping[str, tuple[float, float]]) -> Rung:
    """The better half of the cells is kept; of three, two.

    measured  by cell: its AP on val, nan where it has none, and its seconds an image

    Cells are ranked by how many times the frontier must be removed before they are on it, then by AP.
    """
    left = {name: (-math.inf if math.isnan(ap) else ap, seconds) for name, (ap, seconds) in measured.items()}
    ranked: list[str] = []
    while left:
        front = [name for name in left if not any(_beats(other, left[name]) for other in left.values())]
        ranked += sorted(front, key=lambda name: -left[name][0])
        left = {name: left[name] for name in left if name not in front}
    kept = ranked[: _half(len(ranked))]
    return Rung(epoch, tuple(Standing(name, *measured[name], name in kept) for name in ranked))


def _beats(cell: tuple[float, float], other: tuple[float, float]) -> bool:
    """Better and as fast, or faster and as good."""
    return cell[0] >= other[0] and cell[1] <= other[1] and cell != other


def _half(count: int) -> int:
    return max(min(count, _FEWEST), math.ceil(count / 2))


def _counts(cells: int, halvings: int) -> Sequence[int]:
    """How many cells are trained between one rung and the next."""
    counts = [cells]
    for _ in range(halvings):
        counts.append(_half(counts[-1]))
    return counts


def duration(seconds: float) -> str:
    """A length of time for people: 1 h 30 min, 12 min, 45 s."""
    if seconds >= 3600:
        hours, minutes = divmod(round(seconds / 60), 60)
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{round(seconds / 60)} min" if seconds >= 120 else f"{math.ceil(seconds)} s"


def parse_budget(text: str, option: str = "a budget") -> float:
    """Seconds of "90s", "30m", "1.5h" or "1h30m". Raises ValueError for other text, naming the option."""
    match = _LENGTH.fullmatch(text.replace(" ", "").lower())
    seconds = sum(float(n or 0) * unit for n, unit in zip(match.groups(), (3600, 60, 1), strict=True)) if match else 0
    if seconds <= 0:
        raise ValueError(f"{option} is a length of time such as 45s, 30m, 8h or 1h30m; got {text!r}")
    return seconds
