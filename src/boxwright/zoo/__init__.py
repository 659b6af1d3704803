"""Find and load models: bundled ones, those of other libraries and of the Hugging Face Hub, and your own runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxwright.device import InferencePrecision, check_inference_precision
from boxwright.files import sha256
from boxwright.zoo.foreign import is_foreign

if TYPE_CHECKING:
    import torch

    from boxwright.predict.predictor import Predictor

DEFAULT = "voc9"
_MOST_LOST = 0.002  # of AP on val, for bf16 to be offered
_FOLDER = Path(__file__).parent
_SHA256 = {"voc9": "9e32076db12bcd1681b3bae518ef3ed962a21d7045d540f83bc96b74392ef2a2"}
"""Of bundled files that have no digest themselves."""


@dataclass(frozen=True)
class Model:
    """A checkpoint and the metadata in its file: detector, config, names, metrics, threshold ..."""

    name: str
    path: Path
    about: dict[str, Any]
    fault: str = ""
    """Why the metadata could not be read; `about` is empty then."""


def load(
    model: str | Path = DEFAULT, device: str | torch.device = "auto", precision: InferencePrecision = "fp32"
) -> Predictor:
    """A detector ready for inference: `load()("photo.jpg").boxes`.

    model      the name of a bundled model, a .safetensors file, the folder of a run (its best epoch), published weights
               of another library, such as torchvision:fasterrcnn_resnet50_fpn, or a file of the Hugging Face Hub, as
               hf:owner/repo/model.safetensors@COMMIT
    device     "cpu", "cuda", "cuda:1", "mps", or "auto" for the fastest available
    precision  "fp32", or "bf16", which computes convolutions and linear layers in bfloat16: in less time on CPUs and
               GPUs that have instructions for it

    Raises ValueError for an unknown model, naming the known ones, for a damaged file, and for bf16 where it cost AP on
    val (`check_precision`); OSError if the weights have to be downloaded and cannot be.
    """
    path = find(model)
    from boxwright.checkpoint import load_detector
    from boxwright.device import choose_device
    from boxwright.predict.predictor import Predictor

    device = choose_device(device)
    loaded = load_detector(path, device)
    check_precision(loaded.metadata, precision, path)
    threshold = threshold_of(loaded.metadata)
    predictor = Predictor(loaded.detector, loaded.names, loaded.preprocess, threshold, device)
    return predictor if precision == "fp32" else predictor.with_precision(precision)


def is_offered(fp32: float, bf16: float) -> bool:
    """Whether detection is offered in bf16, by the AP on val in both."""
    return fp32 - bf16 < _MOST_LOST


def check_precision(about: Mapping[str, Any], precision: InferencePrecision, source: str | Path) -> str:
    """What the metadata of a checkpoint says about detection in a precision; "" for fp32, which they all are made for.

    `boxwright train` measures AP on val in bf16 too, where the machine has instructions for it. Raises ValueError where
    that is lower by .002 or more, and for another precision.
    """
    check_inference_precision(precision)
    if precision == "fp32":
        return ""
    fp32, bf16 = (about.get("metrics", {}).get(key, {}).get("ap") for key in ("val", "val_bf16"))
    if fp32 is None or bf16 is None:
        return f"in bf16; to measure what it does to AP: boxwright evaluate {source} --data DATA --precision bf16"
    measured = f"in bf16 AP {bf16:.4f} on val, {fp32:.4f} in fp32"
    if not is_offered(fp32, bf16):
        raise ValueError(f"{source} has {measured}: {_MOST_LOST} or more is lost; take precision fp32")
    return measured


def threshold_of(about: Mapping[str, Any]) -> float:
    """The score threshold in the metadata of a checkpoint, the best one on val; .5 where it has none."""
    return about.get("threshold", 0.5)


def find(model: str | Path = DEFAULT) -> Path:
    """The file that `load` reads. A bundled name takes precedence over a folder of that name: write ./name for that.

    A model of another library is converted, and one of the hub downloaded, at the first use.
    """
    names = bundled()
    if str(model) in names:
        path = names[str(model)]
        if _SHA256.get(str(model)) not in (None, sha256(path)):
            raise ValueError(f"{path} is damaged: its SHA-256 is another; install boxwright again")
        return path
    if is_foreign(str(model)):
        from boxwright.zoo.convert import obtain

        return obtain(str(model))
    if str(model).startswith("hf:"):
        from boxwright.zoo.hub import fetch

        return fetch(str(model))
    path = Path(model)
    if path.is_file():
        return path
    if path.is_dir():
        if (path / "best.safetensors").is_file():
            return path / "best.safetensors"
        raise ValueError(f"{path} is a folder without best.safetensors; a run's folder has one after its first epoch")
    known = ", ".join(names) or "a bundled model (this copy has none)"
    raise ValueError(
        f"there is no model '{model}': expected {known}, a .safetensors file or a run's folder, "
        "source:model of another library (`boxwright models`), or hf:owner/repo/file@COMMIT"
    )


def bundled() -> dict[str, Path]:
    """The models that come with boxwright: name to file."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.safetensors"))}


def models(runs: str | Path = "runs") -> list[Model]:
    """The bundled models, then the best checkpoint of each run in a folder, by path. Imports no torch."""
    paths = bundled() | {str(path.parent): path for path in sorted(Path(runs).rglob("best.safetensors"))}
    return [_model(name, path) for name, path in paths.items()]


def _model(name: str, path: Path) -> Model:
    from boxwright.checkpoint import describe, need

    try:
        about = describe(path)
        need(about, path, "detector", "names")
    except (ValueError, OSError) as error:
        return Model(name, path, {}, str(error))
    return Model(name, path, about)
