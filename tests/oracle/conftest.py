"""A table of what was compared, printed when the tests are through."""

from __future__ import annotations

import pytest

from boxwright.cli.table import table

Rows = list[tuple[object, ...]]
_ROWS = pytest.StashKey[Rows]()


@pytest.fixture(scope="session")
def rows(request: pytest.FixtureRequest) -> Rows:
    """To be filled: model, photographs at once, photographs, detections, classes, worst box, worst score."""
    return request.config.stash.setdefault(_ROWS, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if found := config.stash.get(_ROWS, []):
        head = ("model", "batch", "photos", "detections", "classes", "box px", "score")
        terminalreporter.write_line("\n" + table(head, found))
