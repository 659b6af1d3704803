"""Detectors at work: training, evaluation, checkpoints, prediction."""
