"""The bars of the lineage show what they are given, also where something is not known."""

from __future__ import annotations

import re
from pathlib import Path

import PIL.Image
import pytest

from boxwright.bench.report.lineage import Cost, draw_costs

Figure = pytest.importorskip("matplotlib.figure", reason="matplotlib is not installed").Figure

COSTS = [
    Cost("R-CNN", 36000.0, 0.4, 8.6, 0.2, 0.41),
    Cost("SPP-net"),  # failed
    Cost("Faster R-CNN", 1800.0, 0.0, 0.11, 0.44, 0.735),
]


def test_the_whole_is_proposals_and_network():
    assert Cost("a", proposals=0.5, network=0.25).whole == 0.75


def test_each_bar_says_what_it_is(tmp_path: Path):
    draw_costs(COSTS, tmp_path / "costs.svg", "The title", "and what the numbers hold for")
    texts = re.findall("<!-- (.*?) -->", (tmp_path / "costs.svg").read_text())
    assert {"The title", "and what the numbers hold for", "R-CNN", "SPP-net", "Faster R-CNN"} <= set(texts)
    labels = {"training time, hours", "test time per image, seconds", "AP50 on test", "proposals", "network"}
    assert labels <= set(texts)
    assert {"10.0", "0.500", "9.00 = 0.400 + 8.60", "0.110", "0.410", "0.735"} <= set(texts)
    assert texts.count("–") == 3  # a dash for each number that SPP-net has not


def test_the_longest_label_stays_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **how: (drawn.append(self), save(self, path, **how)))
    draw_costs(COSTS, tmp_path / "costs.png", "The title")
    for axes in drawn[0].axes:
        for text in axes.texts:
            assert text.get_window_extent().x1 <= axes.get_window_extent().x1


@pytest.mark.parametrize("count", [1, 8])
def test_any_number_of_steps_can_be_drawn(tmp_path: Path, count: int):
    draw_costs((COSTS * 3)[:count], tmp_path / "costs.png", "The title")
    assert PIL.Image.open(tmp_path / "costs.png").width == 1950
