"""Backbones by name: `build_backbone` builds one, `build_tail` the layers behind its level 4."""

from __future__ import annotations

from boxwright.backbones.base import Backbone, Classifier, Head, Stage, cut_stages
from boxwright.backbones.build import BACKBONES, build_backbone, build_classifier, build_tail, register_backbone
from boxwright.backbones.tail import Tail

__all__ = [
    "BACKBONES", "Backbone", "Classifier", "Head", "Stage", "Tail", "build_backbone", "build_classifier", "build_tail",
    "cut_stages", "register_backbone",
]  # fmt: skip
