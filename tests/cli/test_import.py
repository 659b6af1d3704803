"""`boxwright import` and `boxwright verify`: what holds is written with its proof, what does not is said."""

from __future__ import annotations

import argparse
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import boxwright
from boxwright import cli, zoo
from boxwright.checkpoint import describe
from boxwright.zoo import torchvision as source
from boxwright.zoo.convert import _frozen
from boxwright.zoo.foreign import Arguments, look_up
from boxwright.zoo.weights import find
from calibrated import calibrate

NAME = "ssdlite320_mobilenet_v3_large"
FULL = f"torchvision:{NAME}"
NAMES = ("cat", "cup", "rocket")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs, which cost less than the four of boxwright."""
    folder = tmp_path_factory.mktemp("photos")
    for name in ("chelsea", "coffee"):
        image = Image.open(Path(zoo.__file__).parent / "photos" / f"{name}.webp")
        image.resize((120, 80)).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def weights(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of torchvision's smallest detector, with three classes of the user's own."""
    torch.manual_seed(0)
    model = source.build(NAME, len(NAMES))
    shown = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(photos.iterdir())]
    calibrate(model.eval(), lambda: source.detect(model, 1, [*shown, *(image[::-1, ::-1] for image in shown)]))
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    average = {f"module.{key}": value for key, value in model.state_dict().items()}
    # as torchvision's training script does
    torch.save(
        {"model": model.state_dict(), "model_ema": average, "args": argparse.Namespace(lr=0.1), "epoch": 3}, path
    )
    return path


@pytest.fixture(scope="module")
def imported(weights: Path, photos: Path) -> Path:
    out = weights.with_name("mine.safetensors")
    words = ["import", FULL, str(weights), "--out", str(out), "--photos", str(photos), "--names", *NAMES]
    assert cli.main(words) == 0
    return out


def test_the_file_says_where_it_is_from(imported: Path, weights: Path):
    about = describe(imported)
    assert about["names"] == list(NAMES) and about["detector"] == "ssd"
    assert about["origin"]["name"] == FULL and about["origin"]["file"] == "mine.pth"
    assert about["origin"]["licence"] == look_up(FULL).licence
    assert len(about["origin"]["sha256"]) == 64
    assert (about["origin"]["prefix"], about["origin"]["other_prefixes"]) == ("model.", ["model_ema.module."])
    proof = about["proof"]
    assert proof["against"] == f"torchvision {torchvision.__version__} as it builds the model without arguments"
    assert set(proof["photos"]) == {"chelsea.png", "coffee.png"}
    assert len(proof["measured"]) == 4  # two photographs, alone and together
    assert all(d["original"] == d["converted"] > 10 and d["box"] <= 1e-3 for d in proof["measured"])


def test_only_an_earlier_import_is_replaced(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Many publish a .safetensors beside the .pth, and that is where a checkpoint goes without --out."""
    (tmp_path / "mine.pth").symlink_to(weights)
    (tmp_path / "mine.safetensors").write_bytes(b"the same weights")
    for out, message in (
        ([], "mine.safetensors, which boxwright did not write"),
        (["--out", str(tmp_path / "mine.pth")], "mine.pth; give another --out"),
    ):
        assert cli.main(["import", FULL, str(tmp_path / "mine.pth"), "--names", *NAMES, *out]) == 1
        assert message in capsys.readouterr().err
    assert (tmp_path / "mine.safetensors").read_bytes() == b"the same weights"


def test_it_is_a_model_as_any_other(imported: Path, photos: Path):
    predictor = boxwright.load(imported, "cpu")
    assert predictor.names == NAMES and predictor.threshold == 0.001
    assert len(predictor(photos / "chelsea.png", threshold=0.1)) > 0


def test_verify_holds(imported: Path, photos: Path, weights: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["verify", str(imported), "--photos", str(photos), "--weights", str(weights), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["same"] and len(report["measured"]) == 8  # against the kept answers, and against torchvision again
    assert report["source"]["file"] == str(weights)


def test_verify_sees_a_changed_weight(imported: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from boxwright.checkpoint import read, write

    tensors, described = read(imported)
    tensors["anchors.head.0.logits.bias"][0] += 0.1
    write(tmp_path / "other.safetensors", tensors, described)
    assert cli.main(["verify", str(tmp_path / "other.safetensors"), "--photos", str(photos)]) == 1
    assert "differs" in capsys.readouterr().out


def test_verify_wants_the_same_photographs(imported: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["verify", str(imported)]) == 1
    assert "photographs of the proof are missing" in capsys.readouterr().err


def test_verify_says_that_a_file_has_no_proof(capsys: pytest.CaptureFixture[str]):
    path = next(iter(zoo.bundled().values()), None)
    if path is None:
        pytest.skip("no model comes with this checkout")
    assert cli.main(["verify", str(path)]) == 1
    assert "has no proof" in capsys.readouterr().err


def refused(words: list[str], out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What is said where nothing is written."""
    assert cli.main(["import", *words, "--out", str(out)]) == 1
    assert list(out.parent.glob("new*")) == []
    (line,) = capsys.readouterr().err.splitlines()
    return line


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_bad_files(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "new.safetensors"
    state = find(source.read(weights), source.NAMES[NAME].logits).state

    def error_of(content: object) -> str:
        path = tmp_path / "bad.pth"
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        return refused([FULL, str(path)], out, capsys)

    assert "Nothing in it was executed" in error_of(pickle.dumps({"model": Evil()}))
    assert "it refers to posix.system" in error_of({"model": Evil()})
    assert not (tmp_path / "pwned").exists()
    assert "not a whole file" in error_of(weights.read_bytes()[:100_000])
    assert "has no state dict" in error_of([1, 2, 3])
    key = "backbone.features.0.0.0.weight"
    assert f"1 missing ({key})" in error_of({name: value for name, value in state.items() if name != key})
    assert "1 not expected (head.more)" in error_of(state | {"head.more": torch.zeros(2)})
    assert f"1 of another shape ({key} of (16, 3, 5, 5) rather than (16, 3, 3, 3))" in error_of(
        state | {key: torch.zeros(16, 3, 5, 5)}
    )
    assert f"bad.pth has numbers that are not finite in {key}" in error_of(state | {key: state[key] * torch.nan})
    assert "not the weights of torchvision's ssdlite" in error_of(source.build("ssd300_vgg16", 3, "cpu").state_dict())


def test_bad_words(weights: Path, tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "new.safetensors"
    near = refused(["torchvision:ssdlite320_mobilenet_v3", str(weights)], out, capsys)
    assert f"did you mean {FULL}" in near
    assert "expected source:model" in refused(["ssdlite", str(weights)], out, capsys)
    assert "3 classes, and --names has 2" in refused([FULL, str(weights), "--names", "a", "b"], out, capsys)
    assert "which does not exist" in refused([FULL, str(tmp_path / "none.pth")], out, capsys)


def test_a_comparison_of_nothing_is_told(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "black").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "black" / "a.png")
    state = find(source.read(weights), source.NAMES[NAME].logits).state
    for number in range(6):  # the last layers make everything background
        layer = f"head.classification_head.module_list.{number}.1"
        state[f"{layer}.weight"] = torch.zeros_like(state[f"{layer}.weight"])
        state[f"{layer}.bias"] = torch.tensor([20.0, 0, 0, 0]).repeat(6)
    torch.save(state, tmp_path / "a.pth")
    assert cli.main(["import", FULL, str(tmp_path / "a.pth"), "--photos", str(tmp_path / "black")]) == 0
    assert "note: the original detects nothing in these photographs" in capsys.readouterr().out


def test_what_differs_is_not_written(
    weights: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Here because the original is told another epsilon than the conversion."""
    out, reference = tmp_path / "new.safetensors", source.reference
    other = Arguments(norm_eps=0.1)
    monkeypatch.setattr(source, "reference", lambda *args, arguments: reference(*args, arguments=other))
    words = [FULL, str(weights), "--photos", str(photos)]
    assert "so nothing was written" in refused(words, out, capsys)
    assert cli.main(["import", *words, "--out", str(out), "--allow-difference", "a trial", "--prefix", "model"]) == 0
    line = "took the weights named model.* (--prefix); not those named model_ema.module.*"
    assert line in capsys.readouterr().out
    about = describe(out)
    assert about["proof"]["allowed"] == "a trial" and about["names"] == ["class 1", "class 2", "class 3"]


@pytest.fixture
def own_model(weights: Path, photos: Path, tmp_path: Path) -> list[str]:
    """--answers of a model of another normalisation: one file as torchvision detects, one in COCO's layout."""
    state = find(source.read(weights), source.NAMES[NAME].logits).state
    detect = source.reference(NAME, state, len(NAMES), Arguments(mean=(0.4, 0.5, 0.6), std=(0.3, 0.3, 0.3)))
    words = []
    for path in sorted(photos.iterdir()):
        (found,) = detect([np.asarray(Image.open(path).convert("RGB"))])
        found = found[found.scores > 0.2]
        assert len(found) > 10
        boxes, scores, labels = found.boxes.tolist(), found.scores.tolist(), (found.labels + 1).tolist()
        content: object = {"boxes": boxes, "scores": scores, "labels": labels}
        if words:
            boxes = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in boxes]
            content = [
                {"image_id": 7, "bbox": box, "score": score, "category_id": label}
                for box, score, label in zip(boxes, scores, labels, strict=True)
            ]
        (tmp_path / f"{path.stem}.json").write_text(json.dumps(content))
        words.append(f"{path}={tmp_path / path.stem}.json")
    return ["--answers", *words]


def test_answers_of_the_users_model(
    own_model: list[str], weights: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """What the state dict does not hold shows against the model's own detections, and options make it equal."""
    out = tmp_path / "new.safetensors"
    words = [FULL, str(weights), *own_model]
    message = refused(words, out, capsys)
    assert (
        "against the detections in chelsea.json, coffee.json" in message and "normalisation (--mean, --std)" in message
    )
    words += ["--mean", "0.4", "0.5", "0.6", "--std", "0.3", "0.3", "0.3"]
    assert cli.main(["import", *words, "--out", str(out)]) == 0
    about = describe(out)
    assert about["origin"]["mean"] == [0.4, 0.5, 0.6] and about["config"]["pixel_std"] == [76.5] * 3
    assert about["proof"]["lowest_score"] > 0.2
    capsys.readouterr()
    assert cli.main(["verify", str(out), "--photos", str(photos), "--weights", str(weights), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["measured"]) == 4  # the answers, and torchvision's model built with these arguments
    assert report["source"]["against"].endswith("with mean=(0.4, 0.5, 0.6), std=(0.3, 0.3, 0.3)")


def test_bad_answers(weights: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out, photo = tmp_path / "new.safetensors", photos / "chelsea.png"
    words = [FULL, str(weights), "--answers"]
    assert "as photo.jpg=boxes.json, got chelsea.png" in refused([*words, "chelsea.png"], out, capsys)
    assert "which does not exist" in refused([*words, f"{photo}=none.json"], out, capsys)
    (tmp_path / "a.json").write_text("{}")
    both = [*words, f"{photo}={tmp_path}/a.json", "--photos", str(photos)]
    assert "leave out --photos" in refused(both, out, capsys)
    assert "names a photograph twice" in refused([*both[:-2], both[3]], out, capsys)
    assert "a.json: expected the detections in one photograph" in refused(both[:-2], out, capsys)


def test_frozen_norms_are_told(
    weights: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """As for the detectors whose published files need another epsilon than torchvision's builder sets."""
    monkeypatch.setitem(source.PUBLISHED, NAME, replace(source.PUBLISHED[NAME], norm_eps=0.0))
    state = find(source.read(weights), source.NAMES[NAME].logits).state
    assert not _frozen(state)
    frozen = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(frozen, tmp_path / "a.pth")
    assert cli.main(["import", FULL, str(tmp_path / "a.pth"), "--photos", str(photos)]) == 0
    assert "note: the batch norms of these weights are frozen" in capsys.readouterr().out
