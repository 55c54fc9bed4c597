"""Hidden states and targets to sums of losses."""

from ctx_jax.objectives.sampled import draw_negatives, expected_counts, log_uniform, sampled_softmax
from ctx_jax.objectives.softmax import exact_softmax, softmax_with_hits, token_losses

__all__ = [
    "draw_negatives",
    "exact_softmax",
    "expected_counts",
    "log_uniform",
    "sampled_softmax",
    "softmax_with_hits",
    "token_losses",
]
