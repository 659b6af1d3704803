"""Tables of the terminal."""

from __future__ import annotations

from boxwright.cli.table import table, wrap


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


def test_in_a_terminal_names_are_shortened_and_then_columns_left_out():
    rows = [("faster_rcnn-timm_mobilenetv3-320", 5, 7, 9), ("ssd", 50, 70, 90)]
    head, spare = ("cell", "one", "two", "three"), ("two", "one")
    assert table(head, rows, 60, spare) == table(head, rows)
    assert table(head, rows, 44, spare).splitlines() == [
        "cell                         one  two  three",
        "faster_rcnn-t…bilenetv3-320    5    7      9",
        "ssd                           50   70     90",
    ]
    assert table(head, rows, 38, spare).splitlines()[0] == "cell                        one  three"
    assert table(head, rows, 20, spare).splitlines() == [
        "cell                      three",
        "faster_rcnn…ilenetv3-320      9",
        "ssd                          90",
    ]


def test_sentences_are_wrapped_in_a_terminal_only():
    assert wrap("one two three", 8) == "one two\n  three"
    assert wrap("one two three", 8, " ") == " one two\n   three"
    assert wrap("one two three", None, " ") == " one two three"


def test_long_lines_stay_whole_and_no_rows_are_a_head():
    path = "photos/" * 100
    assert table(("image", "class"), [(path, "cat")]).splitlines()[1] == f"{path}  cat"
    assert table(("image", "class"), []) == "image  class"
