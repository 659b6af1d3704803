"""Tables of the terminal."""

from __future__ import annotations

from boxwright.cli.table import table


def test_columns_are_aligned_and_numbers_to_the_right():
    rows = [("cat", 5, "90.0%", -1), ("[dog]", 10, "", "–")]
    assert table(("class", "images", "recall", "left"), rows).splitlines() == [
        "class  images  recall  left",
        "cat         5   90.0%    -1",
        "[dog]      10             –",
    ]


def test_wide_characters_take_two_cells():
    assert table(("class", "images"), [("日本", 3), ("é", 12)]).splitlines() == [
        "class  images",
        "日本        3",
        "é          12",
    ]


def test_long_lines_stay_whole_and_no_rows_are_a_head():
    path = "photos/" * 100
    assert table(("image", "class"), [(path, "cat")]).splitlines()[1] == f"{path}  cat"
    assert table(("image", "class"), []) == "image  class"
