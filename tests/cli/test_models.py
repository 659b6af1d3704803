"""The list of models, for people and for programs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from boxwright import cli, zoo
from boxwright.checkpoint import CheckpointError, load_detector


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
    head, ours, theirs, why, *_ = capsys.readouterr().out.splitlines()
    assert head.split() == ["model", "detector", "AP", "AP50", "on", "score", "≥", "MB", "classes"]
    assert ours.split() == [str(runs / "ours"), "retinanet", "0.400", "–", "val", "0.786", "0.0", "cat,", "dog"]
    assert theirs.split()[:4] == [str(runs / "theirs"), "cannot", "be", "read"]
    assert why.endswith("theirs/best.safetensors: a safetensors file, but not one that boxwright wrote")


def test_as_json(runs: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["models", "--runs", str(runs), "--json"]) == 0
    ours, theirs, *_ = json.loads(capsys.readouterr().out)
    assert ours["name"] == str(runs / "ours") and ours["names"] == ["cat", "dog"]
    assert ours["threshold"] == 0.786
    assert theirs["name"] == str(runs / "theirs") and theirs["path"] == str(runs / "theirs" / "best.safetensors")
    assert "not one that boxwright wrote" in theirs["fault"] and theirs.keys() == {"name", "path", "fault"}


@pytest.mark.parametrize(
    "about",
    [
        "no JSON", "[" * 100_000, "[]", "{}", {"detector": 3}, {"names": []}, {"names": ["a", "a"]}, {"names": "ab"},
        {"names": ["a", 1]}, {"metrics": {"val": {"ap": "good"}}}, {"metrics": [1]}, {"threshold": float("nan")},
        {"threshold": 7}, {"proof": []}, {"format": 3}, {"format": 2}, {"sha256": "0" * 64}, {"config": None},
    ],
    ids=lambda about: str(about)[:40],
)  # fmt: skip
def test_a_broken_model_hides_no_other(about: object, runs: Path, capsys: pytest.CaptureFixture[str]):
    whole = {"detector": "retinanet", "names": ["cat", "dog"], "config": {}, "preprocess": {}}
    text = about if isinstance(about, str) else json.dumps(whole | about)  # type: ignore[operator]
    path = runs / "a" / "best.safetensors"
    path.parent.mkdir()
    save_file({}, path, {"boxwright": text})
    assert cli.main(["models", "--runs", str(runs)]) == 0
    shown = capsys.readouterr().out
    assert re.search(rf"{runs / 'ours'} +retinanet", shown)
    if about not in ({"format": 2}, {"sha256": "0" * 64}):  # whose digest is checked when it is loaded
        assert f"{runs / 'a'} cannot be read: {path}" in shown
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        load_detector(path)


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
