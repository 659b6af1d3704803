"""Who must learn what: from candidate boxes and objects to an object per candidate."""

from boxwright.assign.by_center import ByCenter
from boxwright.assign.by_overlap import BACKGROUND, IGNORED, ByOverlap
from boxwright.assign.sample import Balanced, HardNegatives, everything

__all__ = ["BACKGROUND", "IGNORED", "Balanced", "ByCenter", "ByOverlap", "HardNegatives", "everything"]
