"""Processes of a job agreeing, and arrays sharded over devices."""
