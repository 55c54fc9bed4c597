"""Shipped training configurations: `ctx-jax train NAME` finds them here."""
