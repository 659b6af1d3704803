"""The functions at the top of the package: the commands, with their options as keywords."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import boxwright
from boxwright.bench.plan.cells import Cell, grid
from boxwright.detectors import SSDConfig
from boxwright.train.run import Run  # so that the package boxwright.train is imported
from boxwright.train.stop import StoppedError
from shapes import NAMES, write_shapes

TINY = {"size": [48, 64], "batch": 2, "epochs": 1, "workers": 0, "device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), {"train": 4, "val": 2, "test": 1})


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = SSDConfig("mobilenet_v3_small", extra=(16, 16))
    return boxwright.train(config, data, out=tmp_path_factory.mktemp("runs") / "a", pretrained=False, lite=True, **TINY)


def test_importing_the_package_costs_nothing_and_train_is_called_by_its_name():
    code = (
        "import sys, boxwright; assert not {'torch', 'numpy', 'PIL', 'tyro'} & sys.modules.keys(), sys.modules.keys()\n"
        "assert {'train', 'race', 'evaluate', 'open_dataset', 'load', 'register'} <= set(dir(boxwright))\n"
        "assert all(callable(getattr(boxwright, name)) for name in boxwright.__all__ if name[0] != '_')\n"
        "import boxwright.train.config; assert callable(boxwright.train); from boxwright import train\n"
        "assert callable(train)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_train_takes_the_options_of_the_command_the_training_and_the_detector(run: Run):
    assert isinstance(run.config, SSDConfig) and run.config.lite and run.config.extra == (16, 16)
    assert (run.preprocess.short, run.preprocess.long, run.batch, run.training.lr) == (48, 64, 2, 5e-4)
    assert run.names == NAMES and run.best.is_file() and len(run.history.epochs()) == 1


def test_a_model_is_fine_tuned_and_resumed(run: Run, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tuned = boxwright.train(data=str(data), start=run.folder, out=tmp_path / "b", classes=["circle"], **TINY)
    assert "kept: circle" in capsys.readouterr().out
    assert tuned.config == run.config and tuned.names == ("circle",)
    assert boxwright.train(resume=tuned.folder).best == tuned.best


@pytest.mark.parametrize(
    ("words", "options", "error", "message"),
    [
        (["ssdd", "x"], {}, ValueError, "there is no detector 'ssdd'; did you mean ssd"),
        (["ssd", "missing"], {}, ValueError, "at missing, which does not exist"),
        (["ssd"], {}, ValueError, "name a detector and data"),
        (["ssd", "."], {"epoch": 3}, TypeError, "there is no option epoch; did you mean epochs?"),
        (["ssd", "."], {"hidden": 3}, TypeError, "there is no option hidden"),
        (["ssd", "."], {"augment": "much"}, ValueError, "augment is none, light, standard or strong, got 'much'"),
        (["ssd", "."], {"lr": -1}, ValueError, "lr is greater than 0"),
        ([], {"resume": "."}, ValueError, "no folder of a run"),
    ],
)
def test_what_cannot_be_trained(words: list[str], options: dict, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        boxwright.train(*words, **options)


def test_a_training_that_is_stopped_raises(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("boxwright.cli.training.start", lambda options: (run, 2))
    with pytest.raises(StoppedError, match=r"to continue: boxwright.train\(resume="):
        boxwright.train(resume=run.folder)


def test_a_model_is_evaluated_on_a_path_splits_or_a_dataset(run: Run, data: Path):
    splits, model = boxwright.open_dataset(data), boxwright.load(run.best)
    quality = boxwright.evaluate(run.folder, data)
    assert quality.images == 1 and list(quality.classes) == list(NAMES)
    assert quality._repr_html_().startswith("<pre>1 image, ")
    assert boxwright.evaluate(model, splits) == quality == boxwright.evaluate(model, splits["test"])
    assert boxwright.evaluate(model, splits, "val").images == 2
    with pytest.raises(ValueError, match="has no dev split; it has train, val, test"):
        boxwright.evaluate(model, data, "dev")


def test_a_race_takes_names_cells_and_the_options_of_the_command(monkeypatch: pytest.MonkeyPatch):
    seen = []
    monkeypatch.setattr("boxwright.bench.driver.race", lambda *given, **options: seen.append((given, options)))
    cell = Cell("mine", SSDConfig(lite=True), grid(["ssd"])[0].preprocess)
    boxwright.race(["ssd", "fcos", cell], "data/", sizes=[224, 320], budget="30m", seeds=1, lr=1e-3, retry=True)
    (cells, data, rules, training), options = seen[0]
    assert [c.name.split("-")[0] for c in cells] == ["ssd", "ssd", "fcos", "fcos", "mine"] and data == "data/"
    assert (rules.budget, rules.seeds, training.lr, options["retry"]) == ("30m", 1, 1e-3, True)
    with pytest.raises(TypeError, match="there is no option bugdet; did you mean budget"):
        boxwright.race(["ssd"], "data/", bugdet="30m")
