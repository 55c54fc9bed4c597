"""ELMo in its published medium size (28.0 M parameters without the softmax), with a modern recipe.

Command: ctx-jax train elmo_medium
Data: `tfds:lm1b`, the One Billion Word Benchmark; if it is not prepared, the error says how. It has no
    validation split, so the test split is used to choose the best checkpoint
Hardware: one GPU or more; any number that divides 512 rows
Time: not measured yet
Expect: not measured yet
"""

from ctx_jax.data.config import BiLMData
from ctx_jax.encoders.elmo import BiLM
from ctx_jax.tasks import TrainConfig
from ctx_jax.tasks.bilm import BiLMConfig, BiLMEvaluate
from ctx_jax.training.config import CheckpointConfig, LogConfig
from ctx_jax.training.optimizer import AdamW


def config() -> TrainConfig:
    return TrainConfig(
        task=BiLMConfig(
            model=BiLM(dim=2048, projection=256, compute="bfloat16"),
            negatives=8192,
            zero_start=0.02,
            data=BiLMData(
                train="tfds:lm1b:train",
                valid="tfds:lm1b:test",
                vocabulary_size=200_000,
                batch_size=512,
                unroll_steps=20,
            ),
            evaluate=BiLMEvaluate(every=10_000, sentences=5_000),
        ),
        optimizer=AdamW(learning_rate=1e-3, warmup=1_000),
        checkpoint=CheckpointConfig(every=2_000),
        log=LogConfig(every=100),
        steps=150_000,  # two epochs
    )
