"""Detectors in the order of invention. `DETECTORS` has them all: name to config, whose `build` makes the detector."""

from boxwright.detectors.base import Detector, Network
from boxwright.detectors.faster_rcnn import FasterRCNN, FasterRCNNConfig
from boxwright.detectors.retinanet import RetinaNet, RetinaNetConfig

DETECTORS = {
    "faster_rcnn": FasterRCNNConfig,
    "retinanet": RetinaNetConfig,
}

__all__ = ["DETECTORS", "Detector", "FasterRCNN", "FasterRCNNConfig", "Network", "RetinaNet", "RetinaNetConfig"]
