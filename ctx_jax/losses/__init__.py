"""Where a model and an objective join."""
