"""Arithmetic that models and objectives share."""
