"""Images for people: boxes on photographs, samples of a dataset, curves of a training run."""
