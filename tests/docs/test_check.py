"""docs/check.py, and the pages of docs/ against the code and the measurements."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import pytest

from boxwright.cli import COMMANDS, main
from boxwright.detectors import DETECTORS

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("docs_check", ROOT / "docs" / "check.py")
assert _spec is not None and _spec.loader is not None
check = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(check)

SOURCE = '''\
LIMIT = 3


@decorated
class Box:
    side: int = 1

    def area(self):
        """Square pixels."""
        if self.side:
            squared = (
                self.side**2
            )
        return squared


def area():
    return 0
'''

NUMBERS = {
    "speed": {
        "columns": {"ap": "AP", "time": "ms per image"},
        "how": "Printed by `x`.",
        "rows": {"ssd": {"ap": ".50", "time": 7}, "ssd --lite": {"ap": None}, "fcos": {}},
    }
}


@pytest.mark.parametrize(
    ("names", "quoted"),
    [
        ("LIMIT", "LIMIT = 3\n"),
        ("Box.side", "side: int = 1\n"),
        ("area", "def area():\n    return 0\n"),
        ("Box.area.squared", "squared = (\n    self.side**2\n)\n"),
        ("area, LIMIT", "def area():\n    return 0\n\nLIMIT = 3\n"),
    ],
)
def test_a_quotation_is_found_by_its_name(names: str, quoted: str) -> None:
    assert check.quotation(SOURCE, names) == quoted


def test_a_quotation_begins_with_its_decorators() -> None:
    lines = check.quotation(SOURCE, "Box").splitlines()
    assert (lines[0], lines[-1]) == ("@decorated", "        return squared")


@pytest.mark.parametrize("names", ["Box.volume", "Nothing", "Box.area.area", "LIMIT, nothing"])
def test_a_missing_name_is_named(names: str) -> None:
    with pytest.raises(LookupError, match=names.split(".")[-1].split(", ")[-1]):
        check.quotation(SOURCE, names)


def test_a_table_has_the_given_rows_and_how_it_was_measured() -> None:
    assert check.table(NUMBERS, "speed", ["ssd --lite", "ssd"]) == (
        "|  | AP | ms per image |\n| --- | ---: | ---: |\n| ssd --lite |  |  |\n| ssd | .50 | 7 |\n\nPrinted by `x`.\n"
    )


def test_a_table_without_numbers_is_marked_as_not_measured() -> None:
    assert check.table(NUMBERS, "speed", ["fcos"]) == "Not measured yet.\n"


@pytest.mark.parametrize(("table", "rows"), [("size", []), ("speed", ["yolo"])])
def test_a_missing_table_or_row_is_named(table: str, rows: list[str]) -> None:
    with pytest.raises(LookupError, match="yolo" if rows else "size"):
        check.table(NUMBERS, table, rows)


def test_filling_twice_changes_nothing_and_the_name_of_a_row_may_have_spaces() -> None:
    page = (
        'Text.\n\n```python title="src/boxwright/types.py: Size"\nold\n```\n\n'
        '<!-- numbers speed "ssd --lite" ssd -->\n<!-- end -->\n'
    )
    filled = check.fill(page, NUMBERS)
    assert "class Size(NamedTuple):" in filled and "| ssd | .50 | 7 |" in filled and "old" not in filled
    assert check.fill(filled, NUMBERS) == filled


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('```python title="src/boxwright/types.py: Size"\nold\n```\n', ":1 differs from its source"),
        ('\n```python title="src/boxwright/types.py: Sice"\n```\n', ":2 src/boxwright/types.py: there is no 'Sice'"),
        ('```python title="src/boxwright/nouns.py: Size"\n```\n', "there is no file src/boxwright/nouns.py"),
        ('```python title="src/boxwright/types.py"\n```\n', "not written as docs/check.py describes"),
        ("<!-- numbers speed ssd -->\n\nold\n\n<!-- end -->\n", "differs from its source"),
        ("<!-- numbers speed ssd -->\n", "is not closed"),
        ("![An image](images/none.png)\n", "links to images/none.png"),
        ("[a page](none.md#part)\n", "links to none.md#part"),
    ],
)
def test_each_problem_of_a_page_is_reported(text: str, problem: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(check, "ROOT", tmp_path)
    (tmp_path / "src" / "boxwright").mkdir(parents=True)
    (tmp_path / "src" / "boxwright" / "types.py").write_text("class Size:\n    pass\n")
    page = tmp_path / "page.md"
    page.write_text(text)
    assert [problem in message for message in check.check(page, NUMBERS)] == [True]


def test_web_addresses_anchors_and_code_are_no_files() -> None:
    text = "[web](https://example.org/a) [here](#part) `a[0](b)`\n\n```\n[x](y)\n```\n\n[page](a.md)\n"
    assert check.links(text) == ["#part", "a.md"]


def test_the_pages_are_correct() -> None:
    numbers = check.measurements()
    problems = [problem for page in check.pages() for problem in check.check(page, numbers)]
    assert problems + list(check.unused_images()) == []


def test_every_detector_has_a_page_and_a_row_in_the_race() -> None:
    learn = (page for page in check.pages() if page.parent.name == "learn")
    words = [command.split()[2] for command in commands(learn) if command.startswith("boxwright train")]
    assert [word for word in dict.fromkeys(words) if not word.startswith("--")] == list(DETECTORS)
    rows = check.measurements()["bccd"]["rows"]
    assert list(dict.fromkeys(row.split()[0] for row in rows)) == list(DETECTORS)


def commands(pages: Iterable[Path]) -> list[str]:
    """The commands on the pages, each once. Those with --plugin need a file of the page: `test_guide.py` runs them."""
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    return list(dict.fromkeys(re.findall(r"^    (boxwright [^#\n]*[^#\s])", text, re.M)))


COMMANDS_OF_PAGES = [c for c in commands([*check.pages(), ROOT / "README.md"]) if "--plugin" not in c]


@pytest.mark.parametrize("command", COMMANDS_OF_PAGES)
def test_the_commands_on_the_pages_are_parsed(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(command)[1:]
    name = next(name for name in COMMANDS if words[: len(name.split())] == name.split())
    kind = getattr(import_module(COMMANDS[name].module), COMMANDS[name].name)
    monkeypatch.setattr(kind, "run", lambda options: 0)
    if hasattr(kind, "defaults"):
        monkeypatch.setattr(kind, "defaults", lambda options: kind())  # these read a file of the user
    assert main(words) == 0


def test_pages_are_in_the_menu_and_images_are_small() -> None:
    menu = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    for page in check.pages():
        assert f'"{page.relative_to(check.DOCS).as_posix()}"' in menu
    assert sum(image.stat().st_size for image in (ROOT / "docs").rglob("images/*")) < 1.5e6
