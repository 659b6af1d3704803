"""Imports point down only: docs/architecture.md's rows, held over the syntax tree of every file."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "boxwright"

ROWS = (
    ("api",),
    ("cli",),
    ("bench",),
    ("zoo",),
    ("train",),
    ("measure",),
    ("predict",),
    ("checkpoint",),
    ("detectors",),
    ("assign", "losses", "layers", "backbones", "proposals", "metrics", "data", "draw"),
    ("boxes",),
    (
        "types",
        "version",
        "compiled",
        "install",
        "device",
        "files",
        "heap",
        "lock",
        "ops",
        "plugins",
        "progress",
        "terminal",
        "typed",
        "units",
        "untrusted",
    ),
)

STRANGERS = ("data", "metrics"), ("assign", "losses", "layers", "backbones", "proposals")
"""A dataset or a metric works with anybody's model, and a model knows neither."""

ONLY = {
    "matplotlib": {"draw/plots.py", "bench/report/plots.py", "bench/report/lineage.py"},
    "hotcoco": {"metrics/coco.py", "data/formats/coco_fields.py"},
    "numba": {"compiled.py"},
}
LAZY = ("timm", "torchvision", "hotcoco", "tensorboard", "huggingface_hub", "ray")
"""Slow or optional: imported where they are used, never with the file."""


class Import(NamedTuple):
    file: str
    line: int
    module: str
    when: Literal["file", "call", "types"]
    """With the file, when a function is called, or for a type checker only."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def imports_of(path: Path) -> Iterator[Import]:
    file = path.relative_to(SOURCE).as_posix()

    def visit(node: ast.AST, when: Literal["file", "call", "types"]) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(file, node.lineno, alias.name, when) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} imports relatively; write the module out"
            module = str(node.module)
            for alias in node.names:  # `from boxwright import zoo` imports boxwright.zoo
                inner = f"{module}.{alias.name}"
                yield Import(file, node.lineno, inner if inner in MODULES else module, when)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            when = "types"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            when = "call"
        for child in ast.iter_child_nodes(node):
            yield from visit(child, when)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), "file")


def module_of(file: str) -> str:
    """boxwright.data of data/__init__.py, boxwright.data.image of data/image.py."""
    return f"boxwright.{file}".replace("/", ".").removesuffix(".py").removesuffix(".__init__")


FILES = {path.relative_to(SOURCE).as_posix(): path for path in sorted(SOURCE.rglob("*.py"))}
MODULES = {module_of(file) for file in FILES}
IMPORTS = [found for path in FILES.values() for found in imports_of(path)]


def package_of(module: str) -> str:
    """The room: "predict" of boxwright.predict.predictor; "" of boxwright itself."""
    name = module.removeprefix("boxwright").strip(".").partition(".")[0]
    return "" if name == "__main__" else name


def row_of(package: str) -> int:
    return next(height for height, row in enumerate(reversed(ROWS)) if package in row)


def test_every_package_has_its_row():
    packages = [package_of(module) for module in MODULES]
    assert sorted({*packages} - {""}) == sorted(package for row in ROWS for package in row)
    assert len(IMPORTS) > 100


INSIDE = [(package_of(module_of(found.file)), package_of(found.module), found) for found in IMPORTS
          if found.module in MODULES]  # fmt: skip
"""The imports between our own files: the importing room, the imported one, and the line."""


def test_imports_point_down():
    for above, below, found in INSIDE:
        if above not in ("", below):
            assert below != "", f"{found}, which imports all of boxwright"
            assert row_of(above) >= row_of(below), f"{found}, which points up"


def test_rooms_import_each_other_in_no_circle():
    """Imports in functions and for type checkers count here: they are a dependency between rooms like any other."""
    needs: dict[str, set[str]] = defaultdict(set)
    for above, below, _ in INSIDE:
        if above not in ("", below):
            needs[above].add(below)
    circle = circle_of(needs)
    assert not circle, f"a circle of rooms: {' -> '.join(circle)}"


def test_files_import_each_other_in_no_circle():
    needs: dict[str, set[str]] = defaultdict(set)
    for _, _, found in INSIDE:
        if found.when == "file" and found.module != module_of(found.file):
            needs[module_of(found.file)].add(found.module)
    circle = circle_of(needs)
    assert not circle, f"a circle of imports: {' -> '.join(circle)}"


def circle_of(needs: Mapping[str, Iterable[str]]) -> list[str]:
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_a_circle_is_found():
    assert circle_of({"a": ["b"], "b": ["c"], "c": []}) == []
    assert sorted(circle_of({"a": ["b"], "b": ["c"], "c": ["b"]})) == ["b", "b", "c"]


def test_data_and_metrics_and_the_parts_of_a_model_are_strangers():
    for above, below, found in INSIDE:
        for one, other in (STRANGERS, STRANGERS[::-1]):
            assert not (above in one and below in other), f"{found}; {above} and {below} do not import each other"


@pytest.mark.parametrize("library", ONLY)
def test_a_library_that_only_one_file_knows(library: str):
    users = {found.file for found in IMPORTS if found.module.split(".")[0] == library}
    assert users == ONLY[library]


def test_what_is_slow_is_imported_where_it_is_used():
    for found in IMPORTS:
        assert not (found.when == "file" and found.module.split(".")[0] in LAZY), f"{found} with the file"
