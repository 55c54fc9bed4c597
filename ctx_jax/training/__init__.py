"""State, step, devices and loop of a training run."""
