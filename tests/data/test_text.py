"""Encodings, flags, class lists and paths of other machines, as people and tools write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from boxwright.data.formats import DatasetError
from boxwright.data.formats.reading import Problem
from boxwright.data.formats.text import class_list, find_path, flag, names_from_file, read_text, size_of
from boxwright.types import Size

TEXT = "café 猫\nдом\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_is_read_by_its_byte_order_mark(encoding: str, tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_text(TEXT, encoding)
    assert read_text(file) == TEXT
    file.write_bytes("\ufeffcat\r\n".encode("utf-16-be"))
    assert read_text(file) == "cat\n"


@pytest.mark.parametrize(
    ("text", "encoding", "looks_like"),
    [("狗", "gbk", "GBK"), ("犬", "shift_jis", "Shift JIS"), ("貓\n狗", "big5", "Big5"), ("é", "latin-1", "CP1252")],
)
def test_other_text_is_an_error_with_its_file_byte_and_likely_encoding(
    text: str, encoding: str, looks_like: str, tmp_path: Path
) -> None:
    file = tmp_path / "classes.txt"
    data = ("cat\n" + text).encode(encoding)
    expected = f"expected text in UTF-8, got the byte 0x{data[4]:02x} at position 4; "
    file.write_bytes(data)
    with pytest.raises(DatasetError) as caught:
        read_text(file)
    assert str(caught.value) == f"{file}: {expected}it looks like {looks_like}; save the file as UTF-8"
    assert (caught.value.file, caught.value.line) == (file, 2)


@pytest.mark.parametrize(("data", "encoding"), [(b"\xff\xfea", "UTF-16"), (b"\xef\xbb\xbf\xe9", "UTF-8-SIG")])
def test_a_byte_order_mark_that_is_wrong(data: bytes, encoding: str, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes(data)
    with pytest.raises(DatasetError, match=f"expected text in {encoding}, as its first bytes say, got the byte"):
        read_text(tmp_path / "classes.txt")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(value, False) for value in (None, 0, False, 0.0, "", " ", "0", "False", "no", "0.0")]
    + [(value, True) for value in (1, True, 1.0, "1", " 1 ", "true", "YES", "1.0")]
    + [(value, None) for value in (2, -1, 0.5, float("nan"), "maybe", "2", [], {})],
)
def test_flags(value: object, expected: bool | None) -> None:
    assert flag(value) is expected


def test_the_position_in_a_class_list_is_the_index() -> None:
    assert class_list(["cat", " dog "]) == (["cat", "dog"], [])
    names, wrong = class_list(["cat", "", "dog", "dog (2)", "dog", "1"])
    assert names == ["cat", "1 (2)", "dog", "dog (2)", "dog (3)", "1"]
    assert wrong == [
        (1, "class 1 has no name; it is `1 (2)` here"),
        (4, "class 4 is called dog as class 2 is; it is `dog (3)` here"),
    ]
    assert class_list(["cat", "", ""])[0] == ["cat", "1", "2"]


def test_of_two_class_lists_that_differ_one_is_used_and_told(tmp_path: Path) -> None:
    problems = list[Problem]()
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    (tmp_path / "classes.txt").write_text("cat\r\ndog")
    assert names_from_file(tmp_path, problems) == ["cat", "dog"] and not problems
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    assert names_from_file(tmp_path, problems) == ["cat", "dog"]
    assert [(p.kind, p.file) for p in problems] == [("ambiguous class", str(tmp_path / "classes.txt"))]
    (tmp_path / "labels.txt").write_bytes("狗\n猫\n".encode("gbk"))
    assert names_from_file(tmp_path, problems) == ["dog", "cat"]


def test_class_lists_in_files(tmp_path: Path) -> None:
    file, problems = tmp_path / "classes.txt", list[Problem]()
    assert names_from_file(tmp_path, problems) == []
    file.write_text("cat\n\ndog\ndog\n\n \n", "utf-16")
    assert names_from_file(tmp_path, problems, by_index=False) == ["cat", "dog"] and not problems
    assert names_from_file(tmp_path, problems) == ["cat", "1", "dog", "dog (2)"]
    assert [(p.kind, p.severity, p.file, p.line) for p in problems] == [
        ("ambiguous class", "warning", str(file), line) for line in (2, 4)
    ]
    problems.clear()
    file.write_bytes("狗\n猫\n".encode("gbk"))
    assert names_from_file(tmp_path, problems) == []
    what = "unreadable list: expected text in UTF-8, got the byte 0xb9 at position 0; it looks like GBK; save"
    assert str(problems[0]) == f"{file}:1: error: {what} the file as UTF-8"


@pytest.mark.parametrize(
    "value",
    [
        "images/train/a.jpg",
        "./images/train/a.jpg",
        "images\\train\\a.jpg",
        "D:\\ml\\animals\\images\\train\\a.jpg",
        "/content/animals/images/train/a.jpg",
        "data/images/train/a.jpg",
        "../animals/images/train/a.jpg",
    ],
)
def test_paths_of_other_machines(value: str) -> None:
    there = {"/here/images/train/a.jpg", "/here/a.jpg", "/list/train/a.jpg"}
    assert find_path(value, ["/list", Path("/here")], there.__contains__) in (
        f"/here/{value}",
        "/here/images/train/a.jpg",
    )


def test_paths_that_mean_nothing_here() -> None:
    assert find_path("", ["/here"], {"/here"}.__contains__) is None
    assert find_path("train/b.jpg", ["/here"], {"/here/a.jpg"}.__contains__) is None
    assert find_path("D:\\x\\images", ["/here"], {"/here/images"}.__contains__) is None
    assert find_path("images", ["/here"], {"/here/images"}.__contains__) == "/here/images"
    assert find_path("/x/a.jpg", ["/here"], {"/x/a.jpg", "/here/a.jpg"}.__contains__) == "/x/a.jpg"


@pytest.mark.parametrize("sides", [(30, 40), (30.0, 40.9), ("30", " 40.0")])
def test_a_size(sides: tuple[object, object]) -> None:
    assert size_of(*sides) == Size(30, 40)


@pytest.mark.parametrize("side", [None, "", 0, -1, 0.5, "x", float("nan"), "inf", 2**31, 10**400, True, [3]])
def test_no_size(side: object) -> None:
    assert size_of(30, side) is None and size_of(side, 30) is None
