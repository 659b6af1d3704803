"""Detection metrics: precision and recall by definition, COCO's metrics, and their confidence intervals."""

from boxwright.metrics.coco import Evaluation, evaluate, evaluate_files
from boxwright.metrics.compare import ApIntervals, Interval, ap_interval
from boxwright.metrics.precision import OperatingPoint, recall_precision

__all__ = [
    "ApIntervals",
    "Evaluation",
    "Interval",
    "OperatingPoint",
    "ap_interval",
    "evaluate",
    "evaluate_files",
    "recall_precision",
]
