"""A progress bar in one line of the terminal: time left, losses, images per second, as room allows.

Prints a plain line a minute if stderr is not a terminal.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from itertools import accumulate
from typing import NamedTuple, Self

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as RichProgress

from boxwright.terminal import SEPARATOR, say

_LINE_EVERY = 60.0  # seconds between plain lines
_BAR = 16  # columns
_SMOOTHING = 0.95  # exponential, of the displayed losses, since that of a single batch is noisy


class Whole(NamedTuple):
    """The work that a bar is a part of, such as a run of several epochs.

    later    units of work that follow the bar's
    before   units that were done before it, in `seconds`
    """

    later: int
    before: int
    seconds: float


class Progress:
    """Counts batches on stderr; a context manager. The time left is that of the whole, where it is given."""

    def __init__(self, title: str, total: int, done: int = 0, show: bool = True, whole: Whole | None = None) -> None:
        self.title, self.total, self.done, self.first, self.whole = title, total, done, done, whole
        self.losses: dict[str, float] = {}
        self.show = show
        self.started = self.last = time.monotonic()
        self.console = Console(stderr=True)
        self.bar = _bar(self.console) if show and self.console.is_terminal else None

    def __enter__(self) -> Self:
        if self.bar is not None:
            self.bar.start()
            self.task = self.bar.add_task(self.title, total=self.total, completed=self.done, note="")
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def update(self, losses: Mapping[str, float] | None = None, images_per_second: float | None = None) -> None:
        """One more batch is done."""
        self.done += 1
        if not self.show:
            return
        for name, value in (losses or {}).items():
            self.losses[name] = _SMOOTHING * self.losses.get(name, value) + (1 - _SMOOTHING) * value
        if self.bar is not None:
            used = cell_len(self.title) + _BAR + 2 * len(str(self.total)) + 4  # with a space between columns
            note = _as_fits(self._parts(images_per_second), self.console.width - used)
            self.bar.update(self.task, completed=self.done, note=note)
        elif time.monotonic() - self.last > _LINE_EVERY:
            self.last = time.monotonic()
            parts = [f"{self.title} {self.done}/{self.total}", *self._parts(images_per_second)]
            say(SEPARATOR.join(parts))

    def _parts(self, images_per_second: float | None) -> list[str]:
        """What is said beside the bar, the most important first."""
        later, before, seconds = self.whole or Whole(0, 0, 0.0)
        pace = (seconds + time.monotonic() - self.started) / (before + self.done - self.first)
        left = _clock(pace * max(0, later + self.total - self.done))
        parts = ["run " * (self.whole is not None) + f"{left} left"]
        if len(self.losses) > 1:
            parts.append(f"loss {sum(self.losses.values()):.3f}")
        if images_per_second:
            parts.append(f"{images_per_second:.1f} images/s")
        return parts + [f"{name} {value:.3f}" for name, value in self.losses.items()]


def _bar(console: Console) -> RichProgress:
    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=_BAR),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,  # the summary of the epoch replaces it
    )


def _as_fits(parts: Sequence[str], room: int) -> str:
    """As many of the first parts as fit into so many columns."""
    notes = accumulate(parts, lambda before, part: before + SEPARATOR + part)
    return max((note for note in notes if cell_len(note) <= room), key=len, default="")


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
