"""Detectors in the order of invention. `DETECTORS` has them all: name to config, whose `build` makes the detector.

The configs need no torch; the classes of the detectors are imported at first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from boxwright.detectors.config import (
    DETECTORS,
    KINDS,
    DetectorConfig,
    FasterRCNNConfig,
    FastRCNNConfig,
    FCOSConfig,
    LocalizerConfig,
    RCNNConfig,
    RetinaNetConfig,
    RFCNConfig,
    RPNConfig,
    SlidingWindowConfig,
    SPPNetConfig,
    SSDConfig,
)

if TYPE_CHECKING:
    from boxwright.detectors.base import Detector, Network
    from boxwright.detectors.fast_rcnn import FastRCNN
    from boxwright.detectors.faster_rcnn import FasterRCNN
    from boxwright.detectors.fcos import FCOS
    from boxwright.detectors.localizer import Localizer
    from boxwright.detectors.r_fcn import RFCN
    from boxwright.detectors.rcnn import RCNN
    from boxwright.detectors.retinanet import RetinaNet
    from boxwright.detectors.rpn import RPN
    from boxwright.detectors.sliding_window import SlidingWindowDetector
    from boxwright.detectors.spp_net import SPPNet
    from boxwright.detectors.ssd import SSD

__all__ = [
    "DETECTORS", "FCOS", "KINDS", "RCNN", "RFCN", "RPN", "SSD", "Detector", "DetectorConfig", "FCOSConfig", "FastRCNN",
    "FastRCNNConfig", "FasterRCNN", "FasterRCNNConfig", "Localizer", "LocalizerConfig", "Network", "RCNNConfig",
    "RFCNConfig", "RPNConfig", "RetinaNet", "RetinaNetConfig", "SPPNet", "SPPNetConfig", "SSDConfig",
    "SlidingWindowConfig", "SlidingWindowDetector",
]  # fmt: skip

_FILES = {
    "Detector": "base", "Network": "base", "Localizer": "localizer", "SlidingWindowDetector": "sliding_window",
    "RCNN": "rcnn", "SPPNet": "spp_net", "FastRCNN": "fast_rcnn", "FasterRCNN": "faster_rcnn", "RFCN": "r_fcn",
    "SSD": "ssd", "RetinaNet": "retinanet", "FCOS": "fcos", "RPN": "rpn",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module 'boxwright.detectors' has no attribute '{name}'")
    return getattr(import_module(f"boxwright.detectors.{_FILES[name]}"), name)
