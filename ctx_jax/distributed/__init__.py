"""Processes of a job agreeing, and arrays divided over devices."""
