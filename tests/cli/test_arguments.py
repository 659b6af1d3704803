"""The option --format: that every command which opens data has it, and that a run keeps it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from boxwright import cli
from boxwright.cli.arguments import DataFormat
from boxwright.cli.evaluate import Evaluate
from boxwright.cli.train import Train
from boxwright.cli.training import read_options, write_options
from boxwright.data.formats import FORMATS, DatasetError
from boxwright.detectors.config import RetinaNetConfig
from shapes import write_shapes


def test_the_formats_are_those_that_open() -> None:
    union, arg = get_args(DataFormat)
    choices = get_args(get_args(union)[0])
    assert choices == tuple(FORMATS) and arg.metavar == "|".join(choices)


@pytest.mark.parametrize(
    "command",
    [
        "data check DATA",
        "data show DATA",
        "propose DATA",
        "evaluate --data DATA",
        "bench --data DATA --device cpu",
        "train retinanet --data DATA --device cpu",
        "lineage --data DATA --device cpu",
    ],
)
def test_every_command_opens_the_given_format(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_shapes(tmp_path / "shapes", 3, format="coco")
    assert cli.main([str(data) if word == "DATA" else word for word in [*command.split(), "--format", "voc"]]) == 1
    shown = capsys.readouterr()
    assert "is not a dataset in a supported layout. Looked for\n" in shown.out + shown.err
    assert "VOC: " in shown.out + shown.err and "COCO: " not in shown.out + shown.err


def test_images_have_no_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["propose", str(tmp_path / "a.jpg"), "b.jpg", "--format", "voc"]) == 1
    assert "--format is for one dataset" in capsys.readouterr().err


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run on a folder of COCO that was read as YOLO: config.json and a checkpoint's name."""
    (tmp_path / "run").mkdir()
    data = write_shapes(tmp_path / "shapes", 3, format="coco")
    write_options(Train(RetinaNetConfig(), data, "yolo"), {}, tmp_path / "run" / "config.json")
    (tmp_path / "run" / "best.safetensors").touch()
    return tmp_path / "run"


def test_a_resumed_run_opens_the_same_format(run: Path) -> None:
    assert read_options(run / "config.json").format == "yolo"


@pytest.mark.parametrize("model", ["run", "run/best.safetensors"])
def test_evaluation_opens_the_format_of_the_run(run: Path, model: str) -> None:
    data = run.parent / "shapes"
    with pytest.raises(DatasetError, match=r"Looked for\n  YOLO"):
        Evaluate(str(run.parent / model), data).run()
    with pytest.raises(DatasetError, match=r"Looked for\n  VOC"):
        Evaluate(str(run.parent / model), data, "voc").run()
    other = write_shapes(run.parent / "other", 3, format="coco")
    with pytest.raises(ValueError, match="0 bytes|header|safetensors"):  # other data opens, and then there is no model
        Evaluate(str(run.parent / model), other).run()
    content = json.loads((run / "config.json").read_text())
    del content["options"]["format"]  # as a run of before
    (run / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="0 bytes|header|safetensors"):
        Evaluate(str(run.parent / model), data).run()
