"""The race: which detector to take, on the user's own data and hardware.

from boxwright.bench import Guest, grid, race

race([*grid(["ssd", "faster_rcnn"], sizes=[224, 320]), Guest("mine", detect)], "my_dataset/")
"""

from boxwright.bench.cell import Cell, grid
from boxwright.bench.entry import Race
from boxwright.bench.guest import Guest
from boxwright.bench.rules import Rules
from boxwright.bench.run import race

__all__ = ["Cell", "Guest", "Race", "Rules", "grid", "race"]
