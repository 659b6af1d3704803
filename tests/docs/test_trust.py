"""Every promise of the page on trust names a test, and that test exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guide" / "trust.md").read_text(encoding="utf-8")


def test_every_promise_is_held_by_a_test_that_exists() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| **")]
    assert len(rows) >= 14
    for row in rows:
        *_, held, _ = re.split(r"(?<!\\)\|", row)
        named = re.findall(r"`(tests/[\w/]+\.py)`: ((?:`test_\w+`(?:, )?)+)", held)
        assert named, f"no test for {row[:60]}"
        for file, tests in named:
            source = (ROOT / file).read_text(encoding="utf-8")
            for test in re.findall(r"`(test_\w+)`", tests):
                assert f"def {test}(" in source, f"{file} has no {test}"
