"""Measurements of a trained detector: AP on a dataset, time by stage, memory."""
