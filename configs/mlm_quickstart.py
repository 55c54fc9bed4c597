"""A small masked-LM Transformer on this interpreter's own documentation, from its tokenizer up.

Command: python train.py mlm_quickstart
Hardware: 2 CPU cores
Time: not measured yet
Expect: not measured yet; it ends by filling masked words in sentences it prints
"""

from ctx_jax.data.config import DataConfig
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.models.transformer_config import Transformer
from ctx_jax.text.subword_config import TokenizerConfig
from ctx_jax.training.config import CheckpointConfig, EvaluateConfig, LogConfig, TrainConfig
from ctx_jax.training.optimizer import AdamW


def config() -> TrainConfig:
    """What differs from the defaults."""
    return TrainConfig(
        model=Transformer(
            vocabulary=0,
            dim=128,
            layers=3,
            heads=4,
            feed_forward=512,
            max_positions=64,
            embedding_dropout=0.0,
            attention_dropout=0.0,
            attention_output_dropout=0.0,
            feed_forward_dropout=0.0,
        ),
        data=DataConfig(train="python-docs"),
        sequences=SequenceConfig(length=64, rows=32, rate=0.2),
        tokenizer=TokenizerConfig(kind="wordpiece", size=4096, lowercase=True),
        optimizer=AdamW(learning_rate=2e-3, warmup=100),
        checkpoint=CheckpointConfig(every=400),
        evaluate=EvaluateConfig(every=400),
        log=LogConfig(every=50),
        steps=1600,
    )
