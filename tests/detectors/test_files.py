"""Each detector is one short file, and what two of them share has its place in another."""

from __future__ import annotations

import ast
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from boxwright import detectors
from boxwright.detectors import DETECTORS

FILES = sorted(Path(detectors.__file__).parent / f"{name}.py" for name in DETECTORS)
LONGEST = 150
RUN = 6


def code_of(path: Path) -> list[str]:
    """The lines without indentation, blank lines and imports."""
    source = path.read_text(encoding="utf-8")
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
    dropped = {line for node in imports for line in range(node.lineno, (node.end_lineno or 0) + 1)}
    return [line.strip() for row, line in enumerate(source.splitlines(), 1) if line.strip() and row not in dropped]


def runs_of(path: Path) -> set[tuple[str, ...]]:
    """Every six lines that follow each other."""
    lines = code_of(path)
    return {tuple(lines[start : start + RUN]) for start in range(len(lines) - RUN + 1)}


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_has_a_file_of_its_own(name: str) -> None:
    kind: Any = DETECTORS[name]
    with torch.device("meta"):
        detector = kind(backbone="mobilenet_v3_small").build(2)
    assert type(detector).__module__ == f"boxwright.detectors.{name}"


def test_no_file_is_long() -> None:
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {name: length for name, length in lengths.items() if length > LONGEST}


def test_no_two_files_share_a_run_of_lines() -> None:
    runs = {path.name: runs_of(path) for path in FILES}
    assert all(runs.values())
    shared = {(one, other): runs[one] & runs[other] for one, other in combinations(runs, 2)}
    assert not {files: common for files, common in shared.items() if common}
