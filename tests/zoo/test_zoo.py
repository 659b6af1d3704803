"""A model is found by name, file or run; the error for an unknown one lists what is accepted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import boxwright
from boxwright import zoo
from boxwright.checkpoint import CheckpointError, describe, save_detector
from boxwright.data.preprocess import Preprocess
from boxwright.detectors import RetinaNetConfig

NAMES = ("cat", "dog")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has saved a tiny untrained detector."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs") / "first"
    config = RetinaNetConfig(backbone="mobilenet_v2", channels=8, depth=1, prior=0.3)
    metadata = {"threshold": 0.25, "metrics": {"val": {"ap": 0.125, "ap50": 0.5, "ap75": 0.0}}}
    preprocess = Preprocess(short=64, long=96)
    save_detector(folder / "best.safetensors", config.build(len(NAMES)), config, NAMES, preprocess, metadata)
    return folder


def test_a_run_and_its_file_are_the_same_model(run: Path):
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    by_folder, by_file = boxwright.load(run, "cpu"), boxwright.load(str(run / "best.safetensors"), "cpu")
    assert by_folder.names == NAMES
    assert by_folder.threshold == 0.25
    assert by_folder.preprocess == Preprocess(short=64, long=96)
    first, second = by_folder(image, threshold=0.0), by_file(image, threshold=0.0)
    assert len(first) > 0
    assert torch.equal(first.boxes, second.boxes) and torch.equal(first.scores, second.scores)


def test_bf16_is_offered_where_it_costs_no_ap(run: Path):
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    usual, reduced = (boxwright.load(run, "cpu", precision)(image, threshold=0.0) for precision in ("fp32", "bf16"))
    assert not torch.equal(usual.scores, reduced.scores)
    torch.testing.assert_close(usual.scores, reduced.scores, atol=0.05, rtol=0)
    about = {"metrics": {"val": {"ap": 0.5}, "val_bf16": {"ap": 0.4985}}}
    assert zoo.check_precision(about, "fp32", "x") == ""
    assert zoo.check_precision(about, "bf16", "x") == "in bf16 AP 0.4985 on val, 0.5000 in fp32"
    assert "boxwright evaluate runs/a --data DATA --precision bf16" in zoo.check_precision({}, "bf16", "runs/a")
    about["metrics"]["val_bf16"]["ap"] = 0.497
    with pytest.raises(ValueError, match=r"^runs/a has in bf16 AP 0\.4970 on val, 0\.5000 in fp32: .* take .* fp32"):
        zoo.check_precision(about, "bf16", "runs/a")
    with pytest.raises(ValueError, match="detection is in fp32 or bf16, got 'fp16'"):
        boxwright.load(run, "cpu", "fp16")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="detection is in fp32 or bf16, got 'fp16'"):
        boxwright.load(run, "cpu").with_precision("fp16")  # type: ignore[arg-type]


def test_a_missing_or_damaged_model(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no model 'yolo': expected .*a \.safetensors file or a run's folder"):
        zoo.load("yolo")
    with pytest.raises(ValueError, match=r"without best\.safetensors"):
        zoo.load(tmp_path)
    (tmp_path / "best.safetensors").write_bytes(b"not one")
    with pytest.raises(ValueError, match=r"best\.safetensors .*not a whole safetensors file"):
        zoo.load(tmp_path)


def test_bundled_models_come_first(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bundled = tmp_path / "tiny.safetensors"
    bundled.write_bytes((run / "best.safetensors").read_bytes())
    monkeypatch.setattr(zoo, "_FOLDER", tmp_path)
    assert zoo.find("tiny") == bundled
    first, second = zoo.models(run.parent)
    assert (first.name, first.path) == ("tiny", bundled)
    assert (second.name, second.path) == (str(run), run / "best.safetensors")
    assert second.about["names"] == list(NAMES)
    assert second.about["metrics"]["val"]["ap50"] == 0.5


def test_a_file_that_is_no_checkpoint_has_no_metadata(tmp_path: Path):
    for content in (b"", b"short", b"\xff" * 100, (8).to_bytes(8, "little") + b"{}      "):
        path = tmp_path / "some.safetensors"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"some\.safetensors"):
            describe(path)


def test_every_bundled_model_has_metadata():
    for name, path in zoo.bundled().items():
        about = describe(path)
        assert about["names"] and about["detector"], name
        assert 0 < about["threshold"] < 1, name
        assert path.stat().st_size <= 16_000_000, name


@pytest.mark.skipif("voc9" not in zoo.bundled(), reason="the weights of voc9 are not in this checkout")
def test_a_damaged_bundled_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    content = bytearray(zoo.bundled()["voc9"].read_bytes())
    content[-1] ^= 1
    (tmp_path / "voc9.safetensors").write_bytes(content)
    monkeypatch.setattr(zoo, "_FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"voc9\.safetensors is damaged.*install boxwright again"):
        zoo.find("voc9")


@pytest.mark.skipif("voc9" not in zoo.bundled(), reason="the weights of voc9 are not in this checkout")
def test_the_default_model_finds_the_cat():
    data = pytest.importorskip("skimage.data", reason="scikit-image has the photographs")
    result = boxwright.load(device="cpu")(data.chelsea(), threshold=0.5)
    assert "cat" in result.names
    assert "person" in boxwright.load(device="cpu")(data.astronaut(), threshold=0.5).names
