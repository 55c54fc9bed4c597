"""Files and folders that processes, killed at any moment or many at once, leave whole."""
