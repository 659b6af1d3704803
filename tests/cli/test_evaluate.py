"""`boxwright evaluate` scores a detector whose answer is known, by class name and not by position."""

from __future__ import annotations

import json
from pathlib import Path

import PIL.Image
import pytest
import torch

from boxwright import cli, zoo
from boxwright.predict.predictor import Predictor
from halves import halves


@pytest.fixture(autouse=True)
def known_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "load", lambda model, device: halves())
    monkeypatch.setattr(zoo, "find", Path)


def write(folder: Path, names: dict[str, list[float]], file: str = "test.json") -> Path:
    """Three images of 40 x 30, each with one box xywh per class."""
    images = [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in range(3)]
    for i in range(3):
        PIL.Image.new("RGB", (40, 30), (i, i, i)).save(folder / f"{i}.png")
    categories = [{"id": 5 + i, "name": name} for i, name in enumerate(names)]
    boxes = [
        {"id": 10 * i + k, "image_id": i, "category_id": 5 + k, "bbox": box}
        for i in range(3)
        for k, box in enumerate(names.values())
    ]
    (folder / file).write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return folder / file


def test_classes_meet_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The dataset has the classes in another order, one that the model does not know, and boxes right for "half"."""
    data = write(tmp_path, {"dog": [0, 0, 9, 9], "half": [0, 0, 20, 30], "whole": [30, 20, 5, 5]})
    assert cli.main(["evaluate", "some.safetensors", "--data", str(data), "--json"]) == 0
    shown = capsys.readouterr()
    quality = json.loads(shown.out)
    assert quality["classes"]["half"]["ap"] == pytest.approx(1.0)
    assert quality["classes"]["whole"]["ap"] == 0.0
    assert quality["ap"] == pytest.approx(0.5)
    assert (quality["split"], quality["images"], quality["objects"]) == ("test", 3, 6)
    assert "the model does not have them: dog" in shown.err


def test_bf16_is_compared_with_fp32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    data = write(tmp_path, {"half": [0, 0, 20, 30]})
    blind = halves().with_program(lambda images: halves().program(images).replace(boxes=torch.zeros(len(images), 2, 4)))
    monkeypatch.setattr(Predictor, "with_precision", lambda predictor, precision: blind)
    words = ["evaluate", "some.safetensors", "--data", str(data), "--precision", "bf16"]
    assert cli.main(words) == 0
    assert "AP 0.0000 in bf16, 1.0000 in fp32" in capsys.readouterr().out
    assert cli.main([*words, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["precision"], printed["ap_fp32"], printed["ap"]) == ("bf16", 1.0, 0.0)


def test_a_class_without_an_object_does_not_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = write(tmp_path, {"whole": [0, 0, 40, 30]})
    assert cli.main(["evaluate", "some.safetensors", "--data", str(data)]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(f"some.safetensors on the test split of {data}\n3 images, 3 objects, 6 detections\n")
    rows = {line.split()[0]: line.split()[1:] for line in shown.out.splitlines() if line}
    assert rows["whole"][:2] == ["1.000", "1.000"]
    assert rows["half"][:2] == ["–", "–"]
    assert "the data has none: half" in shown.err


def test_curves_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("matplotlib", reason="curves need it")
    data = write(tmp_path, {"whole": [0, 0, 40, 30]})
    path = tmp_path / "new/curves.png"
    for _ in range(2):
        assert cli.main(["evaluate", "--data", str(data), "--plot", str(path)]) == 0
        assert PIL.Image.open(path).width == 840
    path.write_bytes(b"mine")
    assert cli.main(["evaluate", "--data", str(data), "--plot", str(path)]) == 1
    assert "curves.png, which boxwright did not write" in capsys.readouterr().err and path.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Name a dataset with --data"),
        (["--data", "DATA", "--split", "val"], "has no val split; it has test"),
        (["--data", "OTHER"], "share no class: the model has whole, half; the data dog"),
        (["--data", "missing"], "which does not exist"),
        (["--data", "DATA", "--batch", "0"], "--batch is 1 or more, got 0"),
        (["--data", "DATA", "--plot", "curves"], "--plot names a .png, .svg or .pdf, got curves"),
    ],
)
def test_mistakes_are_one_message(tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "other").mkdir()
    data = write(tmp_path, {"whole": [0, 0, 40, 30]})
    other = write(tmp_path / "other", {"dog": [0, 0, 9, 9]})
    words = [{"DATA": str(data), "OTHER": str(other)}.get(word, word) for word in words]
    assert cli.main(["evaluate", "some.safetensors", *words]) == 1
    assert said in capsys.readouterr().err
