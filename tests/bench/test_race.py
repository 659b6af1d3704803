"""A race from end to end on a few drawn images: its result, and that it goes on after it was killed."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.tiny_race import CELLS, PARTS, RULES, TRAINING, patch, run
from boxwright.bench.plan import checks
from boxwright.bench.result import Race
from boxwright.bench.run import job
from boxwright.bench.run import state as race_state
from boxwright.bench.run.external import ExternalModel
from boxwright.bench.run.job import Effort, load_detections
from boxwright.cli import main
from boxwright.data.formats import open_dataset
from boxwright.measure.evaluate import targets_of
from boxwright.metrics import evaluate
from boxwright.train.loop import DivergedError
from boxwright.train.stop import StoppedError
from boxwright.types import Detections
from shapes import write_shapes


class KilledError(BaseException):
    """As SIGKILL: nothing is noted after it."""


NOTHING = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), PARTS)


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    patch(monkeypatch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("race") / "whole"


@pytest.fixture(scope="module")
def whole(data: Path, folder: Path) -> Race:
    """Four cells with two seeds, two of them put out after one of two epochs; never interrupted."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        patch(monkeypatch, drawn=True)
        return run(data, folder)


def lasting(race: Race) -> list[Any]:
    """All of a result that does not depend on the moment."""
    entries = [replace(entry, speed={}, seconds=0.0) for entry in race.entries]
    return [entries, race.rungs, race.settings, race.differences]


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "bench.json").read_text())


def test_every_cell_has_its_entry(whole: Race):
    entries = {entry.name: entry for entry in whole.entries}
    assert list(entries) == [cell.name for cell in CELLS]
    (rung,) = whole.rungs
    kept = {one.name for one in rung.standings if one.kept}
    assert rung.epoch == 1 and len(kept) == 2
    for name, entry in entries.items():
        assert entry.state == ("finished" if name in kept else "stopped")
        assert entry.epochs == (2 if name in kept else 1)
        assert set(entry.learning) == {0, 1}
        assert all(len(one.losses) == entry.epochs and entry.epochs in one.val for one in entry.learning.values())
        assert entry.quality and len(entry.quality.seeds) == 2
        assert entry.quality.ap.value == pytest.approx(sum(entry.quality.seeds) / 2)
        assert entry.quality.ap.low <= entry.quality.ap.value <= entry.quality.ap.high
        speed = entry.speed["eager"]
        assert 0 < speed.p50.low <= speed.p50.value <= speed.p95.value
        assert speed.throughput > 0 and sum(speed.stages.values()) > 0
        assert entry.parameters and entry.flops and entry.file and entry.memory
    assert entries["faster"].proposals == 20 and entries["ssd"].proposals is None
    assert whole.verdict.leader in kept and whole.verdict.winner is None
    assert "2 epochs (3 are needed)" in whole.verdict.too_little_evidence
    assert set(whole.verdict.to_best) == set(whole.verdict.to_leader) == set(entries)
    assert whole.control is not None


def test_two_seeds_are_two_trainings(folder: Path, whole: Race):
    first, second = (np.load(folder / "cells" / "ssd" / f"seed{seed}" / "test.npz") for seed in (0, 1))
    assert first["scores"].tolist() != second["scores"].tolist()


def test_what_is_in_the_folder(folder: Path, whole: Race):
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "bench.json", "data.json", "cells", "report.html", "results.json", "results.csv", "frontier.png",
        "frontier.svg",
    }  # fmt: skip
    files = {path.name for path in (folder / "cells" / "retina" / "seed0").iterdir()}
    assert {"best.safetensors", "log.jsonl", "test.npz"} <= files
    assert not files & {"resume.safetensors", "last.safetensors"}
    assert read(folder)["plan"]["rungs"] == [1]


def test_a_finished_race_is_only_written_again(data: Path, folder: Path, whole: Race, monkeypatch: pytest.MonkeyPatch):
    before = read(folder)
    for name in ("train", "measure", "pace"):
        monkeypatch.setattr(race_state, name, lambda *_, **__: pytest.fail("this was done before"))
    again = run(data, folder, constraints=["file<1GB"])
    assert lasting(again)[:2] == lasting(whole)[:2]
    assert [entry.speed for entry in again.entries] == [entry.speed for entry in whole.entries]
    assert again.made == whole.made
    assert {**read(folder), "spent": 0, "command": ""} == {**before, "spent": 0, "command": ""}


def test_killed_in_the_middle_it_comes_to_the_same(data: Path, whole: Race, folder: Path, tmp_path: Path):
    """SIGKILL, which nobody can catch, while the third of eight jobs learns."""
    script = Path(__file__).with_name("tiny_race.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, sys.path), str(script.parents[1])])}
    process = subprocess.Popen([sys.executable, str(script), str(data), str(tmp_path / "out")], env=environment)
    log = tmp_path / "out" / "cells" / "retina" / "seed0" / "log.jsonl"
    while not log.exists() and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "out" / "report.html").exists()
    done = run(data, tmp_path / "out")
    assert lasting(done) == lasting(whole)
    for cell in CELLS:
        for seed in (0, 1):
            path = Path("cells") / cell.name / f"seed{seed}" / "test.npz"
            one, other = load_detections(folder / path), load_detections(tmp_path / "out" / path)
            assert all(
                torch.equal(a.boxes, b.boxes) and torch.equal(a.scores, b.scores)
                for a, b in zip(one, other, strict=True)
            )


def test_stopped_between_epochs_it_goes_on(data: Path, whole: Race, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    train, done = race_state.train, []

    def stops(job: Any, until: int) -> None:
        if len(done) == 3:
            raise StoppedError("stopped", signal.SIGTERM)
        done.append(job)
        train(job, until)

    with monkeypatch.context() as patched, pytest.raises(StoppedError):
        patched.setattr(race_state, "train", stops)
        run(data, tmp_path)
    assert lasting(run(data, tmp_path)) == lasting(whole)


def test_other_settings_are_refused_by_name(data: Path, folder: Path, whole: Race):
    before = (folder / "bench.json").read_bytes()
    with pytest.raises(ValueError, match="other settings: lr was 0.0005, now 0.1"):
        run(data, folder, training=replace(TRAINING, lr=0.1))
    with pytest.raises(ValueError, match="seeds was 2, now 3"):
        run(data, folder, rules=replace(RULES, seeds=3))
    other = replace(CELLS[0], config=replace(CELLS[0].config, hidden=8))
    with pytest.raises(ValueError, match="other settings: faster hidden was 16, now 8"):
        run(data, folder, [other, *CELLS[1:]])
    assert (folder / "bench.json").read_bytes() == before


def test_a_damaged_cell_hides_no_other(data: Path, folder: Path, whole: Race, tmp_path: Path):
    out = tmp_path / "race"
    shutil.copytree(folder, out)
    best, detections = (
        out / "cells" / "retina" / "seed0" / "best.safetensors",
        out / "cells" / "ssd" / "seed1" / "test.npz",
    )
    for path in (best, detections):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    entries = {entry.name: entry for entry in run(data, out).entries}
    assert str(best) in entries["retina"].reason and "damaged" in entries["retina"].reason
    assert str(detections) in entries["ssd"].reason
    assert {entries[name].state for name in ("retina", "ssd")} == {"failed"}
    assert all(entry.quality for name, entry in entries.items() if name not in ("retina", "ssd"))
    for text in ("{", "[" * 100_000, "[]", "{}", '{"settings": {}, "configs": {}, "rungs": [{"epoch": 1}]}'):
        (out / "bench.json").write_text(text)
        with pytest.raises(ValueError, match=r"bench\.json.* it is no record of boxwright bench: move it away"):
            race_state.RaceState(CELLS, open_dataset(data), RULES, TRAINING, out)


def test_the_state_of_a_race_of_before_goes_on(data: Path, folder: Path, whole: Race, tmp_path: Path):
    """As it was written before images, splits and options got the names of today."""
    text = (folder / "bench.json").read_text()
    for today, before in {
        "train images": "train pictures", "val images": "val pictures", "test images": "test pictures",
        "splits": "parts", "class_agnostic": "agnostic", "canonical_size": "canonical",
    }.items():  # fmt: skip
        assert f'"{today}": ' in text
        text = text.replace(f'"{today}": ', f'"{before}": ')
    content = json.loads(text)
    del content["proposals"], content["settings"]["flat"], content["settings"]["light_end"]
    (tmp_path / "bench.json").write_text(json.dumps(content))
    state = race_state.RaceState(CELLS, open_dataset(data), RULES, TRAINING, tmp_path)
    assert state.record.content["settings"] == read(folder)["settings"]
    assert state.record.content["configs"] == read(folder)["configs"]
    assert state.plan and [rung.epoch for rung in state.rungs] == [1]
    del content["settings"]["momentum"], content["settings"]["peak_momentum"]
    (tmp_path / "bench.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"momentum was 0\.9, now 0\.8"):
        race_state.RaceState(CELLS, open_dataset(data), RULES, replace(TRAINING, momentum=0.8), tmp_path)


def test_a_cell_that_fails_is_told_and_the_rest_go_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    train = race_state.train

    def diverges(job: Any, until: int) -> None:
        if job.cell.name == "retina" and job.training.seed == 1:
            raise DivergedError("the loss is no longer a finite number\nand more")
        train(job, until)

    monkeypatch.setattr(race_state, "train", diverges)
    monkeypatch.setattr(race_state, "make_plan", lambda *_, **__: race_state.Plan(1, (), 1.0))
    done = run(data, tmp_path, [CELLS[1], CELLS[3]])
    failed, finished = done.entries
    assert (failed.state, finished.state) == ("failed", "finished")
    assert failed.reason == "seed 1: DivergedError: the loss is no longer a finite number"
    assert failed.quality is None and done.verdict.leader == "ssd"
    assert "no longer a finite number" in (tmp_path / "report.html").read_text()


def test_a_cell_that_cannot_begin_fails_before_the_plan(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def small(job: Any) -> Effort:
        if job.cell.name == "retina":
            raise RuntimeError("out of memory: tried to allocate 4 GiB")
        return Effort(0.1, 0.01, 0.0, 1000)

    monkeypatch.setattr(race_state, "pace", small)
    done = run(data, tmp_path, [CELLS[1], CELLS[3]])
    assert done.entries[0].reason == "RuntimeError: out of memory: tried to allocate 4 GiB"
    assert done.entries[1].state == "finished"


def test_a_job_that_ends_the_process_is_given_up_after_three_times(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    train = race_state.train

    def dies(job: Any, until: int) -> None:
        if job.cell.name == "retina":
            raise KilledError
        train(job, until)

    monkeypatch.setattr(race_state, "train", dies)
    for _ in range(3):
        with pytest.raises(KilledError):
            run(data, tmp_path, [CELLS[1], CELLS[3]])
    done = run(data, tmp_path, [CELLS[1], CELLS[3]])
    assert done.entries[0].state == "failed"
    assert "the process ended 3 times in epoch 1 without a word; out of memory?" in done.entries[0].reason
    assert done.verdict.leader == "ssd"


def test_who_is_asked_to_stop_often_is_not_given_up(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def stops(job: Any, until: int) -> None:
        raise StoppedError("stopped", signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(race_state, "train", stops)
        for _ in range(5):
            with pytest.raises(StoppedError):
                run(data, tmp_path, [CELLS[3]])
    assert run(data, tmp_path, [CELLS[3]]).entries[0].state == "finished"


def test_what_failed_is_tried_again_if_wanted(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(race_state, "make_plan", lambda *_, **__: race_state.Plan(1, (), 1.0))

    def full(job: Any, until: int) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(race_state, "train", full)
        assert run(data, tmp_path, [CELLS[3]]).entries[0].state == "failed"
    assert run(data, tmp_path, [CELLS[3]]).entries[0].state == "failed"
    assert run(data, tmp_path, [CELLS[3]], retry=True).entries[0].state == "finished"


def test_a_cell_that_finds_nonsense_has_failed(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(race_state, "make_plan", lambda *_, **__: race_state.Plan(1, (), 1.0))
    nonsense = Detections(torch.full((1, 4), math.nan), torch.ones(1), torch.zeros(1, dtype=torch.int64))
    monkeypatch.setattr(job, "detect_dataset", lambda *_: [nonsense])
    (entry,) = run(data, tmp_path, [CELLS[3]]).entries
    assert entry.state == "failed" and "not finite" in entry.reason


def test_a_test_image_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(race_state, "make_plan", lambda *_, **__: race_state.Plan(1, (), 1.0))
    data = write_shapes(tmp_path / "shapes", PARTS)
    broken = open_dataset(data)["test"].path(1)
    broken.write_bytes(broken.read_bytes()[:500])  # its header is whole, so that it is found when its pixels are read
    with pytest.warns(UserWarning, match="cannot be read"):
        done = run(data, tmp_path / "out", [CELLS[3]])
    assert broken.name in done.settings["test images that cannot be read"]
    assert broken.name in (tmp_path / "out" / "report.html").read_text()


def test_data_that_changed_are_other_data(data: Path, folder: Path, whole: Race):
    splits = open_dataset(data)
    splits["val"].boxes[0] += 1
    with pytest.raises(ValueError, match="other data: val: 1 image with other boxes, classes or size.*another --out"):
        run(splits, folder)  # type: ignore[arg-type]


def test_where_the_parts_were_drawn_the_commands_draw_the_same(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(race_state, "make_plan", lambda *_, **__: race_state.Plan(1, (), 1.0))
    splits = open_dataset(data, seed=3)
    splits.drawn = ("val", "test")
    done = run(splits, tmp_path, [CELLS[3]], training=replace(TRAINING, seed=3))  # type: ignore[arg-type]
    assert done.commands["score"].endswith("--seed 3") and "--seed 3" in done.commands["train it again"]
    assert (tmp_path / "splits.json").is_file()


def test_a_full_disk_is_said_before_the_work(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: usage(10**9, 10**9, 10_000))
    with pytest.raises(OSError, match=r"0 MB left, and the race needs up to .* --out"):
        run(data, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_disk_that_fills_up_ends_it_and_nothing_is_lost(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr(race_state, "measure", full)
        run(data, tmp_path, [CELLS[3]])
    assert not read(tmp_path)["failed"]
    monkeypatch.setattr(race_state, "train", lambda *_, **__: pytest.fail("this was learnt before"))
    assert run(data, tmp_path, [CELLS[3]]).entries[0].state == "finished"


def test_anybodys_model_is_measured_as_an_external_model(data: Path, tmp_path: Path):
    looked = []

    def detect(path: Path) -> dict[str, Any]:
        looked.append(path)
        return {"boxes": np.array([[0.0, 0.0, 10.0, 10.0]]), "scores": [0.5], "labels": [1]}

    done = run(data, tmp_path, [CELLS[3], ExternalModel("mine", detect)])
    external_model = done.entries[1]
    assert (external_model.state, external_model.detector, external_model.parameters) == ("external", "", None)
    assert external_model.quality is not None and len(external_model.quality.seeds) == 1
    assert list(external_model.speed) == ["own"] and set(external_model.speed["own"].stages) == {"detect"}
    assert len(looked) == 4 + 3 * 3  # every test image, then two and one before them, in three rounds


def test_race_is_a_function_however_often_it_is_asked_for():
    from boxwright import bench

    assert all(callable(bench.race) for _ in range(2))


def test_only_external_models(data: Path, tmp_path: Path):
    done = run(
        data,
        tmp_path,
        [ExternalModel("blind", lambda path: NOTHING), ExternalModel("blind too", lambda path: ([], [], []))],
    )
    assert [entry.state for entry in done.entries] == ["external", "external"]
    assert done.verdict.leader in ("blind", "blind too")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "expected Detections, or boxes, scores and labels; got NoneType"),
        (([[1, 2, 3]], [0.5], [0]), r"expected boxes \(D, 4\)"),
        (([[1, 2, 3, 4]], [0.5], [3]), "expected labels 0 to 2.*got 3 to 3"),
        ({"boxes": []}, "got dict"),
        (([[1, 2, math.nan, 4]], [0.5], [0]), "expected finite boxes and scores"),
    ],
)
def test_an_external_model_that_gives_something_else(data: Path, tmp_path: Path, answer: Any, said: str):
    done = run(
        data, tmp_path, [ExternalModel("blind", lambda path: NOTHING), ExternalModel("odd", lambda path: answer)]
    )
    assert [entry.state for entry in done.entries] == ["external", "failed"]
    assert re.search(said, done.entries[1].reason)


def test_the_command_of_the_winner_does_the_same(
    data: Path, whole: Race, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    words = shlex.split(whole.commands["train it again"])
    (winner,) = (entry for entry in whole.entries if entry.name == whole.verdict.leader)
    assert words[:3] == ["boxwright", "train", winner.detector]
    assert main([*words[1:], "--device", "cpu", "--workers", "0", "--out", str(tmp_path)]) == 0
    jobs = (folder / "cells" / str(whole.verdict.leader)).iterdir()
    tables = [(path / "best.safetensors").read_bytes()[-1000:] for path in jobs]  # weights are at the end
    assert (tmp_path / "best.safetensors").read_bytes()[-1000:] in tables


def test_numbers_are_those_of_the_evaluator(whole: Race, folder: Path, data: Path):
    test = open_dataset(data)["test"]
    entry = whole.entries[0]
    assert entry.quality
    for seed, ap in enumerate(entry.quality.seeds):
        found = load_detections(folder / "cells" / entry.name / f"seed{seed}" / "test.npz")
        assert ap == evaluate(found, targets_of(test), test.names).ap


def test_what_cannot_be_raced(data: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="takes one cell or more"):
        race_state.RaceState([], open_dataset(data), RULES, TRAINING)
    with pytest.raises(ValueError, match="each name is in a race once, as is the folder of that name; got ssd, ssd"):
        run(data, tmp_path, [CELLS[3], CELLS[3]])
    with pytest.raises(ValueError, match="got a/b, A_b"):
        run(data, tmp_path, [replace(CELLS[3], name="a/b"), replace(CELLS[1], name="A_b")])
    with pytest.raises(ValueError, match=r"a name is to be a folder's too, got '\.\.'"):
        run(data, tmp_path, [replace(CELLS[3], name="..")])
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is a file"):
        run(data, tmp_path / "file" / "out")
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(ValueError, match=r"has report\.html, but no bench\.json of a race; give another --out"):
        run(data, tmp_path)
    (tmp_path / "report.html").unlink()
    with pytest.raises(ValueError, match='no class "cat"'):
        run(data, tmp_path, constraints=["recall[cat]>0.9"])
    with pytest.raises(ValueError, match="seeds is 1 or more, got 0"):
        replace(RULES, seeds=0)
    with pytest.raises(ValueError, match="such as 45s, 30m"):
        replace(RULES, budget="soon")
    with pytest.raises(ValueError, match="workers is 0 or more, got -1"):
        replace(RULES, workers=-1)
    with pytest.raises(ValueError, match="runtimes are different ones of eager, compiled, captured; got eager eager"):
        replace(RULES, runtimes=("eager", "eager"))
    with pytest.raises(ValueError, match="augment is one of none"):
        replace(RULES, augment="x")  # type: ignore[arg-type]
