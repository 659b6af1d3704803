"""Training: configuration, loop, distribution over processes, the folder of a run, fine-tuning."""
