"""Detectors at work: from images to named boxes in the pixels of each image."""
