"""What ModernBERT's shape (Warner et al. 2024) has in every size; configurations set the sizes."""

from ctx_jax.encoders.transformer import Transformer

MODERN = Transformer(
    vocabulary=0,
    gated=True,
    norm="pre",
    norm_epsilon=1e-5,
    norm_bias=False,
    first_attention_norm=False,
    attention_bias=False,
    feed_forward_bias=False,
    positions="rotary",
    rotary_theta=10_000.0,
    token_types=0,
)
