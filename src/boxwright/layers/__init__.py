"""Layers that are independent of the task."""
