"""Our own runs on disk: checkpoints of Orbax, their digests, and the files of a run directory."""
