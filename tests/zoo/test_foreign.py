"""Models of other libraries by name: found, downloaded, or reported as unavailable."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch

from boxwright import zoo
from boxwright.layers.conv import change_epsilon
from boxwright.zoo import convert, foreign, torchvision
from boxwright.zoo.coco import ALL_IDS, NAMES
from boxwright.zoo.foreign import Arguments, ForeignError, Published

MODEL = "torchvision:fcos_resnet50_fpn"


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches, so that no file of this machine is used, and none is left on it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("BOXWRIGHT_CACHE", str(tmp_path / "boxwright"))
    return tmp_path


def test_names_and_addresses_are_torchvisions():
    from torchvision.models import get_model_weights

    for name, about in torchvision.PUBLISHED.items():
        (weights,) = get_model_weights(name)  # type: ignore[arg-type]
        assert about.url == weights.url
        assert len(about.sha256) == 8 and about.file.endswith(f"-{about.sha256}.pth")
        categories = weights.meta["categories"]
        assert [f"N/A {i}" if name == "N/A" else name for i, name in enumerate(categories)][1:] == list(ALL_IDS)
    assert len(NAMES) == 80 and len(set(ALL_IDS)) == 90


def test_the_list_imports_no_torch():
    code = "import sys; from boxwright.zoo.foreign import published; published(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(zoo.__file__).parents[2])


def test_an_unknown_name():
    with pytest.raises(ForeignError, match="did you mean torchvision:fcos_resnet50_fpn"):
        zoo.load("torchvision:fcos_resnet50")
    with pytest.raises(ForeignError, match="one of torchvision, detectron2, got 'yolo:x'"):
        foreign.look_up("yolo:x")


def test_the_error_offline_explains_what_to_do(caches: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **options: object) -> None:
        assert options["timeout"]
        raise URLError("no network")

    monkeypatch.setattr(convert, "urlopen", fail)
    with pytest.raises(
        OSError, match=r"not downloaded \(no network\)\. Put https://.*\.pth at .*boxwright import"
    ) as error:
        zoo.load(MODEL)
    assert str(caches / "torch" / "hub" / "checkpoints") in str(error.value)
    assert not list(caches.rglob("*.p*"))


def test_a_download_has_the_sha256_of_its_name(caches: Path, monkeypatch: pytest.MonkeyPatch):
    content = b"weights"
    monkeypatch.setattr(convert, "urlopen", lambda *_, **__: BytesIO(content))
    digest = hashlib.sha256(content).hexdigest()
    about = Published(name="x:y", file="y.pth", url="https://a/y.pth", licence="", sha256=digest[:8])
    convert._fetch(about, caches / "y.pth")
    assert (caches / "y.pth").read_bytes() == content
    with pytest.raises(ForeignError, match=r"expected the sha256 00000000\.\.\., got"):
        convert._fetch(replace(about, sha256="0" * 8), caches / "z.pth")
    assert sorted(path.name for path in caches.iterdir()) == ["y.pth"]


@pytest.mark.parametrize("variance", [1.0, 1e-2, 1e-4, 1e-7, 1e-30])
@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_another_epsilon_gives_the_same_function(variance: float, eps: float):
    """x * w / sqrt(v + eps) + ..., with ours of 1e-3, and however small the variance."""
    state = {"bn.weight": torch.tensor([0.7]), "bn.running_var": torch.tensor([variance])}
    expected = 0.7 / (state["bn.running_var"].double() + eps).sqrt()
    change_epsilon(state, "bn", eps, 1e-3)
    assert state["bn.running_var"] >= 0
    found = state["bn.weight"].double() / (state["bn.running_var"].double() + 1e-3).sqrt()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn"])
def test_names_of_the_published_files(name: str):
    """torchvision has renamed some tensors since; both names are read."""
    expected = torchvision.build(name, 3, "meta").state_dict()
    old = torchvision.RENAMED | (torchvision.RENAMED_RETINANET if name.startswith("retinanet") else {})
    before = {today: past for past, today in old.items()}
    published = {before.get(key, key): value for key, value in expected.items()}
    assert published.keys() != expected.keys()
    assert torchvision._modern(name, published).keys() == expected.keys()


def test_arguments_of_the_builder():
    """In the config here, and in torchvision's model, whose last layers have as many rows as there are anchors."""
    given = Arguments(
        min_size=600, max_size=900, anchor_sizes=(16, 24, 32, 48, 64, 96, 128, 192, 256, 384), aspect_ratios=(0.5, 2.0),
        mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.5), norm_eps=1e-3,
    )  # fmt: skip
    for name in ("fasterrcnn_resnet50_fpn_v2", "retinanet_resnet50_fpn"):
        foreign, model = torchvision.foreign(name, given), torchvision.build(name, 3, "meta", given)
        assert (foreign.preprocess.short, foreign.preprocess.long) == (600, 900)
        config: Any = foreign.config
        assert config.pixel_mean == foreign.preprocess.fill == (0, 127.5, 255) and config.pixel_std == (
            255,
            127.5,
            127.5,
        )
        transform: Any = model.transform
        assert (transform.min_size, transform.max_size) == ((600,), 900)
        assert (transform.image_mean, transform.image_std) == ([0.0, 0.5, 1.0], [1.0, 0.5, 0.5])
        stage: Any = getattr(model, "rpn", model)
        assert stage.anchor_generator.sizes == ((16, 24), (32, 48), (64, 96), (128, 192), (256, 384))
        assert {norm.eps for norm in model.modules() if isinstance(norm, torch.nn.BatchNorm2d)} == {1e-3}
        assert torchvision.count_classes(name, model.state_dict()) == 3
        with pytest.raises(ForeignError, match=r"of another shape .*give --anchor-sizes and --aspect-ratios$"):
            torchvision.foreign(name).convert(model.state_dict(), 3)
    assert Arguments.of(json.loads(json.dumps({"name": "x", **given.given()}))) == given


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("ssd300_vgg16", Arguments(min_size=600), "min_size of ssd300_vgg16 is fixed; leave out --min-size"),
        ("fcos_resnet50_fpn", Arguments(anchor_sizes=(1.0,)), "anchor_sizes of fcos_resnet50_fpn is fixed"),
        ("fcos_resnet50_fpn", Arguments(mean=(103.0, 116.0, 123.0)), r"in 0\.\.1, got \(103.*divide by 255"),
    ],
)
def test_arguments_that_a_model_does_not_have(name: str, given: Arguments, message: str):
    with pytest.raises(ForeignError, match=message):
        torchvision.foreign(name, given)
    with pytest.raises(ForeignError, match="mean takes three numbers"):
        Arguments(mean=(0.5,))
    with pytest.raises(ForeignError, match="min_size is a number of pixels, 1 or more; got 0"):
        Arguments(min_size=0)
    with pytest.raises(ForeignError, match="std, anchor_sizes and aspect_ratios are greater than 0"):
        Arguments(std=(0.0, 1.0, 1.0))
