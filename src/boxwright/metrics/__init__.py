"""How good a set of detections is: precision and recall by definition, and COCO's metrics as a leaderboard has them."""

from boxwright.metrics.coco import Evaluation, evaluate, evaluate_files

__all__ = ["Evaluation", "evaluate", "evaluate_files"]
