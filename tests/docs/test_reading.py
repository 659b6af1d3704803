"""The code behind one detector stays small enough to be read: `docs/reading.py` measures it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("reading", ROOT / "docs" / "reading.py")
assert spec is not None and spec.loader is not None
reading = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reading)


@pytest.fixture(scope="module")
def faster_rcnn():
    return reading.read("faster_rcnn")


def test_a_reader_of_faster_rcnn_opens_twelve_files_beside_the_backbone(faster_rcnn):
    assert faster_rcnn.files <= 12, sorted(faster_rcnn.functions)
    assert faster_rcnn.lines <= 1100


def test_the_trace_sees_both_stages_and_the_backbone(faster_rcnn):
    assert {"FasterRCNN.compute_loss", "FasterRCNN.slots"} <= set(faster_rcnn.functions["detectors/faster_rcnn.py"])
    assert any(file.startswith("backbones/") for file in faster_rcnn.backbone)
    assert not any(file.startswith("backbones/") for file in faster_rcnn.functions)


def test_the_architecture_page_has_the_table_as_measured(faster_rcnn):
    """The number of files, and lines to within 3 %: a line more or less is no reason to edit the page."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith("| faster_rcnn |")]
    _, files, _, lines = (cell.strip().replace(",", "") for cell in row.strip("|").split("|"))
    assert int(files) == faster_rcnn.files
    assert int(lines) == pytest.approx(faster_rcnn.lines, rel=0.03)
