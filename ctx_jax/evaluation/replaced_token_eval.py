"""The losses of ELECTRA's generator and discriminator on held-out text, with the same masks and samples each time."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import jax

from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.data.tokens import Tokens
from ctx_jax.distributed.sharding import shard_batch
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.evaluation.masked_lm_eval import text_means
from ctx_jax.heads import ClassificationHead, Generator
from ctx_jax.io.progress import Progress
from ctx_jax.losses.replaced_token import replaced_token
from ctx_jax.tokenizers.subwords import Subwords
from ctx_jax.typing import Params


@lru_cache(maxsize=8)
def _compiled(
    model: Transformer,
    generator: Generator,
    head: ClassificationHead,
    batch_size: int,
    devices: tuple[jax.Device, ...],
) -> tuple[Callable[..., Any], Callable[[Any], Any]]:
    """As `masked_lm_eval.compile_loss`."""

    def terms(params: Params, batch: Any, carry: tuple[()]) -> Any:
        found, _ = replaced_token(model, generator, head, params, batch, carry)
        return jax.tree.map(lambda value: value[None], found)

    return shard_batch(terms, batch_size, devices)


def replaced_token_metrics(
    model: Transformer,
    generator: Generator,
    head: ClassificationHead,
    params: Params,
    tokens: Tokens,
    subwords: Subwords,
    sequences: SequenceConfig,
    *,
    weight: float,
    devices: Sequence[jax.Device] | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """`metrics_of_means` of a text without dropout. The first arguments are those of `losses.replaced_token`.

    Masks and samples depend on the example alone, so the batch size and the number of `devices` (default: all of this
    machine) change only rounding. `progress` counts tokens.
    """
    compiled = partial(_compiled, model, generator, head)
    means = text_means(compiled, model, params, tokens, subwords, sequences, devices, progress)
    return metrics_of_means(means, weight)


def metrics_of_means(means: dict[str, float], weight: float) -> dict[str, float]:
    """Metrics of the terms' means: `loss` is the generator's plus `weight` times the discriminator's.

    "replaced" is the share of the real tokens that are not the original, "replaced_recall" the share of these that the
    discriminator calls replaced; NaN if there is none.
    """
    return {
        "loss": means["generator"] + weight * means["discriminator"],
        "generator_loss": means["generator"],
        "generator_accuracy": means["generator_accuracy"],
        "discriminator_loss": means["discriminator"],
        "discriminator_accuracy": means["discriminator_accuracy"],
        "replaced": means["replaced"],
        "replaced_recall": means["found"] / means["replaced"] if means["replaced"] else math.nan,
    }
