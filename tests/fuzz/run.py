"""Give damaged files to readers, and keep those that end in anything but a result or a refusal."""

from __future__ import annotations

import resource
import signal
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import boxwright
from boxwright.cli.table import table
from fuzz.mutate import mutate
from fuzz.reader import Reader

SECONDS = 2.0
"""Of CPU time for one file."""
MEGABYTES = 500
"""By which the memory may grow for one file."""

_WAIT = 30.0  # seconds by the clock, for a reader that waits without working; the machine may be busy
_LONGEST = 10_000  # characters of a refusal, which may name a path of 4096 twice
_SOURCE = str(Path(boxwright.__file__).parent)


class Hang(BaseException):
    """A reader takes too long; not an Exception, which readers turn into refusals."""


@dataclass
class Tally:
    """What became of the files given to one reader. `failures` counts by kind; `kept` has the first file of each."""

    read: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    largest: float = 0.0
    failures: dict[str, int] = field(default_factory=dict)
    kept: dict[str, Path | None] = field(default_factory=dict)


def run(
    readers: Sequence[Reader],
    count: int,
    seed: int = 0,
    seconds: float | None = None,
    out: Path | None = None,
    progress: Callable[[], None] | None = None,
) -> dict[str, Tally]:
    """Tallies by the name of the reader.

    count    files for all readers together, as many for each
    seed     decides the files; each is a function of seed, reader and number alone
    seconds  ends earlier after so long, of which each reader has its share
    out      a folder for the first file of each kind of failure
    """
    tallies = {reader.name: Tally() for reader in readers}
    started = time.monotonic()
    for number, reader in enumerate(readers, 1):
        with prepared(reader) as (folder, seeds):
            path = folder / reader.file
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for data in seeds:
                    path.write_bytes(data)
                    reader.read(path)  # what is not damaged is read; this also warms up
            for index in range(-(-count // len(readers))):
                if seconds is not None and time.monotonic() - started > seconds * number / len(readers):
                    break
                data = mutate(seeds, reader, Random(f"{seed} {reader.name} {index}"))
                feed(reader, folder, data, tallies[reader.name], out and (out / f"{reader.name}-{seed}-{index}"))
                if progress:
                    progress()
    return tallies


@contextmanager
def prepared(reader: Reader) -> Iterator[tuple[Path, Sequence[bytes]]]:
    """A folder with what is read beside the file, deep enough for a few `..`, and valid contents of the file."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as outer:
        folder = Path(outer) / "a" / "b" / reader.name
        folder.mkdir(parents=True)
        seeds = reader.prepare(folder)
        (folder / reader.file).parent.mkdir(parents=True, exist_ok=True)
        yield folder, seeds


def feed(reader: Reader, folder: Path, data: bytes, tally: Tally, keep: Path | None = None) -> None:
    """Read one file in a prepared folder, and count what becomes of it; the first of each kind of failure is kept."""
    path = folder / reader.file
    path.write_bytes(data)
    before, peak, start = _memory(), _peak(), time.process_time()
    refused, problem, details = False, "", ""
    try:
        with _alarm(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", RuntimeWarning)  # numpy's, which a user can do nothing about
            reader.read(path)
    except reader.refusals as error:
        refused = True
        if str(folder) not in str(error) and path.name not in str(error):
            problem, details = "a refusal does not name the file", str(error)
        elif len(str(error)) > _LONGEST:
            problem, details = "a refusal is too long", str(error)[:_LONGEST]
    except (Exception, Hang) as error:
        problem, details = f"{type(error).__name__} in {_where(error)}", traceback.format_exc()
    used, grown = time.process_time() - start, _peak() - before if _peak() > peak else 0.0
    tally.seconds += used
    tally.slowest, tally.largest = max(tally.slowest, used), max(tally.largest, grown)
    if not problem and used > SECONDS:
        problem, details = "takes too long", f"{used:.1f} s"
    if not problem and grown > MEGABYTES:
        problem, details = "takes too much memory", f"{grown:.0f} MB"
    if not problem:
        tally.read, tally.refused = tally.read + (not refused), tally.refused + refused
        return
    tally.failures[problem] = tally.failures.get(problem, 0) + 1
    if tally.failures[problem] == 1:
        tally.kept[problem] = keep
        if keep:
            keep.parent.mkdir(parents=True, exist_ok=True)
            keep.write_bytes(data)
            Path(f"{keep}.txt").write_text(f"{problem}\n{details}\n", encoding="utf-8", errors="backslashreplace")


def report(tallies: dict[str, Tally]) -> str:
    """A row for each reader, and below a line for each kind of failure."""
    head = ("reader", "files", "read", "refused", "failed", "CPU s", "slowest s", "most MB")
    rows, lines = [], []
    for name, tally in tallies.items():
        failed = sum(tally.failures.values())
        counts = (tally.read, tally.refused, failed)
        used = (f"{tally.seconds:.0f}", f"{tally.slowest:.2f}", f"{tally.largest:.0f}")
        rows.append((name, sum(counts), *counts, *used))
        lines += [
            f"{name}: {count} × {problem}" + (f", first {tally.kept[problem]}" if tally.kept.get(problem) else "")
            for problem, count in tally.failures.items()
        ]
    return "\n".join([table(head, rows), *lines])


@contextmanager
def _alarm() -> Iterator[None]:
    """Raises `Hang` in the main thread after `SECONDS` of CPU time, or `_WAIT` by the clock, and again each second: a
    pool of threads that is left waits for them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise Hang

    former = {number: signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, 2 * SECONDS, 1.0)
    signal.setitimer(signal.ITIMER_REAL, _WAIT, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in former.items():
            signal.signal(number, handler)


def _memory() -> float:
    """The megabytes that this process has; the most it had, where there is no /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    except OSError:
        return _peak()


def _peak() -> float:
    """The most megabytes that this process had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kilobytes on Linux


def _where(error: BaseException) -> str:
    """The last place in the library that the error passed."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(_SOURCE)]
    return f"{Path(frames[-1].filename).relative_to(_SOURCE)}:{frames[-1].lineno}" if frames else "the reader"
