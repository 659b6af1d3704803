"""Object detection: `boxwright.load()` gives a detector, `detector("photo.jpg")` the boxes.

Importing the package costs nothing: what needs torch is imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from boxwright.version import __version__

if TYPE_CHECKING:
    from boxwright.api import evaluate, race, train
    from boxwright.backbones.build import register_backbone
    from boxwright.data.formats import open_dataset
    from boxwright.detectors.config import register
    from boxwright.heap import keep_heap
    from boxwright.predict.predictor import Predictor, Result
    from boxwright.train.run import Run
    from boxwright.zoo import load

__all__ = [
    "Predictor", "Result", "__version__", "evaluate", "keep_heap", "load", "open_dataset", "race", "register",
    "register_backbone", "train",
]  # fmt: skip

_HOME = {
    "load": "zoo", "open_dataset": "data.formats", "evaluate": "api", "race": "api", "keep_heap": "heap",
    "register": "detectors.config", "register_backbone": "backbones.build", "Predictor": "predict.predictor",
    "Result": "predict.predictor",
}  # fmt: skip


class _CallablePackage(ModuleType):
    """The package boxwright.train, which is called as the function of that name: Python has one name for both."""

    def __call__(self, *arguments: Any, **options: Any) -> Run:
        return import_module("boxwright.api").train(*arguments, **options)


import_module("boxwright.train").__class__ = _CallablePackage


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'boxwright' has no attribute '{name}'")
    return getattr(import_module(f"boxwright.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
