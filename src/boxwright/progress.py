"""A progress bar: losses, images per second, time left. Prints plain lines if stderr is not a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

_LINE_EVERY = 30.0  # seconds between plain lines
_SMOOTHING = 0.95  # exponential, of the displayed losses, since that of a single batch is noisy


class Progress:
    """Counts batches on stderr; a context manager."""

    def __init__(self, title: str, total: int, done: int = 0, show: bool = True) -> None:
        self.title, self.total, self.done, self.first = title, total, done, done
        self.losses: dict[str, float] = {}
        self.show = show
        self.started = self.last = time.monotonic()
        console = Console(stderr=True)
        self.bar = _bar(console) if show and console.is_terminal else None

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
            self.bar.update(self.task, completed=self.done, note=self._note(images_per_second))
        elif time.monotonic() - self.last > _LINE_EVERY:
            self.last = time.monotonic()
            left = (self.last - self.started) / (self.done - self.first) * (self.total - self.done)
            parts = [f"{self.title} {self.done}/{self.total}", self._note(images_per_second), f"{_clock(left)} left"]
            print(" · ".join(filter(None, parts)), file=sys.stderr, flush=True)

    def _note(self, images_per_second: float | None) -> str:
        losses = " ".join(f"{name} {value:.3f}" for name, value in self.losses.items())
        rate = f"{images_per_second:.1f} images/s" if images_per_second else ""
        return " · ".join(filter(None, [losses, rate]))


def _bar(console: Console) -> RichProgress:
    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("<"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,  # the summary of the epoch replaces it
    )


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def say(text: str) -> None:
    """A line on stderr: stdout is for results."""
    print(text, file=sys.stderr, flush=True)
