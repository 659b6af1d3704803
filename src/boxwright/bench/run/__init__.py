"""What is done in a race: its state on disk, jobs, worker processes, external models, times."""
