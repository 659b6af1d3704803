"""The command that an error names for an optional dependency."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from boxwright import install as module
from boxwright.install import install

ROOT = Path(__file__).parents[1]


def test_the_command_names_the_checkout_that_is_imported() -> None:
    assert re.fullmatch(r'(uv )?pip install -e "(?P<path>.+)\[plots\]"', install("plots"))["path"] == str(ROOT)  # type: ignore[index]


def test_without_pip_it_is_uv_and_without_a_checkout_the_folder_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    monkeypatch.setattr(module, "_CHECKOUT", tmp_path)
    assert install("ray") == 'uv pip install -e ".[ray]"'


def test_every_extra_that_the_code_or_a_page_names_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    files = [
        *(ROOT / "src").rglob("*.py"),
        *(ROOT / "src").rglob("*.html"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "README.md",
    ]
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    named = re.findall(r"install\('(\w+)'\)", text) + re.findall(r'-e "\.\[([\w,]+)\]"', text)
    assert {name for names in named for name in names.split(",")} <= set(extras)
    assert {"plots", "proposals", "pretrained", "hub", "ray"} <= set(named)
    assert 'install "boxwright' not in text, "boxwright is on no index yet"
