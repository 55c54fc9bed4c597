"""A small biLM on this interpreter's own documentation: the first thing to run.

Command: python train.py
Hardware: 2 CPU cores
Time: 1 min 23 s on an AMD EPYC, 3 min 8 s on an Intel Xeon without bf16, with reading the text and the last comparison
Expect: validation perplexity about 98; the interpolated trigram model 103.1, the unigram model 364.8; 4.1 % <UNK> (the
    text is that of Python 3.11.7 and differs with the version)
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
            model=BiLM(
                max_characters=24,
                filters=((1, 16), (2, 32), (3, 64), (4, 64)),
                dim=256,
                projection=96,
                dropout=0.1,
                length_buckets=((9, 0.52), (14, 0.18)),
                long_word_share=0.02,
            ),
            zero_start=0.1,
            data=BiLMData(train="python-docs", vocabulary_size=8_000, batch_size=32, unroll_steps=20),
            evaluate=BiLMEvaluate(every=175, ngrams=700, neighbours=700),
        ),
        optimizer=AdamW(learning_rate=6e-3, warmup=50),
        checkpoint=CheckpointConfig(every=175),
        log=LogConfig(every=20),
        steps=700,
    )
