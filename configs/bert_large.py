"""BERT-large (335 M parameters), with LAMB and the batches of You et al. (2020), who trained it in 76 minutes.

Command: ctx-jax train bert_large --data.train 'wikipedia/*.txt,books/*.txt' --data.valid held-out.txt
Data: prose, one sentence a line, documents apart by empty lines; theirs had 3.3 billion words
Hardware: theirs 1,024 TPU chips; here any number of devices that divides 8,192 rows, with --devices.micro-batches to
    fit
Time: 76 minutes there; with this code not measured yet
Expect: not measured yet

Dropout is 0.1 everywhere, as theirs. On attention's probabilities it keeps the fused attention of GPUs away (a warning
says so): --model.attention-dropout 0 brings it back, at some loss of regularization.
"""

from ctx_jax.data.config import DataConfig
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.encoders.transformer.config import Transformer
from ctx_jax.tokenizers.subword_training import TokenizerConfig
from ctx_jax.training.config import CheckpointConfig, EvaluateConfig, LogConfig, TrainConfig
from ctx_jax.training.optimizer import Lamb


def config() -> TrainConfig:
    """What differs from the defaults."""
    return TrainConfig(
        model=Transformer(
            vocabulary=0,
            dim=1024,
            layers=24,
            heads=16,
            feed_forward=4096,
            pooler=True,
            next_sentence=True,
            compute="bfloat16",
            remat=True,
        ),
        data=DataConfig(train="train.txt", valid="valid.txt"),
        sequences=SequenceConfig("pairs", length=512, rows=8192, predictions=80, first_steps=14_063, first_length=128),
        tokenizer=TokenizerConfig(kind="wordpiece", size=30_522),
        optimizer=Lamb(learning_rate=2.5e-3, warmup=3_125),
        checkpoint=CheckpointConfig(every=500),
        evaluate=EvaluateConfig(every=1_000, sentences=20_000),
        log=LogConfig(every=20),
        steps=15_625,
    )
