"""Detectors and backbones of users: registered in a file of their own, found by commands and by checkpoints."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import boxwright
from boxwright import plugins
from boxwright.backbones import BACKBONES, Classifier, build_backbone, register_backbone
from boxwright.backbones.build import _WEIGHTS
from boxwright.bench import Rules, grid
from boxwright.bench.run.parallel import _Worker
from boxwright.bench.run.state import RaceState
from boxwright.bench.run.timing import _footprint
from boxwright.checkpoint import CheckpointError, load_detector
from boxwright.cli import main
from boxwright.detectors.config import DETECTORS, KINDS, DetectorConfig, RetinaNetConfig, register
from boxwright.train.config import TrainConfig
from shapes import write_shapes

SMALL = shlex.split("--no-pretrained --size 64 96 --batch 2 --epochs 1 --workers 0 --precision fp32 --device cpu")

DETECTOR = '''
from dataclasses import dataclass

import torch

import boxwright
from boxwright.detectors import Detector, DetectorConfig
from boxwright.types import Slots


class Mine(Detector):
    """Sees an object of class 0 in the middle of every image, and learns its score."""

    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes
        self.score = torch.nn.Parameter(torch.zeros(()))

    def compute_loss(self, images, targets):
        return {"score": (self.score.sigmoid() - sum(map(len, targets)) / len(targets)) ** 2}

    def slots(self, images):
        half = images.sizes[:, None, :].flip(-1) / 4.0
        scores = self.score.sigmoid().expand(len(images), 1)
        labels = torch.zeros_like(scores, dtype=torch.int64)
        return Slots(torch.cat([half, 3 * half], -1), scores, labels, torch.ones_like(scores, dtype=torch.bool))


@boxwright.register("mine")
@dataclass(frozen=True)
class MineConfig(DetectorConfig):
    """The numbers of mine."""

    sharpness: int = 3
    """Read by nothing."""

    def build(self, num_classes, pretrained=False):
        return Mine(num_classes)
'''

BACKBONE = """
import boxwright
from boxwright.backbones import Classifier, cut_stages
from torch import nn


class Tiny(Classifier):
    def __init__(self, width=8):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Conv2d(width if i else 3, width, 3, 2, 1) for i in range(5)))
        self.stages = cut_stages((f"layers.{i}", 2, width) for i in range(5))


boxwright.register_backbone("tiny", Tiny)
"""


REGISTERED = (plugins._modules, plugins._files, plugins._options)
TABLES: tuple[dict[Any, Any], ...] = (DETECTORS, KINDS, BACKBONES, _WEIGHTS, *REGISTERED)
BEFORE = [dict(table) for table in TABLES]


def forget() -> None:
    """As in a new process, where nothing is registered."""
    for table, content in zip(TABLES, BEFORE, strict=True):
        table.clear()
        table.update(content)
    for name in ("my_detector", "my_backbone"):
        sys.modules.pop(name, None)
    plugins.discover.cache_clear()


@pytest.fixture(autouse=True)
def nothing_stays_registered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    yield
    forget()


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    (tmp_path / "my_detector.py").write_text(DETECTOR)
    return tmp_path / "my_detector.py"


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    (tmp_path / "my_backbone.py").write_text(BACKBONE)
    return tmp_path / "my_backbone.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), {"train": 4, "val": 2})


def test_a_file_s_detector_is_trained_evaluated_resumed_and_detects(detector: Path, data: Path, monkeypatch, capsys):
    words = [
        "train",
        "mine",
        "--plugin",
        str(detector),
        "--sharpness",
        "5",
        "--data",
        str(data),
        "--out",
        "run",
        *SMALL,
    ]
    assert main(words) == 0
    assert f"--model run/best.safetensors --plugin {detector}" in capsys.readouterr().out
    loaded = load_detector("run/best.safetensors")
    assert (type(loaded.detector).__name__, vars(loaded.config)["sharpness"]) == ("Mine", 5)
    assert loaded.metadata["plugins"] == json.loads(Path("run/config.json").read_text())["plugins"]
    assert loaded.metadata["plugins"] == {"detector": "my_detector"}
    assert boxwright.load("run")(data / "images" / "00000.png", threshold=0.01).label_names == ["circle"]

    capsys.readouterr()

    forget()
    for words in (["evaluate", "run", "--data", str(data)], ["train", "--resume", "run"]):
        assert main(words) == 1  # nothing is run that a checkpoint names
        shown = capsys.readouterr().err
        assert "needs the detector 'mine', which my_detector registers; import my_detector first" in shown
        assert shown.count("\n") == 1
    monkeypatch.setenv("BOXWRIGHT_PLUGINS", str(detector))
    plugins.discover.cache_clear()
    assert main(["evaluate", "run", "--data", str(data), "--json"]) == 0
    forget()
    assert type(boxwright.load("run").detector).__name__ == "Mine"  # in Python too
    assert main(["train", "--resume", "run", "--plugin=my_detector"]) == 0


def test_a_file_s_backbone_serves_every_detector(backbone: Path, data: Path, tmp_path: Path, capsys):
    words = ["train", "retinanet", "--backbone", "tiny", "--channels", "8", "--depth", "1", "--data", str(data)]
    assert main([*words, "--plugin", "my_backbone.py", "--out", "run", *SMALL]) == 0
    assert load_detector("run/best.safetensors").metadata["plugins"] == {"backbone": "my_backbone"}
    capsys.readouterr()
    forget()
    assert main(["detect", str(data / "images" / "00000.png"), "--model", "run", "--no-draw"]) == 1
    assert "needs the backbone 'tiny', which my_backbone registers" in capsys.readouterr().err
    assert main([*words, "--plugin", "my_backbone.py", "--out", "other"]) == 1
    assert "'tiny' was registered without weights; start from random ones with" in capsys.readouterr().err


def test_weights_of_a_registered_backbone(backbone: Path, tmp_path: Path):
    import torch
    from safetensors.torch import save_file

    plugins.load("my_backbone.py")
    tiny: Any = BACKBONES["tiny"](width=4)
    save_file(tiny.state_dict(), "tiny.safetensors")
    register_backbone("tiny-4", lambda: type(tiny)(width=4), weights="tiny.safetensors")
    built = build_backbone("tiny-4", (3,), pretrained=True)
    assert torch.equal(built.state_dict()["body.layers.0.weight"], tiny.state_dict()["layers.0.weight"])


def test_an_entry_point_is_a_plugin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[boxwright.plugins]\nmine = my_detector\nbroken = no_such_module\n")
    (tmp_path / "my_detector.py").write_text(DETECTOR)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(UserWarning, match="the installed plugin no_such_module fails with ModuleNotFoundError"):
        plugins.discover()
    assert DETECTORS["mine"].__name__ == "MineConfig"


@pytest.mark.parametrize(
    ("plugin", "content", "message"),
    [
        ("none.py", None, "there is no plugin none.py; expected a Python file, or the name of a module"),
        ("no_such_module", None, "there is no plugin no_such_module; expected"),
        ("empty_plugin.py", "x = 1", "empty_plugin.py registers nothing; call boxwright.register"),
        ("slip.py", "\nx = y", "slip.py fails with NameError: name 'y' is not defined (slip.py, line 2)"),
        ("slip2.py", "x = = 1", "slip2.py fails with SyntaxError: invalid syntax (slip2.py, line 1)"),
        ("json.py", "x = 1", "json.py has the name of the module json"),
    ],
)
def test_what_is_no_plugin(plugin: str, content: str | None, message: str, tmp_path: Path, capsys):
    if content is not None:
        (tmp_path / plugin).write_text(content)
    assert main(["models", "--plugin", plugin]) == 1
    shown = capsys.readouterr().err
    assert message in shown and shown.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        (
            "ssd",
            RetinaNetConfig,
            r"boxwright itself has a detector 'ssd'; give that of .*test_plugins \(.*another name",
        ),
        ("My-Own", RetinaNetConfig, "lower-case letters, digits and _, got 'My-Own'$"),
        ("mine", Classifier, "a class below DetectorConfig with @dataclass.*; got .*Classifier"),
        ("mine", type("Plain", (DetectorConfig,), {}), "a class below DetectorConfig with @dataclass"),
    ],
)
def test_what_is_not_registered_as_a_detector(name: str, config: type, message: str):
    with pytest.raises(ValueError, match=message):
        register(name, config)


def test_what_is_not_registered_as_a_backbone():
    for name, network, message in [("resnet50", Classifier, "itself has a b"), ("x:y", Classifier, "without ':'"),
                                   ("mine", Classifier(), "got Classifier")]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            register_backbone(name, network)  # pyright: ignore[reportArgumentType]


def test_a_config_that_is_not_registered_says_how(tmp_path: Path, detector: Path):
    plugins.load("my_detector.py")
    config = KINDS.pop("mine")
    from boxwright.detectors.config import name_of

    with pytest.raises(ValueError, match=r"got a MineConfig; boxwright.register\(NAME, CONFIG\)"):
        name_of(config())


def test_a_race_takes_a_registered_detector_and_backbone(detector: Path, backbone: Path):
    plugins.load(str(detector))
    plugins.load(str(backbone))
    cells = grid(["ssd", "mine"], ["tiny"], sizes=[64])
    assert [(cell.name, cell.detector) for cell in cells] == [("ssd-tiny-64", "ssd"), ("mine-64", "mine")]


def test_what_another_process_and_the_next_command_need(detector: Path, backbone: Path, monkeypatch):
    plugins.load("my_detector.py")
    assert plugins.options(["my_detector"]) == " --plugin my_detector.py" and plugins.options([]) == ""
    monkeypatch.setattr(sys, "path", [str(backbone.parent), *sys.path])
    import_module("my_backbone")  # as in Python, where nobody has given a --plugin
    assert plugins.options(["my_detector", "my_backbone"]) == f" --plugin my_detector.py --plugin {backbone}"
    assert plugins.for_new_process() == os.pathsep.join(map(str, (detector, backbone)))


def test_an_installed_plugin_needs_no_option(monkeypatch: pytest.MonkeyPatch):
    point = EntryPoint("mine", "my_package.detectors", plugins.GROUP)
    monkeypatch.setattr(plugins, "_entry_points", lambda: [point])
    assert plugins.options(["my_package.ssd", "other.ssd"]) == " --plugin other.ssd"


def test_a_worker_knows_the_plugins_of_its_race(detector: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch):
    import torch

    plugins.load("my_detector.py")
    plugins.load("my_backbone.py")
    known = plugins.for_new_process()
    forget()
    monkeypatch.setenv(plugins.VARIABLE, "")
    assert "mine" not in DETECTORS and "tiny" not in BACKBONES
    _Worker(torch.get_num_threads(), known)
    assert "mine" in DETECTORS and "tiny" in BACKBONES


OTHER = DETECTOR.replace("class MineConfig", "class OtherConfig")


def test_two_plugins_of_one_name_are_refused_by_name(detector: Path, backbone: Path, tmp_path: Path, capsys):
    for name, content in (("my_other", OTHER), ("my_ssd", DETECTOR.replace('"mine"', '"ssd"'))):
        (tmp_path / f"{name}.py").write_text(content)
    assert main(["models", "--plugin", "my_detector.py", "--plugin", "my_other.py"]) == 1
    shown = capsys.readouterr().err
    assert "my_detector (" in shown and "my_other (" in shown and "both register a detector 'mine'; rename" in shown
    assert "(my_other.py, line " in shown and DETECTORS["mine"].__name__ == "MineConfig"
    assert main(["models", "--plugin", "my_ssd.py"]) == 1
    assert "boxwright itself has a detector 'ssd'; give that of my_ssd (" in capsys.readouterr().err
    plugins.load("my_backbone.py")
    with pytest.raises(ValueError, match="my_backbone .* and .*test_plugins .* both register a backbone 'tiny'"):
        register_backbone("tiny", Classifier)


def test_a_notebook_s_cell_is_run_again():
    for _ in range(2):
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(DETECTOR, names)
        assert DETECTORS["mine"] is names["MineConfig"]
    with pytest.raises(ValueError, match="this session and .*test_plugins .* both register a detector 'mine'"):
        register("mine", RetinaNetConfig)


def test_what_a_session_registers_is_not_for_other_processes(data: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    exec(DETECTOR, {"__name__": "__main__"})
    run = boxwright.train(
        "mine", data, out="run", pretrained=False, size=(64, 96), batch=2, epochs=1, workers=0, device="cpu"
    )
    shown = capsys.readouterr()
    assert "\nboxwright.load('run/best.safetensors')('photo.jpg'), in this session; commands need" in shown.out
    assert "Mine, 0.0 M parameters learn" in shown.out and "backbone" not in shown.err
    cells = grid(["mine"], sizes=[64])
    with pytest.raises(ValueError, match="cannot import what this session registered for mine-64; move that into a"):
        RaceState(cells, boxwright.open_dataset(data), Rules(parallel=2), TrainConfig(), "race")
    state = RaceState(cells, boxwright.open_dataset(data), Rules(seeds=1), TrainConfig(), "race")
    monkeypatch.setattr(RaceState, "jobs", lambda *_: [run])
    assert sorted(_footprint(state, "mine-64")) == ["file", "flops", "parameters"]
    assert "mine-64: no memory and no time to the first boxes" in capsys.readouterr().err


def test_a_detector_without_a_backbone_has_no_options_of_one(detector: Path, capsys):
    words = ["train", "mine", "--plugin", "my_detector.py"]
    assert main([*words, "--help"]) == 0
    assert "Options of mine: --sharpness." in capsys.readouterr().out
    assert main([*words, "--backbone", "resnet18", "--data", "x"]) == 2
    assert "--backbone is not read by mine; it is read by localizer" in capsys.readouterr().err


def test_a_plugin_that_trains_while_it_is_imported(tmp_path: Path, capsys):
    (tmp_path / "trains.py").write_text(f'import boxwright\n{DETECTOR}\nboxwright.train("mine", "data")\n')
    assert main(["models", "--plugin", "trains.py"]) == 1
    shown = capsys.readouterr().err
    assert "boxwright.train runs while this file is imported as a plugin; put it under if __name__ ==" in shown


def test_a_session_s_detector_says_so(tmp_path: Path):
    assert "session or notebook" in plugins.mend("__main__")
    assert issubclass(CheckpointError, ValueError)
