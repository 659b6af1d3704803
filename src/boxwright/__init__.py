"""Object detection: `boxwright.load()` gives a detector, `detector("photo.jpg")` the boxes.

Importing the package costs nothing: what needs torch is imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from boxwright.engine.predict import Predictor, Result
    from boxwright.zoo import load

__version__ = "0.1.0"
__all__ = ["Predictor", "Result", "__version__", "load"]

_HOME = {
    "load": "boxwright.zoo",
    "Predictor": "boxwright.engine.predict",
    "Result": "boxwright.engine.predict",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'boxwright' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
