"""A few damaged files for every reader: read, or refused by an error that names the file. `make fuzz` gives more."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.reader import Reader
from fuzz.readers import READERS
from fuzz.run import report, run

COUNT = 30


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_damaged_files_are_read_or_refused(reader: Reader, tmp_path: Path) -> None:
    tallies = run([reader], COUNT, seed=1, out=tmp_path)
    assert not tallies[reader.name].failures, report(tallies)
    assert tallies[reader.name].read + tallies[reader.name].refused == COUNT


def _raise(path: Path) -> None:
    if len(path.read_bytes()) != 9:
        raise KeyError("a" if path.read_bytes() < b"5" else 0)


def test_failures_are_counted_by_kind_and_kept(tmp_path: Path) -> None:
    reader = Reader("bad", "a.txt", lambda _: [b"123456789"], _raise, (ValueError,))
    tally = run([reader], 30, out=tmp_path)["bad"]
    assert tally.read + sum(tally.failures.values()) == 30
    assert list(tally.failures) == ["KeyError in the reader"]
    kept = tally.kept["KeyError in the reader"]
    assert kept is not None and len(kept.read_bytes()) != 9
    assert "KeyError" in Path(f"{kept}.txt").read_text()
    again = run([reader], 30, out=tmp_path)["bad"]
    assert (again.read, again.failures, again.kept) == (tally.read, tally.failures, tally.kept)
