"""Backbones by name: `build_backbone` is the one way in."""

from __future__ import annotations

from boxwright.backbones.base import Backbone
from boxwright.backbones.build import BACKBONES, build_backbone, build_classifier

__all__ = ["BACKBONES", "Backbone", "build_backbone", "build_classifier"]
