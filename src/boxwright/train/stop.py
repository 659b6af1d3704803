"""Ctrl-C and SIGTERM during long work."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from boxwright.train.loop import Training


class StoppedError(Exception):
    """Ctrl-C or SIGTERM came; finished work is saved. `signal` is its number."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message, signal)
        self.signal = signal

    def __str__(self) -> str:
        return self.args[0]


@contextmanager
def stopping(training: Training) -> Iterator[list[int]]:
    """Within, the first Ctrl-C or SIGTERM stops the training after a whole step; a second Ctrl-C stops it at once.

    Yields the signals that came.
    """

    def stop(number: int, before: int) -> None:
        if before and number == signal.SIGINT:
            raise KeyboardInterrupt
        training.stop = True
        os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")

    with _handled(stop) as caught:
        yield caught


@contextmanager
def stoppable() -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM both raise a KeyboardInterrupt, which leaves as a StoppedError."""

    def stop(number: int, before: int) -> None:
        raise KeyboardInterrupt  # no `except Exception` catches it, and Ray lets it through

    with _handled(stop) as caught:
        try:
            yield
        except KeyboardInterrupt:
            raise StoppedError("stopped", caught[0] if caught else signal.SIGINT) from None


@contextmanager
def _handled(handle: Callable[[int, int], None]) -> Iterator[list[int]]:
    """Within, SIGINT and SIGTERM call `handle` with their number and how many came before. Yields those that came."""
    caught: list[int] = []

    def handler(number: int, frame: object) -> None:
        caught.append(number)
        handle(number, len(caught) - 1)

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
