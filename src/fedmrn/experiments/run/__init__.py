"""One run: an experiment, and the folder that it fills."""
