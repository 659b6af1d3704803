"""Detectors in the order of invention. `DETECTORS` has them all: name to config, whose `build` makes the detector."""

from boxwright.detectors.base import Detector, Network
from boxwright.detectors.fast_rcnn import FastRCNN, FastRCNNConfig
from boxwright.detectors.faster_rcnn import FasterRCNN, FasterRCNNConfig
from boxwright.detectors.fcos import FCOS, FCOSConfig
from boxwright.detectors.localizer import Localizer, LocalizerConfig
from boxwright.detectors.r_fcn import RFCN, RFCNConfig
from boxwright.detectors.rcnn import RCNN, RCNNConfig
from boxwright.detectors.retinanet import RetinaNet, RetinaNetConfig
from boxwright.detectors.rpn import RPN, RPNConfig
from boxwright.detectors.sliding_window import SlidingWindowConfig, SlidingWindowDetector
from boxwright.detectors.spp_net import SPPNet, SPPNetConfig
from boxwright.detectors.ssd import SSD, SSDConfig

DETECTORS = {
    "localizer": LocalizerConfig,
    "sliding_window": SlidingWindowConfig,
    "rcnn": RCNNConfig,
    "spp_net": SPPNetConfig,
    "fast_rcnn": FastRCNNConfig,
    "faster_rcnn": FasterRCNNConfig,
    "r_fcn": RFCNConfig,
    "ssd": SSDConfig,
    "retinanet": RetinaNetConfig,
    "fcos": FCOSConfig,
}

KINDS = {**DETECTORS, "rpn": RPNConfig}
"""All that a checkpoint may hold: the detectors, and what tells objects from none but not from each other."""

__all__ = [
    "DETECTORS",
    "FCOS",
    "KINDS",
    "RCNN",
    "RFCN",
    "RPN",
    "SSD",
    "Detector",
    "FCOSConfig",
    "FastRCNN",
    "FastRCNNConfig",
    "FasterRCNN",
    "FasterRCNNConfig",
    "Localizer",
    "LocalizerConfig",
    "Network",
    "RCNNConfig",
    "RFCNConfig",
    "RPNConfig",
    "RetinaNet",
    "RetinaNetConfig",
    "SPPNet",
    "SPPNetConfig",
    "SSDConfig",
    "SlidingWindowConfig",
    "SlidingWindowDetector",
]
