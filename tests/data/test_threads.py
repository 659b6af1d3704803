"""Work on many files at once: results in order, and the first error."""

from __future__ import annotations

import time

import pytest

from boxwright.data import check
from boxwright.data.formats.reading import ImageRow, Reading
from boxwright.data.threads import in_threads


@pytest.mark.parametrize("count", [0, 1, 7, 130, 5000])
def test_results_are_in_order(count: int) -> None:
    def double(number: int) -> int:
        if number % 50 == 0:
            time.sleep(0.001)  # others overtake it
        return 2 * number

    assert list(in_threads(double, range(count), workers=3)) == list(range(0, 2 * count, 2))


def test_nothing_is_begun_for_a_reader_that_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """While its error is kept, as in a notebook."""
    begun = list[str]()

    def show(done: int, count: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "_decode", lambda path: (begun.append(path), time.sleep(0.01)))
    reading = Reading([], images=[ImageRow(str(number), number, None, "a.json", 1) for number in range(1000)])
    with pytest.raises(KeyboardInterrupt) as error:
        check._decode_all([reading], show, 2)
    before = len(begun)
    time.sleep(0.1)
    assert error.tb and len(begun) == before < 1000


def test_an_error_ends_the_work() -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda number: 1 / number, [1, 2, 0, 3] * 50))
