"""Losses: (model, params, batch, carry), or hidden states and targets, to {term: (sum, weight)}."""

from ctx_jax.losses.bilm import bilm, bilm_tokens
from ctx_jax.losses.language_model import causal_lm, causal_lm_tokens, masked_lm, masked_lm_tokens
from ctx_jax.losses.replaced_token import replaced_token
from ctx_jax.losses.sampled import draw_negatives, expected_counts, log_uniform, sampled_softmax
from ctx_jax.losses.softmax import exact_softmax, softmax_with_hits, token_losses

__all__ = [
    "bilm",
    "bilm_tokens",
    "causal_lm",
    "causal_lm_tokens",
    "draw_negatives",
    "exact_softmax",
    "expected_counts",
    "log_uniform",
    "masked_lm",
    "masked_lm_tokens",
    "replaced_token",
    "sampled_softmax",
    "softmax_with_hits",
    "token_losses",
]
