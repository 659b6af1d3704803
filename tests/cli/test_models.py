"""The list of models, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from boxwright import cli, zoo


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One run with a checkpoint of ours, one with somebody else's; nothing bundled."""
    monkeypatch.setattr(zoo, "_FOLDER", tmp_path / "bundled")
    for name in ("ours", "theirs"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    about = {"detector": "retinanet", "names": ["cat", "dog"], "threshold": 0.786}
    about |= {"metrics": {"val": {"ap": 0.4, "ap50": None}}}
    save_file({}, tmp_path / "runs" / "ours" / "best.safetensors", {"boxwright": json.dumps(about)})
    save_file({}, tmp_path / "runs" / "theirs" / "best.safetensors")
    return tmp_path / "runs"


def test_a_row_per_model(runs: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["models", "--runs", str(runs)]) == 0
    head, ours, theirs, *_ = capsys.readouterr().out.splitlines()
    assert head.split() == ["model", "detector", "AP", "AP50", "on", "score", "≥", "MB", "classes"]
    assert ours.split() == [str(runs / "ours"), "retinanet", "0.400", "–", "val", "0.786", "0.0", "cat,", "dog"]
    assert "not written by boxwright" in theirs


def test_as_json(runs: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["models", "--runs", str(runs), "--json"]) == 0
    ours, theirs, *_ = json.loads(capsys.readouterr().out)
    assert ours["name"] == str(runs / "ours") and ours["names"] == ["cat", "dog"]
    assert ours["threshold"] == 0.786
    assert theirs == {"name": str(runs / "theirs"), "path": str(runs / "theirs" / "best.safetensors")}


def test_nothing_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(zoo, "_FOLDER", tmp_path)
    assert cli.main(["models", "--runs", str(tmp_path / "none")]) == 0
    assert "no run in" in capsys.readouterr().out


def test_the_models_of_other_libraries(runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """With their licence, and whether the published file is where its library keeps it."""
    monkeypatch.setenv("TORCH_HOME", str(runs / "torch"))
    file = runs / "torch" / "hub" / "checkpoints" / "fcos_resnet50_fpn_coco-99b0c9b7.pth"
    file.parent.mkdir(parents=True)
    file.touch()
    assert cli.main(["models", "--runs", str(runs)]) == 0
    out = capsys.readouterr().out
    lines = {line.split()[0]: line.split()[1] for line in out.splitlines() if line.startswith("torchvision:")}
    assert len(lines) == 9
    assert [name for name, at_hand in lines.items() if at_hand == "yes"] == ["torchvision:fcos_resnet50_fpn"]
    assert "licence of torchvision's weights: none of their own" in out
    assert cli.main(["models", "--runs", str(runs), "--json"]) == 0
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert entries["torchvision:fcos_resnet50_fpn"]["path"] == str(file)
    assert entries["torchvision:ssd300_vgg16"]["path"] is None and entries["torchvision:ssd300_vgg16"]["url"]
