"""Working directories: a run's files and lock, runs found again, and what is derived from runs."""
