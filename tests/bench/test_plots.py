"""The figures show each cell where it is, as what it is, and labels keep clear of points and of each other."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from bench.made_up import LITE, MOBILE, cell, external_model, of, race
from boxwright.bench.report.placing import Box, Label, covered, place
from boxwright.bench.report.points import COLORS, IN_THE_DARK, INK, PAPER, bounds, corners, label, measured, styles
from boxwright.bench.report.svg import Link, inline
from boxwright.bench.result import Entry, Race
from boxwright.measure.speed import STAGES
from boxwright.units import Interval

Figure = pytest.importorskip("matplotlib.figure", reason="matplotlib is not installed").Figure
plots = pytest.importorskip("boxwright.bench.report.plots", reason="matplotlib is not installed", exc_type=ImportError)


def luminance(color: str) -> float:
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_points_are_in_milliseconds_and_come_fastest_first():
    known = measured(race())
    assert [point.ms.value for point in known] == sorted(point.ms.value for point in known)
    by_name = {point.entry.name: point for point in known}
    assert by_name[f"ssd-{LITE}-320"].ms == pytest.approx((22.0, 22.0 * 0.984, 22.0 * 1.0192))
    assert by_name[f"ssd-{LITE}-320"].ap.value == pytest.approx(0.51)
    assert f"retinanet-{LITE}-800" not in by_name  # it failed


def test_a_stopped_cell_stands_where_it_stood_when_it_was_stopped():
    made = race()
    (stopped,) = [point for point in measured(made) if point.entry.name == f"ssd-{LITE}-224"]
    (standing,) = [one for one in made.rungs[-1].standings if one.name == stopped.entry.name]
    assert stopped.ap.value == standing.ap and stopped.ms.value == pytest.approx(1e3 * standing.seconds)


def test_colour_tells_the_backbone_and_shape_the_detector():
    looks = styles(race(backbones=(LITE, MOBILE)).entries)
    ours = {name: look for name, look in looks.items() if "torchvision" not in name}
    for name, look in ours.items():
        for other, beside in ours.items():
            assert (look.color == beside.color) == ((LITE in name) == (LITE in other))
            assert (look.marker == beside.marker) == (name.partition("-")[0] == other.partition("-")[0])
    assert looks["torchvision fasterrcnn_mobilenet_v3"].marker not in {look.marker for look in ours.values()}


@pytest.mark.parametrize(("colors", "paper"), [((INK, *COLORS), PAPER), (IN_THE_DARK, "#12161b")])
def test_every_colour_stands_out(colors: tuple[str, ...], paper: str):
    assert len(set(colors)) == len(colors)
    assert min(contrast(color, paper) for color in colors) >= 3  # WCAG 2.1, section 1.4.11


def test_the_frontier_goes_up_at_its_cells():
    fast, good = cell("ssd", 320), cell("faster_rcnn", 320)
    steps = corners(of([fast, good]), measured(of([fast, good])), 100.0, 0.0)
    assert steps == [(22.0, 0.0), (22.0, 0.51), (61.0, 0.51), (61.0, pytest.approx(0.56)), (100.0, pytest.approx(0.56))]


def test_constraints_that_an_axis_has_are_drawn_where_they_are_near():
    def found(*constraints: str) -> dict[str, float]:
        made = replace(race(), constraints=constraints)
        return bounds(made, measured(made))

    assert found("p50<50ms", "ap>=40%") == {"ms": 50.0, "ap": 0.4}
    assert found("p50<5s") == {}  # far off
    assert found("p95<50ms", "recall[a, b]>0.5", "ap[rbc]>0.5") == {}
    assert found() == {}


def test_labels_say_what_tells_cells_apart():
    one, many = cell("ssd", 320), replace(cell("faster_rcnn", 320), name="many", proposals=300)
    few = replace(many, name="few", proposals=50)
    assert label(of([one]), one) == "320 winner"
    assert label(of([many, few]), few).startswith("320, 50 proposals")
    assert (
        label(of([one, external_model(name="a very long name of somebody's model")]), external_model(name="g" * 30))
        == "g" * 23 + "…"
    )


def test_labels_cover_neither_points_nor_each_other():
    """Nine points close together, as on a small plot."""
    area = Box(0, 0, 400, 300)
    labels = [Label(150 + 30 * x, 100 + 30 * y, 40, 12) for x in range(3) for y in range(3)]
    marks = [Box.around(one.x, one.y, 12, 12) for one in labels]
    placed = place(labels, marks, [], area, 9)
    for index, spot in enumerate(placed):
        assert spot.shared(area) == spot.area
        assert not any(spot.shared(mark) for mark in marks)
        assert not any(spot.shared(other) for other in placed[:index])


def test_a_label_rather_goes_aside_than_over_a_line():
    line = covered([(0.0, 50.0), (100.0, 50.0)])
    assert line == [Box(-1, 49, 101, 51)]
    (spot,) = place([Label(50, 50, 20, 10)], [Box.around(50, 50, 8, 8)], line, Box(0, 0, 100, 100), 6)
    assert not spot.shared(line[0])


def group(text: str, gid: str) -> str:
    """What is drawn with this gid."""
    found = re.search(rf'<g id="{gid}">(.*?)</g>\s*</g>', text, re.DOTALL)
    assert found is not None, gid
    return found[1]


@pytest.fixture(scope="module")
def drawn() -> tuple[Race, str]:
    made = race()
    return made, plots.svg_text(plots.draw_frontier(made))


def test_every_point_has_its_gid_and_stopped_ones_are_hollow(drawn: tuple[Race, str]):
    made, text = drawn
    shown = {point.index for point in measured(made)}
    for index, entry in enumerate(made.entries):
        assert (f'id="mark-{index}"' in text) == (f'id="cell-{index}"' in text) == (index in shown)
        if index in shown:
            assert (f"fill: {PAPER}" in group(text, f"mark-{index}")) == (entry.state == "stopped")
    assert 'id="chosen"' in text and 'id="frontier"' in text and 'id="bound-ms"' in text


def test_the_key_names_backbones_and_detectors(drawn: tuple[Race, str]):
    backbones, detectors = (LITE,), ("ssd", "fcos", "faster_rcnn", "retinanet")
    for name in (*backbones, *detectors, "frontier", "external model", "stopped, AP on val", "constraint"):
        assert f">{name}</text>" in drawn[1], name


def test_a_page_gets_its_own_colours_letters_and_ids(drawn: tuple[Race, str]):
    made, text = drawn
    place = made.entries.index(cell_named(made, f"ssd-{LITE}-320"))
    link = Link("#row", "a <b> & c", "card")
    html = inline(text, "one", "what it shows", {f"cell-{place}": link}, "narrow")
    assert INK not in html and PAPER not in html and not any(color in html for color in COLORS)
    assert "currentColor" in html and "var(--paper)" in html and "var(--color-0)" in html
    assert "font-family" not in html and "<style" not in html and "metadata" not in html
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(set(ids)) == len(ids) and all(one.startswith("one-") for one in ids)
    referred = re.findall(r'href="#(one-[^"]*)"', html) + re.findall(r"url\(#([^)]*)\)", html)
    assert referred and set(referred) <= set(ids)
    assert re.search(r'<a href="#row" class="cell" aria-label="a &lt;b&gt; &amp; c" data-card="card">\s*<title>', html)
    assert html.startswith("<svg") and 'role="group"' in html and 'aria-label="what it shows"' in html


def cell_named(made: Race, name: str) -> Entry:
    return next(entry for entry in made.entries if entry.name == name)


def test_the_same_race_gives_the_same_file():
    one = of([cell("ssd", 320)])
    assert plots.encode(plots.draw_frontier(one), "svg") == plots.encode(plots.draw_frontier(one), "svg")
    assert plots.encode(plots.draw_frontier(one), "png").startswith(b"\x89PNG")


def test_stages_add_up_and_are_named():
    text = plots.svg_text(plots.draw_stages(of([cell("faster_rcnn", 320), external_model(name="$x_$ <model>")])))
    for name in (*STAGES, "detect", "$x_$ &lt;model&gt;", "62.8", "40.2"):
        assert f">{name}</text>" in text, name


def test_memory_is_that_of_the_process_and_of_the_device():
    for gpu in (False, True):
        text = plots.svg_text(plots.draw_memory(of([cell("ssd", 320, gpu=gpu)]), narrow=True))
        assert ">439</text>" in text and (">320</text>" in text) == (">on the device, MB</text>" in text) == gpu


def test_learning_has_a_panel_for_each_cell():
    text = plots.svg_text(plots.draw_learning(of([cell("ssd", 320), cell("fcos", 224, state="stopped")])))
    for name in ("ssd", "fcos, stopped", f"{LITE}-224", "AP on val", "loss", "epoch"):
        assert f">{name}</text>" in text, name


def test_a_single_epoch_is_a_dot():
    axes = Figure().subplots()
    plots._draw_seeds(axes, [{1: 0.5}, {1: 0.7}], "black")
    assert [line.get_marker() for line in axes.lines] == ["o"] * 3
    plots._draw_seeds(axes, [{1: float("nan"), 2: 0.5, 3: 0.6}], "black")
    assert [line.get_marker() for line in axes.lines[3:]] == ["none"] * 2


@pytest.mark.parametrize("made", [of([]), of([cell("ssd", 320, state="failed")])], ids=["empty", "failed"])
def test_where_nothing_was_measured_the_figures_say_so_or_are_empty(made: Race):
    assert "No cell was measured." in plots.svg_text(plots.draw_frontier(made))
    for draw in (plots.draw_stages, plots.draw_memory, plots.draw_learning):
        assert "</svg>" in plots.svg_text(draw(made, narrow=True))


def test_numbers_that_are_not_known_are_passed_over():
    entry = cell("ssd", 320)
    assert entry.quality is not None
    unknown = Interval(*[float("nan")] * 3)
    bare = replace(entry.quality, ap=Interval(0.5, *unknown[1:]))
    learning = {0: replace(entry.learning[0], losses=(float("nan"), float("inf")), val={1: float("nan")})}
    made = of([replace(entry, quality=bare, learning=learning), replace(entry, name="x", speed={}, memory=None)])
    assert [point.entry.name for point in measured(made)] == [entry.name]
    for draw in (plots.draw_frontier, plots.draw_stages, plots.draw_memory, plots.draw_learning):
        assert "</svg>" in plots.svg_text(draw(made))
