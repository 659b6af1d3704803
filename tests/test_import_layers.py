"""Imports point down only: docs/architecture.md's rows, held over the syntax tree of every file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "boxwright"

ROWS = (
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
    ("types", "version", "device", "files", "ops", "progress", "units"),
)

STRANGERS = ("data", "metrics"), ("assign", "losses", "layers", "backbones", "proposals")
"""A dataset or a metric works with anybody's model, and a model knows neither."""

UPWARDS: set[tuple[str, str]] = set()

ONLY = {
    "matplotlib": {"draw/plots.py", "bench/report/plots.py", "bench/report/lineage.py"},
    "hotcoco": {"metrics/coco.py"},
    "numba": {"proposals/compiled.py"},
}
LAZY = ("timm", "torchvision", "hotcoco", "tensorboard", "huggingface_hub", "ray")
"""Slow or optional: imported where they are used, never with the file."""


class Import(NamedTuple):
    file: str
    line: int
    module: str
    at_once: bool
    """With the file, not when a function is called or for a type checker."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def imports_of(path: Path) -> Iterator[Import]:
    file = path.relative_to(SOURCE).as_posix()

    def visit(node: ast.AST, at_once: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(file, node.lineno, alias.name, at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} imports relatively; write the module out"
            module = str(node.module)
            for alias in node.names:  # `from boxwright import zoo` imports boxwright.zoo
                inner = module == "boxwright" and (SOURCE / alias.name).exists()
                yield Import(file, node.lineno, f"{module}.{alias.name}" if inner else module, at_once)
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or typing_only
        for child in ast.iter_child_nodes(node):
            yield from visit(child, at_once and not later)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), True)


IMPORTS = [found for path in sorted(SOURCE.rglob("*.py")) for found in imports_of(path)]


def package_of(name: str) -> str:
    """ "engine" of engine/predict.py and of boxwright.predict.predictor; "" of the files at the top."""
    parts = name.replace("/", ".").removesuffix(".py").removeprefix("boxwright").strip(".").split(".")
    return parts[0] if parts[0] not in ("__init__", "__main__") else ""


def row_of(package: str) -> int:
    return next(height for height, row in enumerate(reversed(ROWS)) if package in row)


def test_every_package_has_its_row():
    packages = {path.parent.relative_to(SOURCE).parts[:1] for path in SOURCE.rglob("*.py")} - {()}
    assert {package for (package,) in packages} <= {package for row in ROWS for package in row}
    assert len(IMPORTS) > 100


def test_imports_point_down():
    for found in IMPORTS:
        above, below = package_of(found.file), package_of(found.module)
        inside = found.module.startswith("boxwright") and below != ""
        if inside and above not in ("", below) and (found.file, found.module) not in UPWARDS:
            assert row_of(above) >= row_of(below), f"{found}, which points up"


def test_data_and_metrics_and_the_parts_of_a_model_are_strangers():
    for found in (found for found in IMPORTS if found.module.startswith("boxwright.")):
        above, below = package_of(found.file), package_of(found.module)
        for one, other in (STRANGERS, STRANGERS[::-1]):
            assert not (above in one and below in other), f"{found}; {above} and {below} know nothing of each other"


def test_the_exceptions_are_still_needed():
    assert {(found.file, found.module) for found in IMPORTS} >= UPWARDS
    assert not any(found.at_once for found in IMPORTS if (found.file, found.module) in UPWARDS)


@pytest.mark.parametrize("library", ONLY)
def test_a_library_that_only_one_file_knows(library: str):
    users = {found.file for found in IMPORTS if found.module.split(".")[0] == library}
    assert users == ONLY[library]


def test_what_is_slow_is_imported_where_it_is_used():
    for found in IMPORTS:
        assert not (found.at_once and found.module.split(".")[0] in LAZY), f"{found} with the file"
