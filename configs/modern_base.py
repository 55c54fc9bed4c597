"""A modern encoder of base size (149 M parameters) in the shape of ModernBERT (Warner et al. 2024): norms before each
part, rotary positions, gated units, no biases, two local layers for each global one.

Command: ctx-jax train modern_base --data.train 'text/*.txt.gz' --data.valid held-out.txt
Data: prose, one sentence a line, documents separated by empty lines; theirs had 2 trillion tokens
Hardware: theirs 8 H100 GPUs; here any number of devices that divides 4,608 rows, with --devices.micro-batches to fit
Time: 8 days there, longer contexts and the cool-down left out; with this code not measured yet
Expect: not measured yet

Muon takes the place of their StableAdamW.
"""

from dataclasses import replace

from ctx_jax.configs._modern import MODERN
from ctx_jax.data.config import TextConfig
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.tasks import TrainConfig
from ctx_jax.tasks.masked_lm import MaskedLMConfig, MaskedLMEvaluate
from ctx_jax.tokenizers.subword_training import TokenizerConfig
from ctx_jax.training.config import CheckpointConfig, LogConfig
from ctx_jax.training.optimizer import Muon

LAYERS = 22


def config() -> TrainConfig:
    model = replace(
        MODERN.without_dropout,
        depth=LAYERS,
        feed_forward=1152,
        max_positions=1024,
        local_layers=tuple(layer for layer in range(LAYERS) if layer % 3),
        depth_scaled=True,
        compute="bfloat16",
    )
    return TrainConfig(
        task=MaskedLMConfig(
            model=model,
            head=model.default_head(),
            data=TextConfig(train="train.txt", valid="valid.txt"),
            sequences=SequenceConfig(length=1024, batch_size=4608, mask_rate=0.3, whole_sentences=False),
            tokenizer=TokenizerConfig(kind="bpe", size=50_368),
            evaluate=MaskedLMEvaluate(every=5_000, sentences=20_000),
        ),
        optimizer=Muon(learning_rate=8e-4, warmup=640, beta2=0.98, weight_decay=1e-2),
        checkpoint=CheckpointConfig(every=1_000),
        log=LogConfig(every=20),
        steps=100_000,
    )
