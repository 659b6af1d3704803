"""Geometry on tensors of boxes: no learning, no images.

Import from the file that has what you need: `convert`, `iou`, `codec`, `anchors`, `nms`.
"""
