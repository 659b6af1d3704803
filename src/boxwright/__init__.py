"""Object detection: `boxwright.load()` gives a detector, `detector("photo.jpg")` the boxes.

Importing the package costs nothing: what needs torch is imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from boxwright.version import __version__

if TYPE_CHECKING:
    from boxwright.backbones.build import register_backbone
    from boxwright.detectors.config import register
    from boxwright.predict.predictor import Predictor, Result
    from boxwright.zoo import load

__all__ = ["Predictor", "Result", "__version__", "load", "register", "register_backbone"]

_HOME = {
    "load": "boxwright.zoo",
    "register": "boxwright.detectors.config",
    "register_backbone": "boxwright.backbones.build",
    "Predictor": "boxwright.predict.predictor",
    "Result": "boxwright.predict.predictor",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'boxwright' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
