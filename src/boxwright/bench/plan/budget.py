"""What fits into a budget: as many cells trained to the end as the time allows, the others halved away on the way.

Successive halving: Jamieson and Talwalkar 2016, "Non-stochastic Best Arm Identification and Hyperparameter
Optimization", section 3. Who is halved away is decided by AP on validation data, but a cell that is faster than all
better ones is kept before one that is neither: the frontier is what the race is for (as in Schmucker et al. 2021,
"Multi-objective Asynchronous Successive Halving").
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from boxwright.bench.result import Rung, Standing

_SLACK = 0.9  # of the budget is planned: a few steps tell the pace of thousands only roughly
_LENGTH = re.compile(r"(?:(\d+\.?\d*)h)?(?:(\d+\.?\d*)m(?:in)?)?(?:(\d+\.?\d*)s)?")
_FEWEST = 2  # cells that get to the end: a race of one has no runner-up


class Pace(NamedTuple):
    """Seconds that a cell takes: for an epoch of training, a look at the validation part, what comes once for each
    seed (the test part), and once for the cell (proposals, its times)."""

    epoch: float
    validation: float
    seed: float
    cell: float


@dataclass(frozen=True)
class Plan:
    """How a race goes.

    epochs    of those that get to the end; the learning rate of all cells falls along the cosine of this length
    rungs     after so many epochs the field is halved; none where all get to the end
    seconds   that it takes, if the most expensive cells are those that stay
    """

    epochs: int
    rungs: tuple[int, ...]
    seconds: float


def make_plan(
    paces: Mapping[str, Pace],
    seeds: int,
    epochs: int,
    validate_every: int,
    budget: float | None = None,
    parallel: int = 1,
) -> Plan:
    """The plan with the fewest halvings that leaves at least half the `epochs` to those that get to the end; where
    none does, the one with the most epochs.

    epochs          that every cell would train without a budget
    validate_every  epochs between looks at the validation part
    budget          seconds, what was taken before the plan not included
    parallel        jobs that are done at a time; times are taken by one alone

    Raises ValueError, with what would do, where not even one epoch between halvings fits.
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
        lengths = [n for n in range(2**halvings, epochs + 1) if seconds(n, halvings) <= _SLACK * budget]
        if lengths:
            fitting.append((max(lengths), -halvings))
    if not fitting:
        least = min(seconds(2**halvings, halvings) for halvings in range(most + 1)) / _SLACK
        raise ValueError(
            f"the budget of {written(budget)} is too small for {len(paces)} cells with {seeds} seeds: an epoch of "
            f"each takes {written(least)} with its measurements. Give more, or fewer detectors, sizes or seeds"
        )
    length, halvings = next((one for one in fitting if one[0] >= epochs / 2), max(fitting))
    halvings = -halvings
    return Plan(length, rungs_of(length, halvings), seconds(length, halvings))


def rungs_of(epochs: int, halvings: int) -> tuple[int, ...]:
    """Half of the epochs, a quarter, an eighth ... in the order in which they come."""
    return tuple(round(epochs / 2**power) for power in range(halvings, 0, -1))


def halve(epoch: int, measured: Mapping[str, tuple[float, float]]) -> Rung:
    """The better half goes on; of three, two.

    measured  of each cell its AP on val, nan where it has none, and its seconds an image

    In the order of: how many times the frontier must be taken away before the cell is on it; then AP.
    """
    left = {name: (-math.inf if math.isnan(ap) else ap, seconds) for name, (ap, seconds) in measured.items()}
    ranked: list[str] = []
    while left:
        front = [name for name in left if not any(_beats(other, left[name]) for other in left.values())]
        ranked += sorted(front, key=lambda name: -left[name][0])
        left = {name: left[name] for name in left if name not in front}
    kept = ranked[: _half(len(ranked))]
    standings = (Standing(name, *measured[name], name in kept) for name in ranked)
    return Rung(epoch, tuple(standings))


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Better and as fast, or faster and as good."""
    return one[0] >= other[0] and one[1] <= other[1] and one != other


def _half(count: int) -> int:
    return max(min(count, _FEWEST), math.ceil(count / 2))


def _counts(cells: int, halvings: int) -> Sequence[int]:
    """How many cells train on each of the stretches between rungs."""
    counts = [cells]
    for _ in range(halvings):
        counts.append(_half(counts[-1]))
    return counts


def written(seconds: float) -> str:
    """A length of time for people: 1 h 30 min, 12 min, 45 s."""
    if seconds >= 3600:
        hours, minutes = divmod(round(seconds / 60), 60)
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{round(seconds / 60)} min" if seconds >= 120 else f"{math.ceil(seconds)} s"


def parse_budget(text: str) -> float:
    """Seconds of "90s", "30m", "1.5h" or "1h30m". Raises ValueError for what is no length of time."""
    found = _LENGTH.fullmatch(text.replace(" ", "").lower())
    seconds = sum(float(n or 0) * unit for n, unit in zip(found.groups(), (3600, 60, 1), strict=True)) if found else 0
    if seconds <= 0:
        raise ValueError(f"a budget is a length of time such as 45s, 30m, 8h or 1h30m; got {text!r}")
    return seconds
