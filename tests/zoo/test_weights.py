"""Files of weights as trainings leave them: the detector's tensors are found; all but data is refused by its name."""

from __future__ import annotations

import argparse
import pickle
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from boxwright.zoo.convert import convert
from boxwright.zoo.foreign import ForeignError
from boxwright.zoo.weights import find, read

KEY = "head.logits.weight"
STATE = {"backbone.weight": torch.ones(2), KEY: torch.arange(3.0), "head.n.running_mean": torch.zeros(1)}


def under(prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in STATE.items()}


def training() -> dict[str, Any]:
    """What a training saves beside the weights."""
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.ones(1)).backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [16, 22])
    return {"optimizer": optimizer.state_dict(), "lr_scheduler": schedule.state_dict(), "epoch": 3}


FILES: dict[str, tuple[Any, str, tuple[str, ...]]] = {
    "alone": (STATE, "", ()),
    "torchvision's reference script": (
        {"model": STATE, **training(), "args": argparse.Namespace(lr=0.1, output_dir=Path("out"))}, "model.", ()
    ),
    "its average": ({"model": STATE, "model_ema": under("module.") | {"n_averaged": torch.tensor(3)}},
                    "model.", ("model_ema.module.",)),
    "averaged only": (under("module.") | {"n_averaged": torch.tensor(3)}, "module.", ()),
    "an average first": ({"ema": {"module": STATE, "updates": 3}, "model": under("module.")},
                         "model.module.", ("ema.module.",)),
    "Lightning": (
        {"state_dict": under("model.") | {"criterion.weight": torch.ones(4)}, "hyper_parameters": {"a": 1},
         "callbacks": {"ModelCheckpoint": {"best_k_models": {"a.ckpt": torch.tensor(1.0)}}}}, "state_dict.model.", (),
    ),
    "Lightning with an average": ({"state_dict": under("ema_model.") | under("model.")},
                                  "state_dict.model.", ("state_dict.ema_model.",)),
    "compiled": (under("_orig_mod."), "", ()),
    "compiled in part": ({key.replace("head.", "head._orig_mod."): value for key, value in STATE.items()}, "", ()),
    "distributed and compiled": ({"model_state_dict": under("module._orig_mod.")}, "model_state_dict.module.", ()),
    "net": ({"net": STATE, "best": np.float64(0.3), "settings": SimpleNamespace(a=1)}, "net.", ()),
    "Lightning's time": ({"state_dict": STATE, "timer": {"train": timedelta(seconds=3)}}, "state_dict.", ()),
    "a name of its own": ({"detector v2": {"weights": STATE}}, "detector v2.weights.", ()),
    "the same twice": ({"model": STATE, "state_dict": STATE}, "model.", ()),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_files_of_trainings(kind: str, tmp_path: Path) -> None:
    content, prefix, others = FILES[kind]
    torch.save(content, tmp_path / "a.pth")
    weights = find(read(tmp_path / "a.pth"), KEY)
    assert (weights.prefix, weights.others) == (prefix, others)
    assert weights.state.keys() == STATE.keys()
    assert all(torch.equal(value, STATE[key]) for key, value in weights.state.items())


def test_the_prefix_chooses(tmp_path: Path) -> None:
    average = {key: value + 1 for key, value in STATE.items()}
    torch.save({"model": STATE, "model_ema": average}, tmp_path / "a.pth")
    tensors = read(tmp_path / "a.pth")
    for prefix in ("model_ema", "model_ema."):
        assert find(tensors, KEY, prefix).state[KEY].tolist() == [1, 2, 3]
    with pytest.raises(
        ForeignError, match=rf"no weights with the prefix 'ema\.'; prefixes of {KEY}: 'model\.', 'model_ema\.'"
    ):
        find(tensors, KEY, "ema")


def test_a_longer_prefix_is_left_out() -> None:
    """Weights without a prefix, beside an average that has one."""
    weights = find(STATE | under("ema."), KEY)
    assert (weights.prefix, weights.others) == ("", ("ema.",)) and weights.state.keys() == STATE.keys()


def test_other_tensors_are_kept_for_the_check_of_names() -> None:
    assert find({"model.a": torch.ones(1)}, KEY) == ({"model.a": torch.ones(1)}, "", ())


class Custom:
    """Any class that a file may refer to."""


@pytest.mark.parametrize("content", [{"model": STATE, "cfg": Custom()}, {"args": argparse.Namespace(a=Custom())}])
def test_the_refused_name(content: dict[str, Any], tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ForeignError, match=rf"it refers to {__name__}\.Custom, and only .* Nothing in it was executed"):
        read(tmp_path / "a.pth")


def test_whole_modules_and_programs(tmp_path: Path) -> None:
    torch.save(nn.Linear(1, 1), tmp_path / "a.pth")
    with pytest.raises(ForeignError, match=r"refers to torch\.nn\.modules\.linear\.Linear.*model\.state_dict\(\)"):
        read(tmp_path / "a.pth")
    (tmp_path / "a.pth").write_bytes(pickle.dumps([1], protocol=4))
    with pytest.raises(ForeignError, match=r"it is no pickle as torch\.save writes it"):
        read(tmp_path / "a.pth")


def test_dicts_without_end(tmp_path: Path) -> None:
    """A dict in itself, and one hundred dicts that share one hundred, and so on: neither is walked twice."""
    endless: dict[str, Any] = {}
    endless["a"] = endless
    shared: dict[str, Any] = {}
    for _ in range(20):
        shared = {str(number): shared for number in range(100)}
    for content in (endless, shared):
        torch.save(content, tmp_path / "a.pth")
        with pytest.raises(ForeignError, match="has no state dict: expected names to tensors, .*got a dict of "):
            read(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "content",
    [
        {KEY: torch.zeros(1).expand(10**9, 1024)},
        {str(number): torch.zeros(1).expand(1000, 1000) for number in range(100)},
        {str(number): value for value in (torch.ones(1000),) for number in range(10_000)},
        {1_000_000 * "a": {str(number): torch.ones(1) for number in range(100)}},
    ],
    ids=["a number repeated", "many of them", "one tensor under many names", "long names"],
)
def test_tensors_are_as_large_as_their_file(content: dict[str, Any], tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ForeignError, match=r"a\.pth is refused: its tensors by name have more than \d+ bytes"):
        read(tmp_path / "a.pth")


def test_a_number_repeated_is_read_where_it_is_small(tmp_path: Path) -> None:
    torch.save({"model": STATE, "scale": torch.ones(1).expand(100)}, tmp_path / "a.pth")
    assert read(tmp_path / "a.pth")["scale"].shape == (100,)


def test_numbers_as_names_and_tensors_that_are_no_weights(tmp_path: Path) -> None:
    torch.save({1: torch.ones(1)}, tmp_path / "a.pth")
    assert list(read(tmp_path / "a.pth")) == ["1"]
    save_file({"a\nb": torch.ones(1, dtype=torch.complex64)}, tmp_path / "a.safetensors")
    with pytest.raises(ForeignError, match=r"a\.safetensors: a\\nb is of torch\.complex64, expected torch\.float32"):
        read(tmp_path / "a.safetensors")


@pytest.mark.parametrize("shape", [(10**9, 0), (1, 4), (0, 4), ()])
@pytest.mark.parametrize("name", ["torchvision:fasterrcnn_resnet50_fpn", "detectron2:faster_rcnn_R_50_FPN_1x"])
def test_a_head_without_numbers_has_no_classes(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    torch.save({"roi_heads.box_predictor.cls_score.weight": torch.zeros(shape)}, tmp_path / "a.pth")
    with pytest.raises(ForeignError, match=r"a\.pth: its classification layer has rows for -?\d+ classes"):
        convert(name, tmp_path / "a.pth", tmp_path / "a.safetensors")


def test_a_head_of_other_shape_is_refused_before_a_detector_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 100,000 classes a detector would have 2 GB."""
    built = []
    monkeypatch.setattr(torch.Tensor, "normal_", lambda self, *_, **__: built.append(self.device.type) or self)
    torch.save({"roi_heads.box_predictor.cls_score.weight": torch.zeros(100_001, 1)}, tmp_path / "a.pth")
    with pytest.raises(ForeignError, match=r"a\.pth: not the weights of .* 1 of another shape \(roi_heads\.box_predic"):
        convert("detectron2:faster_rcnn_R_50_FPN_1x", tmp_path / "a.pth", tmp_path / "a.safetensors")
    assert set(built) == {"meta"}


def test_too_many_tensors_of_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boxwright.untrusted.torch_files._TENSORS", 2)
    save_file({name: torch.ones(1) for name in "abc"}, tmp_path / "a.safetensors")
    with pytest.raises(ForeignError, match=r"a\.safetensors is refused: it has 3 tensors, expected at most 2"):
        read(tmp_path / "a.safetensors")
