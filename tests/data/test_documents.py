"""Hostile JSON, XML and YAML: one line that names the file; a fault of a part costs that part alone."""

from __future__ import annotations

import gc
import json
import math
import os
import threading
from pathlib import Path

import pytest
from PIL import Image

from boxwright.cli import main
from boxwright.data.check import check
from boxwright.data.formats import DatasetError, Problem, open_dataset
from boxwright.data.formats.documents import read_json, read_lists, read_xml, read_yaml
from boxwright.data.formats.reading import without_collector
from boxwright.data.formats.text import is_name, is_path, listed, read_text
from boxwright.units import shown

OBJECT = "<object><name>cat</name><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>20</xmax><ymax>30</ymax></bndbox></object>"
ANNOTATION = f"<annotation><filename>a.png</filename>{OBJECT}</annotation>"


def images(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (50 * number, 0, 0)).save(folder / name)
    return folder


def errors(folder: Path) -> list[Problem]:
    return [problem for problem in check(folder) if problem.severity == "error"]


def refusal(error: pytest.ExceptionInfo[DatasetError], file: Path) -> str:
    """The message, which is one short line that begins with the file, to be mended as it says."""
    text = str(error.value)
    assert text.startswith(f"{file}: expected ") and "; " in text and "\n" not in text and len(text) < 500
    assert error.value.file == file
    return text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value: line 1 column 1"),
        ('{"a": [1,\n2', "Expecting ',' delimiter: line 2"),
        ("[" * 100_000, "it is nested too deeply"),
        ('{"a":' * 100_000, "it is nested too deeply"),
        ("1 2", "expected the end of the file"),
        ('"\0"', "Invalid control character"),
    ],
    ids=lambda text: text[:12],
)
def test_json_that_is_none(text: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(DatasetError) as caught:
        read_json(file, "answers")
    assert f"expected answers: {reason}" in refusal(caught, file)
    with pytest.raises(DatasetError) as caught:
        list(read_lists(file))
    refusal(caught, file)


def test_an_integer_of_thousands_of_digits_is_infinite(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1, 9], "b": -9}'.replace("9", "9" * 5000))
    assert read_json(tmp_path / "a.json") == {"a": [1, math.inf], "b": -math.inf}
    assert list(read_lists(tmp_path / "a.json")) == [("a", 1, 1), ("a", math.inf, 1)]


@pytest.mark.parametrize(
    ("part", "change"),
    [
        *(("images", {"file_name": name}) for name in ("a\0.png", "a\ud800.png", "a/" * 3000 + "a", "a" * 5000, ["a"])),
        *(("images", {"id": key}) for key in (math.inf, math.nan, True, None, [1], {}, "\ud800", "\0", "9" * 5000)),
        *(("annotations", {"bbox": box}) for box in ([1, 2, 3], [1, 2, 3, "x"], [1, 2, 3, True], {}, [2**70] * 4)),
        *(("annotations", {"image_id": key}) for key in (math.inf, [], {}, None, 2**70, "\ud800")),
        *(("annotations", {"iscrowd": flag}) for flag in (2, [], {}, "maybe", math.nan)),
        *(("annotations", {"category_id": key}) for key in (math.nan, [], None, -1)),
    ],
    ids=lambda value: value if isinstance(value, str) else ascii(value)[:30],
)  # fmt: skip
def test_an_entry_of_coco_that_is_wrong_costs_its_box_alone(part: str, change: dict, tmp_path: Path) -> None:
    images(tmp_path, "a.png", "b.png")
    content: dict[str, list] = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "annotations": [{"image_id": key, "category_id": 1, "bbox": [2, 3, 20, 21.5]} for key in (1, 2)],
        "categories": [{"id": 1, "name": "cat"}],
    }
    content[part][0] |= change
    text = json.dumps(content, indent=1).replace(json.dumps("9" * 5000), "9" * 5000)
    (tmp_path / "all.json").write_text(text)
    found = errors(tmp_path)
    assert found and all(p.file == str(tmp_path / "all.json") and p.line is not None for p in found)
    assert all(len(problem.message) < 400 and "\n" not in problem.message for problem in found)
    with pytest.warns(UserWarning, match="left out"):
        dataset = open_dataset(tmp_path, draw=False)["all"]
    assert dataset.boxes.tolist() == [[2, 3, 22, 24.5]] and dataset.path(int(dataset.owners()[0])).name == "b.png"


def test_a_key_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"images": [],\n[1]: [2]}')
    with pytest.raises(DatasetError, match="expected JSON: expected a key: line 2 column 1"):
        list(read_lists(tmp_path / "a.json"))


@pytest.mark.parametrize("name", ["\0", "\ud800", "c" * 5000, 2.5, ["cat"], None], ids=lambda name: ascii(name)[:9])
def test_a_category_that_has_no_name(name: object, tmp_path: Path) -> None:
    images(tmp_path, "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"image_id": 1, "category_id": key, "bbox": [2, 3, 20, 21.5]} for key in (1, 2)],
        "categories": [{"id": 1, "name": name}, {"id": 2, "name": "dog"}],
    }
    (tmp_path / "all.json").write_text(json.dumps(content))
    assert [problem.kind for problem in errors(tmp_path)] == ["malformed annotation", "unknown class"]
    with pytest.warns(UserWarning, match="left out"):
        assert open_dataset(tmp_path, draw=False)["all"].names == ("dog",)


@pytest.mark.parametrize("text", ["[" * 100_000, "[", '{"shapes": {}}', "9" * 5000, '{"shapes": [', ""], ids=len)
def test_a_json_of_labelme_that_is_none_costs_itself_alone(text: str, tmp_path: Path) -> None:
    images(tmp_path, "a.png", "b.png")
    shape = {"label": "cat", "shape_type": "rectangle", "points": [[2, 3], [20, 30]]}
    (tmp_path / "b.json").write_text(json.dumps({"shapes": [shape], "imagePath": "b.png"}))
    (tmp_path / "a.json").write_text(text)
    (problem,) = errors(tmp_path)
    assert (problem.kind, problem.file) == ("malformed annotation", str(tmp_path / "a.json"))
    with pytest.warns(UserWarning, match="left out 1 × malformed annotation"):
        assert open_dataset(tmp_path, draw=False)["all"].boxes.tolist() == [[2, 3, 20, 30]]


LAUGHS = '<!ENTITY a0 "ha">' + "".join(f'<!ENTITY a{k + 1} "{f"&a{k};" * 10}">' for k in range(9))
HOSTILE_XML = {
    "laughs": (f"<!DOCTYPE a [{LAUGHS}]><annotation>&a9;</annotation>", "entities of a file's own are not read"),
    "external": ('<!DOCTYPE a [<!ENTITY x SYSTEM "SECRET">]><annotation>&x;</annotation>', "entities of a file's own"),
    "parameter": ('<!DOCTYPE a [<!ENTITY % x SYSTEM "SECRET"> %x;]><annotation/>', "entities of a file's own"),
    "undefined": ("<annotation>&nbsp;</annotation>", "undefined entity"),
    "nul": ("<annotation>&#0;</annotation>", "reference to invalid character number"),
    "unknown": ('<?xml version="1.0" encoding="foo"?><annotation/>', "in an encoding of text, it declares foo"),
    "zip": ('<?xml version="1.0" encoding="zlib"?><annotation/>', "in an encoding of text, it declares zlib"),
    "escapes": ('<?xml version="1.0" encoding="unicode_escape"?><annotation/>', "it declares unicode_escape"),
    "empty": ("", "no element found"),
    "cut": (ANNOTATION[:-20], "unclosed token"),
}


@pytest.mark.parametrize("case", HOSTILE_XML)
def test_a_hostile_xml_costs_itself_alone(case: str, tmp_path: Path) -> None:
    images(tmp_path, "a.png", "b.png")
    (tmp_path / "secret.txt").write_text("secret")
    text, reason = HOSTILE_XML[case]
    (tmp_path / "a.xml").write_text(text.replace("SECRET", (tmp_path / "secret.txt").as_uri()))
    (tmp_path / "b.xml").write_text(ANNOTATION.replace("a.png", "b.png"))
    (problem,) = errors(tmp_path)
    assert (problem.kind, problem.file) == ("malformed annotation", str(tmp_path / "a.xml"))
    assert reason in problem.message and "secret" not in problem.message
    with pytest.warns(UserWarning, match="left out 1 × malformed annotation"):
        assert len(open_dataset(tmp_path, draw=False)["all"].boxes) == 1


def test_a_file_is_not_fetched_for_a_document_type(tmp_path: Path) -> None:
    """An external subset may define entities, so that one which is not known is no mistake; it stays empty."""
    (tmp_path / "a.dtd").write_text('<!ENTITY x "secret">')
    (tmp_path / "a.xml").write_text(f'<!DOCTYPE a SYSTEM "{(tmp_path / "a.dtd").as_uri()}"><a><b>&x;</b></a>')
    assert [(node.tag, node.text) for node in read_xml(tmp_path / "a.xml")] == [("a", ""), ("b", "")]


def test_xml_that_is_deep_or_long_is_read(tmp_path: Path) -> None:
    file = images(tmp_path, "a.png") / "a.xml"
    deep, text = "<part>" * 50_000 + "</part>" * 50_000, "long &amp; longer\n" * 50_000
    file.write_text(f"<annotation>{deep}\n<note>{text}</note>{OBJECT * 3}</annotation>")
    root, part, note, *objects = read_xml(file)
    assert (root.tag, root.children, part.line, note.line) == ("annotation", {}, 1, 2)
    assert note.text == text.replace("&amp;", "&").strip()
    assert [node.child("bndbox").text_of("ymax") for node in objects] == ["30"] * 3  # type: ignore[union-attr]
    assert [problem.kind for problem in check(tmp_path)] == ["duplicate box"]


def test_a_parser_of_xml_leaves_nothing_to_collect(tmp_path: Path) -> None:
    """While a dataset is read, nothing is collected, and there may be a hundred thousand files."""
    (tmp_path / "a.xml").write_text(ANNOTATION)
    list(read_xml(tmp_path / "a.xml"))
    gc.collect()
    with without_collector():
        list(read_xml(tmp_path / "a.xml"))
        assert gc.collect() == 0


HOSTILE_YAML = {
    "laughs": ("a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b]\ntrain: images", 2, "aliases are not read"),
    "itself": ("names: &a [*a]\ntrain: images", 1, "aliases are not read"),
    "many classes": ("train: images\nnc: 1000000000", 2, "at most 100,000 classes, got nc: 1000000000"),
    "very many classes": ("train: images\nnc: " + "9" * 5000, 2, "at most 100,000 classes, got nc: 999"),
    "brackets": ("names: " + "[" * 5000, 1, "brackets are nested too deeply"),
    "dashes": ("names:\n  " + "- " * 5000 + "a", None, "nested too deeply"),
    "key": ("? [a]\n: b\ntrain: images", 1, "unhashable key"),
    "control": ("names: [\0]\ntrain: images", None, "special characters are not allowed"),
    "no character": ('names: ["\\U00110000"]\ntrain: images', None, "chr() arg not in range"),
    "half": ('names: ["\\ud800"]\ntrain: images', 1, "expected `names` as a list"),
    "nul": ('names: ["\\0"]\ntrain: images', 1, "expected `names` as a list"),
    "lists": ("names: [[cat]]\ntrain: images", 1, "expected `names` as a list"),
    "one index": ("names: {0: cat, 00: dog}\ntrain: images", 1, "expected `names` as a list"),
    "two documents": ("names: [cat]\n---\ntrain: images", 2, "found another document"),
    "nothing": ('names: [cat]\ntrain: "\\0"', None, "expected `train`, `val` or `test` to name existing folders"),
    "mapping": ("names: [cat]\ntrain: {a: b}", None, "train names"),
    "everything": ("names: [cat]\ntrain: /", None, "to name existing folders"),
    "long": ("names: [cat]\ntrain: images\n" + "# " * 300_000, None, "expected YAML of a dataset, at most 524,288"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE_YAML)
def test_a_hostile_yaml_is_one_line_with_its_name(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images(tmp_path, "images/a.png")
    text, line, reason = HOSTILE_YAML[case]
    file = tmp_path / "data.yaml"
    file.write_text(text)
    with pytest.raises(DatasetError) as caught:
        open_dataset(file)
    assert reason in refusal(caught, file) and caught.value.line == line
    assert main(["data", "show", str(file), "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().err
    assert printed == f"boxwright data show: {caught.value}\n"


def test_tags_of_yaml_do_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"names: !!python/object/apply:os.mkdir [{tmp_path / 'made'}]\ntrain: !!int x")
    assert read_yaml(tmp_path / "a.yaml") == {"names": [str(tmp_path / "made")], "train": "x"}
    assert not (tmp_path / "made").exists()


def test_a_pipe_and_a_device_are_no_text(tmp_path: Path) -> None:
    images(tmp_path, "images/a.png", "images/b.png", "images/c.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 .5 .5 .2 .2\n")
    os.mkfifo(tmp_path / "labels" / "b.txt")
    (tmp_path / "labels" / "c.txt").symlink_to("/dev/zero")
    (tmp_path / "classes.txt").write_text("cat\n")
    found: list[Problem] = []
    thread = threading.Thread(target=lambda: found.extend(errors(tmp_path)), daemon=True)  # it would wait for ever
    thread.start()
    thread.join(60)
    assert [(Path(problem.file).name, problem.message) for problem in found] == [
        (name, "expected text, it cannot be read (it is no regular file)") for name in ("b.txt", "c.txt")
    ]


@pytest.mark.parametrize(
    "line", ["0 .5 .5 .2 \0", "\0" * 50, "0 " + ".5 " * 400_000, "0 .5 .5 .2 " + "9" * 5000, "猫" * 5000]
)
def test_a_line_of_a_label_file_that_is_none(line: str, tmp_path: Path) -> None:
    images(tmp_path, "images/a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text(f"{line}\n0 .5 .5 .2 .2\n")
    (tmp_path / "classes.txt").write_text("cat\n")
    (problem,) = errors(tmp_path)
    assert (problem.file, problem.line) == (str(tmp_path / "labels" / "a.txt"), 1) and len(problem.message) < 300
    with pytest.warns(UserWarning, match="left out 1"):
        assert len(open_dataset(tmp_path, draw=False)["all"].boxes) == 1


def test_names_of_lists_that_are_no_paths(tmp_path: Path) -> None:
    images(tmp_path, "images/a.png")
    (tmp_path / "data.yaml").write_text("names: [cat]\ntrain: train.txt")
    (tmp_path / "train.txt").write_text("a/" * 3000 + "\n\0\nimages/a.png\n")
    assert [(p.kind, p.line) for p in errors(tmp_path)] == [("malformed annotation", 1), ("malformed annotation", 2)]


def test_what_the_terminal_would_obey_is_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images(tmp_path, "a.png")
    name = "\x1b[2Jc\u202eat\r"
    content = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": f"{name}.png"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [2, 3, 20, 2000]}],
        "categories": [{"id": 1, "name": name}],
    }
    (tmp_path / "all.json").write_text(json.dumps(content))
    escaped = r"\x1b[2Jc\u202eat\r"
    assert main(["data", "check", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert f"{escaped}.png" in printed and f"of class {escaped} " in printed
    with pytest.warns(UserWarning, match="left out"):
        assert main(["data", "stats", str(tmp_path)]) == 0
    printed += capsys.readouterr().out
    assert not any(letter in printed for letter in "\x1b\u202e\r")
    assert main(["data", "show", str(tmp_path / f"{name}.json")]) == 1
    assert f"{escaped}.json" in capsys.readouterr().err


def test_values_in_messages_are_short() -> None:
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    assert shown(deep) == "a list" and shown({"a": "\ud800"}) == '{"a": "\\ud800"}'
    assert shown("x" * 500) == "x" * 117 + "..." and shown(10**5000) == "a int"
    assert shown("a\n\x1b") == r"a\n\x1b"
    assert listed(["a", "b"]) == "a, b" and listed(range(1000), 2) == "0, 1 … (1,000 in all)"


def test_names_and_paths() -> None:
    assert all(map(is_name, ("cat", "猫", "a b", "x" * 1000, "\x1b")))
    assert not any(map(is_name, ("", "\0", "\ud800", "x" * 1001, 3, None, ["cat"])))
    assert is_path("/a/b.png") and is_path("C:\\a") and is_path("x" * 4096)
    assert not any(map(is_path, ("a/" * 65, "a\0b", "x" * 4097, 3)))


def test_text_that_may_not_be_read_names_its_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gone\.txt: expected text, it cannot be read \(No such file"):
        read_text(tmp_path / "gone.txt")
