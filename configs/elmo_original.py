"""The published ELMo, trained as its authors did (Peters et al. 2018; allenai/bilm-tf).

Command: ctx-jax train elmo_original
Data: `tfds:lm1b`, the One Billion Word Benchmark; if it is not prepared, the error says how. It has no
    validation split, so the test split is used to choose the best checkpoint
Hardware: 3 GPUs there; any number that divides 384 rows here
Time: two weeks on three GTX 1080, about 6,350 tokens/s in all; with this code not measured yet
Expect: 39.7 held-out perplexity, the average of both directions; with this code not measured yet

128 rows x 20 steps on each of 3 GPUs, 10 epochs of 768,648,884 tokens: 100,084 batches of 7,680 tokens an epoch.

The gradient of the softmax, its sum over the GPUs and its Adagrad update are dense here, although only the rows of
the targets and of 8,192 negatives a direction change. One pass over W [793,471, 512] in float32 is 1.63 GB. A step
makes seven (gradient written, read for the norm, read for the update; accumulator and W each read and written):
11.4 GB a GPU, and the all-reduce over 3 GPUs sends another 2.2 GB.
"""

from ctx_jax.data.config import BiLMData
from ctx_jax.encoders.elmo import BiLM
from ctx_jax.tasks import TrainConfig
from ctx_jax.tasks.bilm import BiLMConfig, BiLMEvaluate
from ctx_jax.training.config import CheckpointConfig, LogConfig
from ctx_jax.training.optimizer import Adagrad


def config() -> TrainConfig:
    return TrainConfig(
        task=BiLMConfig(
            # The two directions are shuffled separately and share few words, so a batch has more distinct words.
            model=BiLM(highways=2, dim=4096, projection=512, dedup_table_factors=(1.8, 2.4)),
            negatives=8192,
            data=BiLMData(
                train="tfds:lm1b:train",
                valid="tfds:lm1b:test",
                vocabulary_size=793_471,
                minimum_count=3,
                batch_size=384,
                unroll_steps=20,
                directions="separate",
                assignment="shared",
            ),
            evaluate=BiLMEvaluate(every=25_000, sentences=5_000),
        ),
        optimizer=Adagrad(loss_scale=20.0),
        checkpoint=CheckpointConfig(every=5_000),
        log=LogConfig(every=100),
        steps=10 * 100_084,
    )
