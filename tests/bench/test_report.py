"""The report says all that a race found out, on one page that needs nothing else, and as files for other programs."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench.made_up import BLOOD, LITE, cell, external_model, little, of, race
from boxwright import files
from boxwright.bench.report import page as pages
from boxwright.bench.report import write as report
from boxwright.bench.report.disagreements import Disagreement, Panel
from boxwright.bench.report.page import halving, headline, ranked, readable, render
from boxwright.bench.report.write import plain, table, write
from boxwright.bench.result import Entry, Race
from boxwright.bench.verdict import write_difference
from boxwright.units import Interval, digits, fraction, printable

VOID = {"meta", "link", "br", "img", "wbr", "hr", "input"}
SCRIPT = "<script>alert(1)</script>\x00\x0b\x1b[31m\x7f\ufffe\ud800"


class Page(HTMLParser):
    """What is on a page; a tag that is closed where it was not opened fails."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.code: dict[str, str] = {"style": "", "script": ""}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in self.code:
            self.code[self.open[-1]] += data
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    def named(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def without_drawings(made: Race, disagreements: tuple[Disagreement, ...] = ()) -> Page:
    return Page(render(made, {}, disagreements))


@pytest.fixture(scope="module")
def made() -> Race:
    return race(runtimes=("eager", "compiled"), gpu=True)


@pytest.fixture(scope="module")
def folder(made: Race, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of that race, with figures where matplotlib is."""
    path = tmp_path_factory.mktemp("report")
    write(made, path)
    return path


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def has_matplotlib() -> bool:
    try:
        import boxwright.bench.report.plots  # noqa: F401
    except ImportError:
        return False
    return True


def strings(made: Race) -> Iterator[str]:
    """What a race says in words and numbers, as the page is to write it."""
    verdict = made.verdict
    yield from (made.title, made.command, made.made, *made.plan, *verdict.reasons, *made.commands.values())
    yield from (write_difference(one) for name, one in verdict.to_best.items() if name != verdict.best)
    yield from (write_difference(one) for name, one in verdict.to_leader.items() if name != verdict.leader)
    for key, value in made.settings.items():
        yield from (key, *([*value, *map(str, value.values())] if isinstance(value, dict) else [readable(value)]))
    for own in made.differences.values():
        yield from (str(part) for item in own.items() for part in item)
    for entry in made.entries:
        yield from (entry.name, entry.reason, *entry.failures.values())
        yield entry.state if entry.state != "finished" else ""
        if entry.quality:
            quality = entry.quality
            numbers = [*quality.ap, *quality.ap50, *quality.seeds, *quality.sizes.values()]
            for name, one in quality.classes.items():
                yield from (name, str(one.objects))
                numbers += [one.ap, one.ap50, one.recall, one.precision, one.threshold]
            yield from map(fraction, numbers)
        for speed in entry.speed.values():
            yield from (digits(1e3 * seconds) for seconds in (*speed.p50, speed.p95.value))
            yield digits(speed.throughput)
        if entry.speed:
            fastest = min(entry.speed.values(), key=lambda speed: speed.p50.value)
            yield from (digits(1e3 * seconds) for seconds in (*fastest.p95, *fastest.stages.values()))
        millions = (entry.memory, entry.device_memory, entry.parameters, entry.file)
        others = ((entry.flops, 1e9), (entry.first, 1), (entry.seconds or None, 60))
        for value, unit in (*((one, 1e6) for one in millions), *others):
            yield "–" if value is None else digits(value / unit)
        for curve in entry.learning.values():
            yield from (digits(curve.losses[-1]), fraction(max(curve.val.values())))
    for rung in made.rungs:
        yield f"epoch {rung.epoch}"
        for standing in rung.standings:
            yield from (fraction(standing.ap), f"{digits(1e3 * standing.seconds)} ms")
    for one in made.control or ():
        yield f"{digits(1e3 * one.value)} ms [{digits(1e3 * one.low)}, {digits(1e3 * one.high)}]"


def test_everything_that_a_race_says_is_on_the_page(made: Race, page: Page):
    for text in strings(made):
        assert re.sub(r"\s+", " ", text) in page.text, text


def test_the_files_are_those_that_are_named(made: Race, tmp_path: Path):
    names = ["report.html", "results.csv", "results.json", *(["frontier.png", "frontier.svg"] * has_matplotlib())]
    written_files = write(of([cell("ssd", 320, state="failed")]), tmp_path / "a" / "b")
    assert sorted(path.name for path in written_files) == sorted(names)
    assert sorted(tmp_path.glob("a/b/*")) == sorted(written_files)  # nothing partial is left


def test_nothing_is_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A disk that is full leaves the old file as it was, and the numbers come first."""
    (tmp_path / "report.html").write_text("old")
    whole = files.os.replace

    def full(source: Path, target: Path) -> None:
        if target.name == "report.html":
            raise OSError(28, "No space left on device")
        whole(source, target)

    monkeypatch.setattr(files.os, "replace", full)
    monkeypatch.setattr(report, "_draw", lambda race: ({}, {}))
    with pytest.raises(OSError, match="No space"):
        write(of([cell("ssd", 320)]), tmp_path)
    assert (tmp_path / "report.html").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "results.csv", "results.json"]


def test_the_page_needs_nothing_else(page: Page):
    for tag, attributes in page.tags:
        for key in ("href", "src", "srcset", "poster", "action"):
            if key in attributes:
                assert attributes[key].startswith(("#", "data:")), (tag, attributes[key])
        assert "url(" not in attributes.get("style", "") or "url(#" in attributes["style"]
        assert not any(key.startswith("on") for key in attributes), tag
    assert "@import" not in page.code["style"] and "url(" not in page.code["style"]
    assert not re.search(r"fetch|XMLHttpRequest|import\s*\(|https?:", page.code["script"])
    assert any("default-src 'none'" in one.get("content", "") for one in page.named("meta"))


def test_ids_are_unique_and_links_inside_lead_somewhere(page: Page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    targets = [attributes["href"][1:] for _, attributes in page.tags if attributes.get("href", "").startswith("#")]
    assert targets and set(targets) <= set(ids)
    cards = {attributes["data-card"] for attributes in page.named("a") if "data-card" in attributes}
    assert cards <= set(ids)


def test_every_point_is_a_link_to_its_row_that_says_its_numbers(made: Race, page: Page):
    pytest.importorskip("matplotlib")
    links = [one for one in page.named("a") if one.get("class") == "cell"]
    measured = [place for place, entry in enumerate(made.entries) if entry.quality or entry.state == "stopped"]
    assert sorted(one["href"] for one in links) == sorted(f"#row-{place}" for place in measured * 2)  # wide and narrow
    first = next(one for one in links if one["href"] == "#row-0")
    numbers = "AP 0.560 [0.539, 0.585] on the test images, p50 41.5 ms, p95 53.9 ms"
    assert first["aria-label"] == f"{made.entries[0].name}: {numbers}"


def test_figures_have_a_form_for_each_width_and_words_for_those_who_do_not_see_them(page: Page):
    pytest.importorskip("matplotlib")
    drawings = page.named("svg")
    assert [one["class"] for one in drawings] == ["plot wide", "plot narrow"] * 4
    assert all(one["aria-label"] and "width" not in one for one in drawings)
    assert ".plot.wide { display: none; }" in page.code["style"]


def test_light_and_dark_are_matters_of_style_alone(page: Page):
    style = page.code["style"]
    assert "prefers-color-scheme: dark" in style and "color-scheme: light dark" in style
    assert "scheme" not in page.code["script"]
    assert {"name": "color-scheme", "content": "light dark"} in page.named("meta")
    light, dark = (re.findall(r"(--[\w-]+):", part) for part in style.split("@media")[:2])
    assert light == dark and "--color-6" in light


def test_the_page_is_whole_without_its_script(page: Page):
    """Only the cards are hidden, and all that they say is in the table."""
    hidden = [attributes for _, attributes in page.tags if "hidden" in attributes]
    assert hidden and all(attributes["class"] == "card" for attributes in hidden)
    assert not page.named("button")


def test_tables_scroll_in_a_box_that_a_keyboard_reaches(page: Page):
    boxes = [one for one in page.named("div") if one.get("class") == "scroll"]
    assert len(boxes) == len(page.named("table")) > 6
    assert all(one["tabindex"] == "0" and one["role"] == "region" and one["aria-label"] for one in boxes)
    assert all(one.get("scope") in ("col", "row") for one in page.named("th"))


def test_names_from_outside_are_text(tmp_path: Path):
    """Class names, external models, reasons, settings, captions: all of them are somebody's."""
    evil = cell("ssd", 320, classes=(SCRIPT, "b"))
    evil = replace(evil, name=SCRIPT, backbone=SCRIPT, detector=SCRIPT, learning={}, memory=None)
    broken = replace(cell("fcos", 320, state="failed"), reason=SCRIPT)
    made = of([evil, broken, external_model((SCRIPT, "b"), name=f"external {SCRIPT}")])
    made = replace(made, title=SCRIPT, command=SCRIPT, settings={SCRIPT: [SCRIPT], "machine": {SCRIPT: SCRIPT}},
                   plan=(SCRIPT,), commands={SCRIPT: SCRIPT}, differences={SCRIPT: {SCRIPT: SCRIPT}})  # fmt: skip
    panels = tuple(Panel(SCRIPT, '"><script>', "data:,", 1, 1) for _ in range(3))
    write(made, tmp_path, [Disagreement(SCRIPT, panels)])
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.named("script")) == 1 and "alert" not in page.code["script"]
    assert page.text.count(printable(SCRIPT)) > 20
    assert not re.search(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", text)  # the characters of XML 1.0
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["title"] == SCRIPT
    if has_matplotlib():
        assert "<script" not in (tmp_path / "frontier.svg").read_text(encoding="utf-8")
        ElementTree.parse(tmp_path / "frontier.svg")


def test_without_matplotlib_all_the_rest_is_written(made: Race, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr("boxwright.bench.report.plots", raising=False)
    monkeypatch.setitem(sys.modules, "boxwright.bench.report.plots", None)
    assert [path.name for path in write(made, tmp_path)] == ["report.html", "results.json", "results.csv"]
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert 'needs matplotlib (in boxwright\'s checkout: pip install -e ".[plots]")' in page.text
    assert not page.named("svg")
    for text in strings(made):
        assert re.sub(r"\s+", " ", text) in page.text, text


def test_json_holds_the_same_numbers(made: Race, folder: Path):
    content = json.loads((folder / "results.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert content == json.loads(json.dumps(plain(asdict(made))))
    for entry, found in zip(made.entries, content["entries"], strict=True):
        assert found["name"] == entry.name and found["flops"] == entry.flops
        for runtime, speed in entry.speed.items():
            assert found["speed"][runtime]["p50"] == speed.p50._asdict()
            known = None if math.isnan(speed.throughput) else speed.throughput
            assert found["speed"][runtime]["throughput"] == known
        if entry.quality:
            assert found["quality"]["ap"]["low"] == entry.quality.ap.low
    verdict = content["verdict"]
    assert verdict["winner"] == verdict["leader"] == made.verdict.winner and verdict["too_little_evidence"] == []
    assert verdict["to_best"] == {name: one._asdict() for name, one in made.verdict.to_best.items()}
    assert verdict["to_leader"] == {name: one._asdict() for name, one in made.verdict.to_leader.items()}


def test_plain_knows_what_json_does_not():
    value = {1: (Interval(0.5, math.nan, math.inf), Path("a/b"), True), "x": None}
    assert plain(value) == {"1": [{"value": 0.5, "low": None, "high": None}, "a/b", True], "x": None}


def test_csv_has_a_row_for_each_cell_with_the_same_numbers(made: Race, folder: Path):
    rows = {row["cell"]: row for row in csv.DictReader(io.StringIO((folder / "results.csv").read_text()))}
    assert rows.keys() == {entry.name for entry in made.entries}
    for entry in made.entries:
        row = rows[entry.name]
        wanted = {"ap": entry.quality and entry.quality.ap.value, "ap50_low": entry.quality and entry.quality.ap50.low,
                  "memory_mb": entry.memory and entry.memory / 1e6, "flops_g": entry.flops and entry.flops / 1e9,
                  "first_boxes_s": entry.first}  # fmt: skip
        for runtime in ("eager", "compiled", "its own"):
            speed = entry.speed.get(runtime)
            wanted[f"{runtime}_p95_high_ms"] = speed and 1e3 * speed.p95.high
            wanted[f"{runtime}_network_ms"] = speed and "network" in speed.stages and 1e3 * speed.stages["network"]
        for reference in ("best", "leader"):
            difference = getattr(made.verdict, f"to_{reference}").get(entry.name)
            wanted[f"ap_to_{reference}_low"] = difference and difference.low
        for column, value in wanted.items():
            if column in row:
                found = float(row[column] or "nan")
                assert found == pytest.approx(math.nan if value is None else value, nan_ok=True), (entry.name, column)
    assert "winner" in rows[str(made.verdict.winner)]["verdict"].split()
    assert rows["torchvision fasterrcnn_mobilenet_v3"]["its own_throughput_per_s"] == ""  # nan
    assert rows[f"retinanet-{LITE}-800"]["reason"].startswith("RuntimeError")


def test_csv_takes_any_name():
    name = 'a, "b"\nc'
    rows = list(csv.DictReader(io.StringIO(table(of([replace(cell("ssd", 320), name=name)])))))
    assert rows[0]["cell"] == name


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: of([cell("ssd", 320)]), [f"ssd-{LITE}-320 wins", "AP 0.510 [0.489, 0.535]", "p50 22.0 ms"]),
        (lambda: race(meets=False), ["No cell meets the constraints", f"The nearest is ssd-{LITE}-320: AP 0.510"]),
        (
            lambda: of([cell("ssd", 320, state="failed")]),
            ["No cell was trained to the end", "out of memory", "No cell was"],
        ),
        (
            lambda: of([cell("ssd", 224, state="stopped")]),
            ["No cell was trained to the end", "rank 7 of 10 after epoch 4"],
        ),
        (lambda: of([]), ["No cell was trained to the end", "Nothing."]),
    ],
    ids=["one", "nothing meets", "failed", "stopped", "empty"],
)
def test_a_race_of_any_outcome_has_a_page(make: Callable[[], Race], words: list[str]):
    text = without_drawings(make()).text
    for word in words:
        assert word in text, word


def test_entries_that_are_not_whole_have_a_page():
    """Measured in one way and not in the other, an external model that failed, numbers that are not known."""
    whole, nan = cell("ssd", 320), Interval(*[math.nan] * 3)
    assert whole.quality is not None
    speed = replace(whole.speed["eager"], p50=nan, p95=nan, stages={})
    learnt = replace(whole.learning[0], losses=(), val={2: math.nan})
    made = of([
        replace(whole, name="no times", speed={}),
        replace(whole, name="no quality", quality=None),
        replace(whole, name="no time", speed={"eager": speed}),
        replace(whole, name="no classes", quality=replace(whole.quality, classes={}, sizes={}, ap=nan)),
        replace(whole, name="no losses", learning={0: learnt}),
        Entry("no model", "", "", 0, None, "failed", "ImportError: no module"),
    ])  # fmt: skip
    page = without_drawings(made)
    for entry in made.entries:
        assert entry.name in page.text
    assert not re.search(r"\b(nan|inf|None)\b", page.text)
    assert len(list(csv.DictReader(io.StringIO(table(made))))) == len(made.entries)


def test_the_order_is_by_ap_and_then_by_how_far_a_cell_came():
    made = race()
    states = [one.entry.state for one in ranked(made)]
    assert states == ["finished"] * 8 + ["external", "stopped", "stopped", "failed"]
    known = [one.entry.quality.ap.value for one in ranked(made) if one.entry.quality]
    assert known == sorted(known, reverse=True)
    marks = {one.entry.name: one.marks for one in ranked(made)}
    assert marks[str(made.verdict.winner)][0] == "winner" and "frontier" in marks[str(made.verdict.winner)]
    assert "runner-up" in marks[str(made.verdict.runner_up)]
    assert all("tied" in marks[name] for name in made.verdict.tied)


def test_halving_can_be_read():
    rows = halving(race())
    assert [name for name, _ in rows[-2:]] == [f"fcos-{LITE}-640", f"ssd-{LITE}-224"]
    assert all(one is not None for one in rows[0][1])
    made = race()
    shorter = replace(made, rungs=(made.rungs[0], replace(made.rungs[1], standings=made.rungs[1].standings[:4])))
    assert [sum(one is not None for one in row) for _, row in halving(shorter)] == [2] * 4 + [1] * 6


def test_the_control_says_whether_times_can_be_compared():
    made, first = race(), Interval(0.040, 0.039, 0.041)
    same = without_drawings(replace(made, control=(first, Interval(0.0405, 0.0395, 0.0415)))).text
    assert "40.0 ms [39.0, 41.0], then 40.5 ms [39.5, 41.5]" in same and "The intervals overlap" in same
    drift = without_drawings(replace(made, control=(first, Interval(0.050, 0.049, 0.051)))).text
    assert "do not overlap: the machine changed by 25.0 %" in drift


def test_images_are_in_the_page_or_said_to_be_left_out():
    panels = tuple(Panel(f"cell {n}", f"alt {n}", f"data:image/webp;base64,{n}", 48, 32) for n in range(3))
    shown = without_drawings(race(), (Disagreement("cat.jpg", panels),))
    assert [(one["src"], one["alt"]) for one in shown.named("img")] == [(panel.source, panel.alt) for panel in panels]
    assert "cat.jpg" in shown.text and "Left out" not in shown.text
    assert "Left out" in without_drawings(race()).text


def test_runtimes_are_compared_where_there_are_several():
    assert "Runtimes" not in without_drawings(race()).text  # an external model's own is not one of them
    text = without_drawings(race(runtimes=("eager", "compiled"))).text
    assert "1.47 times" in text and "BackendError: no C++ compiler" in text


def test_classes_that_only_some_know_have_a_row():
    text = without_drawings(race(classes=BLOOD, missing="wbc")).text
    assert "platelets" in text and "wbc" in text


def test_a_headline_has_the_numbers():
    title, sentence = headline(of([cell("ssd", 320)]))
    assert title == f"ssd-{LITE}-320 wins"
    assert sentence == "AP 0.510 [0.489, 0.535] on the test images, p50 22.0 ms, p95 28.6 ms."


def test_too_little_evidence_is_said_first_and_loudly():
    made, reasons = little(), "1 seed (2 are needed), 2 epochs (3 are needed)"
    first = made.verdict.leader
    assert first and made.verdict.winner is None
    title, sentence = headline(made)
    assert title == "Too little evidence for a winner"
    assert sentence.startswith(f"{reasons}. {first} comes first: AP 0.")
    page = without_drawings(made)
    assert page.text.index("Too little evidence for a winner") < page.text.index(reasons) < page.text.index(first)
    assert page.named("h1") == [{"class": "bad"}] and "wins" not in page.text
    assert "winner" not in {attributes.get("class") for attributes in page.named("tr")}
    assert {mark for row in ranked(made) for mark in row.marks} == {"leader", "runner-up", "frontier"}
    assert plain(asdict(made))["verdict"]["too_little_evidence"] == reasons.split(", ")
    rows = csv.DictReader(io.StringIO(table(made)))
    assert not any("winner" in row["verdict"] for row in rows)


def test_too_little_evidence_is_said_where_nothing_meets_the_constraints_too():
    verdict = replace(race(meets=False).verdict, too_little_evidence=("1 seed (2 are needed)",))
    title, sentence = headline(replace(race(meets=False), verdict=verdict))
    assert title == "Too little evidence for a winner"
    assert sentence.startswith("1 seed (2 are needed). No cell meets the constraints. The nearest is ")


def test_differences_are_to_the_best_and_to_the_first(made: Race, page: Page):
    best, first = pages.references(made)
    assert (best.name, best.role, first.name, first.role) == (
        made.verdict.best, "the best", made.verdict.winner, "the winner"
    )  # fmt: skip
    assert best.differences[first.name].contains(0) and first.name in made.verdict.reasons[1]
    assert f"minus {best.name}, the best" in page.text and f"minus {first.name}, the winner" in page.text
    (alone,) = pages.references(race(meets=False))
    assert alone.role == "the best"


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "yes"), (False, "no"), (None, "–"), ("", "–"), (0.1 + 0.2, "0.3"), (12, "12"), ((), "–"),
     ((320, 416), "320, 416"), ({"a": 1, "b": (2, 3)}, "a 1, b 2, 3")],
)  # fmt: skip
def test_settings_are_written_for_people(value: Any, text: str):
    assert readable(value) == text


def test_numbers_are_written_for_people():
    assert [pages.scaled(value, 1e9) for value in (None, math.nan, 3_100_000_000)] == ["–", "–", "3.10"]
    assert pages.bracketed(Interval(0.5, 0.4, 0.61)) == "[0.400, 0.610]"
    assert pages.bracketed(Interval(0.04, 0.0391, 0.0412), 1e-3) == "[39.1, 41.2]"
    assert pages.bracketed(Interval(0.5, math.nan, math.nan)) == ""
    assert pages.breakable("<a>-b_c") == "&lt;a&gt;-<wbr>b_<wbr>c"
    assert [pages.heat(value, (0.2, 0.6)) for value in (0.2, 0.5, math.nan)] == ["0.00", "0.75", "0"]
    assert pages.heat(0.5, (0.5, 0.5)) == "0.00"
    assert pages.best({2: 0.3, 4: math.nan, 6: 0.5, 8: 0.5}) == (6, 0.5) and pages.best({2: math.nan}) is None
    assert pages.ratio(3.0, 2.0) == 1.5 and math.isnan(pages.ratio(1.0, 0.0))
