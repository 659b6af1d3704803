"""Training: configuration, loop, distribution over processes, the folder of a run, fine-tuning.

As a function, `boxwright.train(...)`, it is `boxwright.api.train`.
"""
