"""Lines of YOLO label files: what their columns mean is judged by all lines of a split."""

from __future__ import annotations

import math

import pytest

from boxwright.data.formats.yolo_lines import Columns, Line, Unread, parse

CAT = (0.0625, 0.1667, 0.4375, 0.5833)  # of the line `0 0.25 0.375 0.375 0.4166`
DOG = (0.5, 0.25, 0.75, 0.75)  # of the line `1 0.625 0.5 0.25 0.5`
TRIANGLE = "0 0.25 0.1 0.5 0.9 0.1 0.5"  # around it: 0.1, 0.1, 0.5, 0.9


def columns_of(*texts: str, keypoints: bool = False) -> tuple[Columns, list[Line]]:
    lines = [line for number, text in enumerate(texts, 1) if isinstance(line := parse(text, 0, "a.txt", number), Line)]
    assert len(lines) == len(texts)
    return Columns(lines, keypoints), lines


def read(*texts: str, keypoints: bool = False) -> list[tuple[float, ...] | str]:
    """The box of each line, rounded, or why it has none."""
    columns, lines = columns_of(*texts, keypoints=keypoints)
    boxes = [columns.box(line) for line in lines]
    return [b.reason if isinstance(b, Unread) else tuple(round(v, 4) for v in b) for b in boxes]


@pytest.mark.parametrize(
    ("cat", "dog", "extra"),
    [
        ("0.91", "0.83", "a confidence"),
        ("0.91 1", "0.83 2", "a confidence and a track id"),
        ("0.2 0.3 2 0.3 0.4 2", "0.6 0.5 1 0 0 0", "key points with their visibility"),
        ("0.2 0.3 2", "0.6 0.5 1", "key points with their visibility"),
    ],
)
def test_columns_after_a_box(cat: str, dog: str, extra: str) -> None:
    texts = f"0 0.25 0.375 0.375 0.4166 {cat}", f"1 0.625 0.5 0.25 0.5 {dog}"
    assert read(*texts) == [CAT, DOG]
    (group,) = columns_of(*texts)[0].unused
    assert len(group) == 2 and group[0].extra == extra
    assert read(*texts, "1 0.625 0.5 0.25 0.5")[2] == DOG, "beside boxes without further columns"


def test_a_confidence_before_the_box_is_refused() -> None:
    before = "0 0.91 0.25 0.375 0.375 0.4166", "1 0.3 0.625 0.5 0.25 0.5", "1 0.8 0.2 0.2 0.1 0.2"
    first, *others = map(str, read(*before))
    assert first.endswith(": a confidence before the box?")
    assert all(reason.endswith(": a confidence after the box, or before it?") for reason in others)
    after = "0 0.375 0.4166 0.375 0.4166 0.7", "1 0.2 0.2 0.1 0.2 0.15"  # the second one fits in both ways
    assert read(*after) == [(0.1875, 0.2083, 0.5625, 0.6249), (0.15, 0.1, 0.25, 0.3)]


def test_true_polygons_stay_polygons() -> None:
    on_the_border = "0 0.25 0.1 0.5 0.9 0.1 1"
    pentagon = "0 0.1 0.1 0.2 0.1 0.3 0.2 0.2 0.3 0.1 0.3"
    assert read(TRIANGLE, on_the_border, pentagon) == [
        (0.1, 0.1, 0.5, 0.9),
        (0.1, 0.1, 0.5, 1.0),
        (0.1, 0.1, 0.3, 0.3),
    ]
    assert read("0 0.1 0.1 0.2 0.1 0.3 0.2 1 0.3 0.1 1", TRIANGLE)[0] == (0.1, 0.1, 1.0, 1.0)
    outside = "0 -0.1 0.1 1.3 0.1 0.5 0.7"
    assert read(outside) == [(-0.1, 0.1, 1.3, 0.7)], "it is clipped like a box"


def test_a_doubt_is_refused_with_the_likely_cause() -> None:
    (reason,) = read("0 0.25 0.1 0.5 0.9 0.1 1")
    assert "a confidence and a track id after the box?" in reason
    mixed = read("0 0.25 0.375 0.375 0.4166 0.91 7", "0 0.25 0.375 0.375 0.4166 0.91 1", TRIANGLE)
    assert ["a track id after the box?" in str(reason) for reason in mixed] == [True, True, False]
    assert mixed[2] == (0.1, 0.1, 0.5, 0.9)


def test_many_equal_coincidences_are_none() -> None:
    track = "0 0.25 0.375 0.375 0.4166 0.91 1"
    assert read(*[track] * 10) == [CAT] * 10
    visible = " ".join(["0.2 0.3 1"] * 10)  # 34 numbers, which could be 17 points
    assert read(f"0 0.25 0.375 0.375 0.4166 {visible}") == [CAT]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("0 1952 0.1 0.1 0.4 0.1 0.4 0.6", "an instance id before a polygon?"),
        ("0 0.5 0.5 0.1 0.1 45", "a confidence, an angle or a track id"),
        ("0 0.1 0.1 0.1 0.4 0.1 0.4 0.6", "an odd number of coordinates"),
        ("0 10 10 10 40 60 40 60 10", "pixels?"),
        ("0 0.5 0.5 0.1 0.1 0.9", "a confidence after the box, or before it?"),
    ],
)
def test_a_line_that_is_neither(text: str, cause: str) -> None:
    reason = read(text, TRIANGLE)[0]
    assert f"got `{text}`" in str(reason) and cause in str(reason)
    assert read(text, TRIANGLE)[1] == (0.1, 0.1, 0.5, 0.9)


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("0 40 45 60 50", "pixels"),
        ("0 250.5 45 60 50", "pixels"),
        ("0 25 37.5 37.5 41.66", "per cent of the image, or pixels"),
    ],
)
def test_pixels_and_per_cent(text: str, unit: str) -> None:
    (reason,) = read(text)
    assert reason == f"expected shares of the image, 0 to 1, got `{text}`: such numbers look like {unit}"


def test_if_most_boxes_are_in_pixels_all_are() -> None:
    small = "0 1 1 1.5 1.5"
    assert all("look like" in str(reason) for reason in read(small, "0 40 45 60 50", "0 30 30 9 9"))
    boxes = read("0 40 45 60 50", "0 0.625 0.5 0.25 0.5", "1 0.625 0.5 0.25 0.5")
    assert "look like pixels" in str(boxes[0]) and boxes[1:] == [DOG, DOG]
    assert read("0 1.02 0.5 0.25 0.5") == [(0.895, 0.25, 1.145, 0.75)], "it reaches outside, and is clipped"


def test_where_all_lines_have_key_points() -> None:
    assert read("0 0.25 0.375 0.375 0.4166 0.1 0.1", "1 0.625 0.5 0.25 0.5 0.3", keypoints=True) == [CAT, DOG]


def test_numbers_that_are_not_finite_are_left_to_the_check_of_boxes() -> None:
    columns, lines = columns_of("0 nan 0.5 0.1 0.1", "0 inf 0.5 0.1 0.1", "0 0.1 0.1 nan 0.4 0.1 0.4")
    for line in lines:
        box = columns.box(line)
        assert not isinstance(box, Unread) and not all(map(math.isfinite, box))
