"""Geometry on tensors of boxes, without learning: `geometry`, `anchors`, `nms`, `view`."""
