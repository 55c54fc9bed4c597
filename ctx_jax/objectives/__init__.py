"""Hidden states and targets to sums of losses."""

from ctx_jax.objectives.sampled import draw_negatives, expected_counts, log_uniform, sampled_softmax
from ctx_jax.objectives.softmax import softmax, token_losses

__all__ = ["draw_negatives", "expected_counts", "log_uniform", "sampled_softmax", "softmax", "token_losses"]
