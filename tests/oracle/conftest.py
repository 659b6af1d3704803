"""A table of the comparisons, printed after the tests."""

from __future__ import annotations

import pytest

from boxwright.cli.table import table

Rows = list[tuple[object, ...]]
_ROWS = pytest.StashKey[Rows]()


@pytest.fixture(scope="session")
def rows(request: pytest.FixtureRequest) -> Rows:
    """To be filled: model, batch size, photographs, detections, classes, largest difference of boxes and of scores."""
    return request.config.stash.setdefault(_ROWS, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if rows := config.stash.get(_ROWS, []):
        head = ("model", "batch", "photos", "detections", "classes", "box px", "score")
        terminalreporter.write_line("\n" + table(head, rows))
