"""The table of dependencies and their licences."""

from __future__ import annotations

import importlib.util
import json
import sys
from email.message import Message
from importlib.metadata import Distribution
from pathlib import Path
from typing import cast

import pytest

_SPEC = importlib.util.spec_from_file_location("licences", Path(__file__).parents[2] / "docs" / "licences.py")
assert _SPEC and _SPEC.loader
licences = importlib.util.module_from_spec(_SPEC)
sys.modules["licences"] = licences
_SPEC.loader.exec_module(licences)


def test_every_dependency_is_in_the_table_and_none_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["licences.py", "--json"])
    assert licences.main() == 0
    found = {row["name"].lower(): row for row in json.loads(capsys.readouterr().out)}
    assert found["torch"]["extras"] == found["pillow"]["extras"] == []  # always there
    assert "sympy" in found  # through torch
    assert found["pytest"]["extras"] == ["dev"]
    assert "MIT" in found["rich"]["licence"]


@pytest.mark.parametrize(
    ("licence", "refused"),
    [
        ("AGPL-3.0-only", True),
        ("GPL-3.0-or-later", True),
        ("GNU General Public License v3 (GPLv3)", True),
        ("GNU Affero General Public License v3", True),
        ("LGPL-2.1-or-later", False),
        ("GNU Lesser General Public License v3 (LGPLv3)", False),
        ("BSD-3-Clause AND GPL-3.0-or-later WITH GCC-exception-3.1", False),
        ("MIT", False),
    ],
)
def test_only_the_gpl_and_the_agpl_are_refused(licence: str, refused: bool) -> None:
    assert licences.refused(licences.Package("a", "1", licence, ())) is refused


def test_the_licence_is_what_the_metadata_state() -> None:
    class Stated:
        files = None

        def __init__(self, **fields: str) -> None:
            self.metadata = Message()
            for key, value in fields.items():
                self.metadata[key.replace("_", "-")] = value

    def of(**fields: str) -> str:
        return licences.licence_of(cast(Distribution, Stated(**fields)))

    assert of(License_Expression="MIT", License="long text") == "MIT"
    assert of(Classifier="License :: OSI Approved :: BSD License", License="UNKNOWN") == "BSD License"
    assert of(License="\n Apache 2.0\nterms") == "Apache 2.0"
    assert of(License="UNKNOWN") == of() == "not stated"
