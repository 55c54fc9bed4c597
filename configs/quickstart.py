"""A small biLM on this interpreter's own documentation: the first thing to run.

Command: python train.py
Hardware: 2 CPU cores
Time: at most 4 minutes
Expect: a validation perplexity below that of the interpolated trigram model printed beside it (not measured yet)
"""

from ctx_jax.data.config import DataConfig
from ctx_jax.models.bilm import BiLM
from ctx_jax.training.config import CheckpointConfig, EvaluateConfig, LogConfig, TrainConfig
from ctx_jax.training.optimizer import AdamW


def config() -> TrainConfig:
    """What differs from the defaults."""
    return TrainConfig(
        model=BiLM(
            max_characters=24,
            filters=((1, 16), (2, 32), (3, 64), (4, 64)),
            dim=256,
            projection=96,
            dropout=0.1,
            zero_start=0.1,
            tiers=((9, 0.52), (14, 0.18)),
            long_words=0.02,
        ),
        data=DataConfig(train="python-docs", minimum_count=2, lanes=32, window=20),
        optimizer=AdamW(learning_rate=6e-3, warmup=50),
        checkpoint=CheckpointConfig(every=150),
        evaluate=EvaluateConfig(every=150),
        log=LogConfig(every=20),
        steps=600,
    )
