"""The race: which detector to take, on the user's own data and hardware.

from boxwright.bench import Guest, grid, race

race([*grid(["ssd", "faster_rcnn"], sizes=[224, 320]), Guest("mine", detect)], "my_dataset/")
"""

from boxwright.bench.plan.cells import Cell, grid
from boxwright.bench.plan.rules import Rules
from boxwright.bench.race import race
from boxwright.bench.result import Race
from boxwright.bench.run.external import ExternalModel

__all__ = ["Cell", "ExternalModel", "Race", "Rules", "grid", "race"]
