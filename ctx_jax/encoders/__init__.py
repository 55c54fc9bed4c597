"""Encoders: one folder a family."""
