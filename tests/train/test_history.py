"""The log of a run survives torn lines and repeated epochs; the bar; the threshold."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from boxwright.measure.evaluate import best_threshold
from boxwright.metrics import evaluate
from boxwright.progress import Progress, Whole
from boxwright.train.history import History, rank
from boxwright.train.loop import Epoch, Step
from boxwright.types import Detections, Target


def epoch(number: int, total: float) -> Epoch:
    return Epoch(number, {"total": total}, 0.1, 2.0, 8.0, SimpleNamespace(step=10 * number))  # type: ignore[arg-type]


def one_image(boxes: list[list[float]], scores: list[float]) -> Detections:
    labels = torch.zeros(len(boxes), dtype=torch.int64)
    return Detections(torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores), labels)


def test_lines_are_added_and_the_later_one_counts(tmp_path: Path) -> None:
    for total in (3.0, 2.0):  # the run was killed after the first epoch was logged, and did it again
        history = History(tmp_path)
        history.step(Step(10, {"box": total}, 0.1, 8.0, SimpleNamespace()))  # type: ignore[arg-type]
        history.append(epoch(1, total))
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 4
    assert [(row["epoch"], row["losses"]) for row in history.epochs()] == [(1, {"total": 2.0})]
    assert [(row["step"], row["losses"]) for row in history.rows("step")] == [(10, {"box": 2.0})]


def test_a_torn_line_spoils_no_other(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.append(epoch(1, 3.0))
    with history.path.open("ab") as file:
        file.write(b'{"kind": "epoch", "epoch": 2, "los\xc3')
    History(tmp_path).append(epoch(2, 2.0))
    assert [row["epoch"] for row in History(tmp_path).epochs()] == [1, 2]


def test_quality_is_in_the_line_and_the_best_is_known(tmp_path: Path) -> None:
    history = History(tmp_path)
    box = [[0.0, 0.0, 10.0, 10.0]]
    target = Target(torch.tensor(box), torch.tensor([0]))
    good = evaluate([one_image(box, [0.9])], [target], ["cat", "dog"])
    bad = evaluate([one_image([], [])], [target], ["cat", "dog"])
    unknown = evaluate([one_image([], [])], [Target.empty()], ["cat", "dog"])
    assert history.best(until=9) == -math.inf
    for number, quality in enumerate((unknown, bad, good, None), 1):
        history.append(epoch(number, 1.0), quality)
    rows = history.epochs()
    per_class = {"cat": good.ap, "dog": None}
    assert rows[2]["val"] == {"ap": good.ap, "ap50": good.ap50, "ap75": good.ap75, "per_class": per_class}
    assert rows[0]["val"]["ap"] is None and "val" not in rows[3]
    assert [history.best(until) for until in range(1, 5)] == [-math.inf, 0.0, good.ap, good.ap]
    assert [history.since_best(until) for until in range(5)] == [0, 0, 0, 0, 1]  # the best is the third
    json.loads(history.path.read_text().splitlines()[0], parse_constant=pytest.fail)  # no NaN, which is not JSON


@pytest.mark.parametrize(("ap", "expected"), [(None, -math.inf), (math.nan, -math.inf), (0.0, 0.0), (0.5, 0.5)])
def test_no_ap_is_worse_than_any(ap: float | None, expected: float) -> None:
    assert rank(ap) == expected


def test_best_threshold_by_hand() -> None:
    """Three objects; hits at .9, .8, .3, misses at .7, .6, .2. F1 of the best 1, 2 ...: .5, .8, .67, .57, .75, .67."""
    places = [[20.0 * k, 0.0, 20.0 * k + 10, 10.0] for k in range(6)]
    target = Target(torch.tensor(places[:3]), torch.zeros(3, dtype=torch.int64))
    boxes = [places[k] for k in (0, 1, 3, 4, 2, 5)]
    found = one_image(boxes, [0.9, 0.8, 0.7, 0.6, 0.3, 0.2])
    assert best_threshold([found], [target]) == pytest.approx(0.75)  # between .8 and the next lower score


def test_best_threshold_takes_equal_scores_together() -> None:
    """The hit at .5 cannot be had without the five misses at .5, so that the one at .9 is best alone."""
    places = [[20.0 * k, 0.0, 20.0 * k + 10, 10.0] for k in range(7)]
    target = Target(torch.tensor(places[:2]), torch.zeros(2, dtype=torch.int64))
    assert best_threshold([one_image(places, [0.9] + [0.5] * 6)], [target]) == pytest.approx(0.7)


def test_best_threshold_without_a_hit() -> None:
    assert best_threshold([one_image([], [])], [Target.empty()], default=0.4) == 0.4
    assert best_threshold([one_image([[0.0, 0.0, 1.0, 1.0]], [0.9])], [Target.empty()], default=0.4) == 0.4


def test_progress_prints_lines_where_nobody_watches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock: dict[str, Any] = {"now": 0.0}
    monkeypatch.setattr("boxwright.progress.time.monotonic", lambda: clock["now"])
    with Progress("epoch 1/2", total=10, done=4) as bar:
        for _ in range(3):
            clock["now"] += 40
            bar.update({"box": 0.5}, 3.0)
    assert capsys.readouterr().err == "epoch 1/2 6/10 · 0:02:40 left · 3.0 images/s · box 0.500\n"


@pytest.mark.parametrize(("width", "note"), [
    (80, "run 0:05:00 left · loss 1.500 · 3.0 images/s"), (60, "run 0:05:00 left"), (30, ""),
    (120, "run 0:05:00 left · loss 1.500 · 3.0 images/s · box 0.500 · class 1.000"),
])  # fmt: skip
def test_the_bar_takes_one_line_of_the_terminal_and_counts_the_whole_run(
    width: int, note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two batches in 20 s here and two in 20 s before: 10 s each, for the 8 of this epoch and 22 later ones."""
    clock: dict[str, Any] = {"now": 0.0}
    monkeypatch.setattr("boxwright.progress.time.monotonic", lambda: clock["now"])
    screen = Console(width=width, force_terminal=True, file=io.StringIO())
    monkeypatch.setattr("boxwright.progress.Console", lambda stderr: screen)
    with Progress("epoch 3/20", total=10, whole=Whole(22, 2, 20.0)) as bar:
        for _ in range(2):
            clock["now"] += 10
            bar.update({"box": 0.5, "class": 1.0}, 3.0)
        assert bar.bar is not None
        assert bar.bar.tasks[0].fields["note"] == note
        shown = screen.render_lines(bar.bar.get_renderable())
        assert len(shown) == 1
        assert note in "".join(segment.text for segment in shown[0])
