"""Tables of the terminal."""

from __future__ import annotations

from boxwright.cli.table import left_out, table
from boxwright.terminal import wrap


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


def test_names_stay_whole_where_texts_are_cut_or_columns_left_out():
    head, name = ("model", "classes", "MB"), "runs/a-folder-of-a-long-name/faster_rcnn"
    rows = [(name, "cat, dog, person, horse, sheep, cow", 14), ("voc9", "cat", 9)]
    shown = table(head, rows, 70, ("classes", "MB"), "classes", whole=True)
    assert shown.splitlines() == [
        f"{'model':40}  {'classes':24}  MB",
        f"{name}  cat, dog, person, horse…  14",
        f"{'voc9':40}  {'cat':24}   9",
    ]
    shown = table(head, rows, 45, ("classes", "MB"), "classes", whole=True)
    assert shown.splitlines() == [f"{'model':40}  MB", f"{name}  14", f"{'voc9':40}   9"]
    assert left_out(shown, head) == ["classes"] and left_out(table(head, rows), head) == []


def test_parts_of_a_line_stay_together():
    line = "faster_rcnn-320, seed 0: epoch 1/6 · loss 1.234 · AP 0.123 AP50 0.234 · 12 s"
    assert wrap(line, 60) == "faster_rcnn-320, seed 0: epoch 1/6 · loss 1.234 ·\n  AP 0.123 AP50 0.234 · 12 s"
    assert wrap(line, None) == line


def test_sentences_are_wrapped_in_a_terminal_only():
    assert wrap("one two three", 8) == "one two\n  three"
    assert wrap("one two three", 8, " ") == " one two\n   three"
    assert wrap("one two three", None, " ") == " one two three"


def test_long_lines_stay_whole_and_no_rows_are_a_head():
    path = "photos/" * 100
    assert table(("image", "class"), [(path, "cat")]).splitlines()[1] == f"{path}  cat"
    assert table(("image", "class"), []) == "image  class"
