"""Detection metrics: precision and recall by definition, COCO's metrics, and their confidence intervals."""

from boxwright.metrics.coco import Evaluation, evaluate, evaluate_files
from boxwright.metrics.compare import bootstrap_ap, interval, paired_difference
from boxwright.metrics.precision import OperatingPoint, recall_precision
from boxwright.units import Interval

__all__ = [
    "Evaluation", "Interval", "OperatingPoint", "bootstrap_ap", "evaluate", "evaluate_files", "interval",
    "paired_difference", "recall_precision",
]  # fmt: skip
