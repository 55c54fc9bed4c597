"""Atomic files and folders, locks between processes, JSON, configs as JSON, progress, the errors of the library."""
