"""Ids to every layer."""
