"""docs/reference.py writes down every command, option and public name."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import pytest

import boxwright
from boxwright.cli import COMMANDS
from boxwright.detectors import DETECTORS

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("docs_reference", ROOT / "docs" / "reference.py")
assert _spec is not None and _spec.loader is not None
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)


@pytest.fixture(scope="module")
def commands() -> str:
    return reference.commands()


def test_every_public_name_has_a_docstring_and_every_option_a_help() -> None:
    assert list(reference.undocumented()) == []


def test_every_command_and_detector_is_described(commands: str) -> None:
    assert [f"\n## boxwright {name}\n" in commands for name in COMMANDS] == [True] * len(COMMANDS)
    assert [f"\n### boxwright train {name}\n" in commands for name in DETECTORS] == [True] * len(DETECTORS)


def test_an_option_is_listed_with_its_values_default_and_help(commands: str) -> None:
    precision = "| <code>--precision {auto,fp32,bf16,fp16}</code> | Arithmetic of the forward pass; auto is bf16"
    training, detectors = commands.split("\n### boxwright train ", 1)
    assert precision in training and precision not in detectors.split("\n## ")[0]
    assert "| <code>--log-every INT</code> | Steps between lines of log.jsonl. (default: 10) |" in training
    assert (
        "| <code>--no-class-agnostic</code> | One box prediction for all classes rather than one per class. |"
        in commands
    )
    assert "<code>--format coco&#124;voc&#124;yolo&#124;labelme&#124;csv</code>" in commands
    assert "(default: )" not in commands and "\x1b" not in commands


def test_every_public_name_is_described() -> None:
    page = reference.python()
    for name in boxwright.__all__:
        if callable(getattr(boxwright, name)):
            assert f"\n### {name}\n" in page
    assert "load(\n    model: str | Path = 'voc9',\n    device: str | torch.device = 'auto',\n" in page
    assert "- `scores`: (D,) float32 in 0..1" in page
    assert r"#### Predictor.\_\_call\_\_" in page
    assert "<factory>" not in page and "ForwardRef" not in page


def test_a_docstring_becomes_paragraphs_lists_and_code() -> None:
    text = "Moves <boxes>.\n\nboxes  (N, 4), of\n       pixels\na, b   numbers\n\n    move(1)\n\nThe end."
    assert list(reference._paragraphs(text)) == [
        "Moves &lt;boxes>.", "- `boxes`: (N, 4), of pixels\n- `a`, `b`: numbers", "```\nmove(1)\n```", "The end.",
    ]  # fmt: skip


def test_what_is_not_documented_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Options:
        count: int = 1

    monkeypatch.setattr(reference, "DETECTORS", {"mine": Options})
    monkeypatch.setattr(boxwright.load, "__doc__", None)
    assert list(reference.undocumented()) == [
        "boxwright.load has no docstring",
        "the option --count INT of boxwright train has no help",
    ]


def test_the_pages_are_in_the_menu() -> None:
    menu = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    assert [f'"reference/{name}"' in menu for name in reference.PAGES] == [True] * len(reference.PAGES)
