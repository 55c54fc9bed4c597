"""Where a model and an objective join: (model, params, batch, carry) to {term: (sum, weight)} and the new carry."""

from ctx_jax.losses.bilm import bilm, bilm_tokens
from ctx_jax.losses.sequences import causal_lm, masked_lm

__all__ = ["bilm", "bilm_tokens", "causal_lm", "masked_lm"]
