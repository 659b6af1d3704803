"""Ctrl-C, SIGTERM and a terminal that is closed (SIGHUP) during long work."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from boxwright.train.loop import Training


class StoppedError(Exception):
    """Ctrl-C, SIGTERM or SIGHUP came; finished work is saved. `signal` is its number."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message, signal)
        self.signal = signal

    def __str__(self) -> str:
        return self.args[0]


@contextmanager
def stopping(training: Training) -> Iterator[list[int]]:
    """Within, Ctrl-C, SIGTERM or SIGHUP stops the training after a whole step; a second Ctrl-C at once.

    Yields the signals that came.
    """

    def stop(number: int, before: int) -> None:
        if before and number == signal.SIGINT:
            raise KeyboardInterrupt
        training.stop = True
        with suppress(OSError):  # the terminal may be closed
            os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")

    with _handled(stop) as caught:
        yield caught


@contextmanager
def stoppable() -> Iterator[None]:
    """Within, Ctrl-C, SIGTERM and SIGHUP raise a KeyboardInterrupt, which leaves as a StoppedError."""

    def stop(number: int, before: int) -> None:
        raise KeyboardInterrupt  # no `except Exception` catches it, and Ray lets it through

    with _handled(stop) as caught:
        try:
            yield
        except KeyboardInterrupt:
            raise StoppedError("stopped", caught[0] if caught else signal.SIGINT) from None


@contextmanager
def _handled(handle: Callable[[int, int], None]) -> Iterator[list[int]]:
    """Within, these signals call `handle` with their number and how many came before. Yields those that came.

    A SIGHUP that is ignored, as under `nohup`, stays so.
    """
    caught: list[int] = []

    def handler(number: int, frame: object) -> None:
        caught.append(number)
        handle(number, len(caught) - 1)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield caught
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
