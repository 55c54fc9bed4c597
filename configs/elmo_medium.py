"""ELMo in its published medium size (28.0 M parameters without the softmax), with a modern recipe.

Command: ctx-jax train elmo_medium
Data: `tfds:lm1b`, the One Billion Word Benchmark; if it is not prepared, the error says how. It has no
    validation split, so the test split is used to choose the best checkpoint
Hardware: one GPU or more; any number that divides 512 rows
Time: not measured yet
Expect: not measured yet
"""

from dataclasses import replace

from ctx_jax.configs import elmo_small
from ctx_jax.encoders.elmo import BiLM
from ctx_jax.tasks import TrainConfig


def config() -> TrainConfig:
    small = elmo_small.config()
    return replace(small, task=replace(small.task, model=BiLM(dim=2048, projection=256, compute="bfloat16")))
