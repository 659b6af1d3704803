"""The bars of the lineage show what they are given, also where something is not known."""

from __future__ import annotations

import re
from pathlib import Path

import PIL.Image
import pytest

from boxwright.bench.lineage import Cost

plots = pytest.importorskip("boxwright.draw.plots", reason="matplotlib is not installed", exc_type=ImportError)

COSTS = [
    Cost("R-CNN", 36000.0, 0.4, 8.6, 0.2, 0.41),
    Cost("SPP-net"),  # failed
    Cost("Faster R-CNN", 1800.0, 0.0, 0.11, 0.44, 0.735),
]


def test_each_bar_says_what_it_is(tmp_path: Path):
    plots.draw_costs(COSTS, tmp_path / "costs.svg", "The title", "and what the numbers hold for")
    texts = re.findall("<!-- (.*?) -->", (tmp_path / "costs.svg").read_text())
    assert {"The title", "and what the numbers hold for", "R-CNN", "SPP-net", "Faster R-CNN"} <= set(texts)
    assert {"training time, hours", "test time per image, seconds", "AP50 on test", "proposals", "network"} <= set(texts)
    assert {"10.0", "0.500", "9.00 = 0.400 + 8.60", "0.110", "0.410", "0.735"} <= set(texts)
    assert texts.count("–") == 3  # a dash for each number that SPP-net has not


def test_the_longest_label_stays_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    drawn = []
    save = plots.Figure.savefig
    monkeypatch.setattr(
        plots.Figure, "savefig", lambda self, path, **how: (drawn.append(self), save(self, path, **how))
    )
    plots.draw_costs(COSTS, tmp_path / "costs.png", "The title")
    for axes in drawn[0].axes:
        for text in axes.texts:
            assert text.get_window_extent().x1 <= axes.get_window_extent().x1


@pytest.mark.parametrize("count", [1, 8])
def test_any_number_of_steps_can_be_drawn(tmp_path: Path, count: int):
    plots.draw_costs((COSTS * 3)[:count], tmp_path / "costs.png", "The title")
    assert PIL.Image.open(tmp_path / "costs.png").width == 1950
