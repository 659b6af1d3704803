"""Pictures for people: boxes on photographs, curves of a training run."""
