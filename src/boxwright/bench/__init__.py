"""The race: which detector to take, on the user's own data and hardware.

from boxwright.bench import ExternalModel, grid, race

race([*grid(["ssd", "faster_rcnn"], sizes=[224, 320]), ExternalModel("mine", detect)], "my_dataset/")

Importing the package imports no torch: what needs it is imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from boxwright.bench.driver import race
    from boxwright.bench.plan.cells import Cell, grid
    from boxwright.bench.plan.rules import Rules
    from boxwright.bench.result import Race
    from boxwright.bench.run.external import ExternalModel

__all__ = ["Cell", "ExternalModel", "Race", "Rules", "grid", "race"]

_HOME = {"Cell": "plan.cells", "ExternalModel": "run.external", "Race": "result", "Rules": "plan.rules",
         "grid": "plan.cells", "race": "driver"}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'boxwright.bench' has no attribute '{name}'")
    return getattr(import_module(f"boxwright.bench.{_HOME[name]}"), name)
