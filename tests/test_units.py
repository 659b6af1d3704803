"""Numbers as formatted in tables and plots."""

from __future__ import annotations

import math

import pytest

from boxwright.units import Unit, between, counted, digits, fraction, signed


@pytest.mark.parametrize(
    ("times", "name", "written"),
    [
        ([7200.0, 90.0], "hours", ["2.00", "0.0250"]),
        ([7199.0, 12.0], "minutes", ["120", "0.200"]),
        ([119.0, 0.25], "seconds", ["119", "0.250"]),
        ([0.9994, 0.0], "milliseconds", ["999", "0"]),
        ([math.nan, 3.0], "seconds", ["–", "3.00"]),
        ([math.nan], "milliseconds", ["–"]),
        ([], "milliseconds", []),
    ],
)
def test_the_longest_time_chooses_the_unit_for_all(times: list[float], name: str, written: list[str]):
    unit = Unit.of(times)
    assert unit.name == name
    assert [unit.write(time) for time in times] == written


@pytest.mark.parametrize(
    ("value", "written"),
    [(12345.6, "12346"), (999.6, "1000"), (99.96, "100"), (84.0, "84.0"), (0.01234, "0.0123"), (math.inf, "–")],
)
def test_three_significant_digits(value: float, written: str):
    assert digits(value) == written


def test_a_fraction_has_three_decimals():
    assert [fraction(value) for value in (0.5, 1.0, math.nan)] == ["0.500", "1.000", "–"]


def test_a_difference_has_its_sign():
    assert [signed(value) for value in (0.0123, -0.5, -0.0001, math.nan)] == ["+0.012", "-0.500", "+0.000", "–"]


def test_an_interval_is_in_brackets_where_it_is_known():
    assert between(0.1, 0.25) == "[0.100, 0.250]"
    assert between(-0.1, 0.25, signed) == "[-0.100, +0.250]"
    assert between(0.1, math.nan) == ""


def test_counts():
    assert [counted(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
