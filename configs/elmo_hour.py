"""A biLM of ELMo's published small shape (13.6 M parameters without the softmax) on five million words of Wikipedia.

Command: ctx-jax train elmo_hour --data.train train.txt --data.valid valid.txt
Data: prose, one paragraph a line, documents separated by empty lines; `docs/results.md` says which was used
Hardware: 2 CPU cores with bf16 products (on others set `--model.compute float32`)
Time: 5.1 million words, by the rates that were measured 43 minutes on two cores of an AMD EPYC (1,985 words a second)
    and 62 on one of them (1,379), reading the text not included
Expect: on validation text a perplexity of 116.5; `docs/results.md` has the rest, and how the recipe was chosen

Less than one pass over the text, hence no dropout and a high learning rate.
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
            model=BiLM(dim=1024, projection=128, dropout=0.0, compute="bfloat16"),
            negatives=2048,
            zero_start=0.05,
            data=BiLMData(
                train="train.txt",
                valid="valid.txt",
                rule="prose",
                sentences="split",
                vocabulary_size=30_000,
                batch_size=64,
                unroll_steps=20,
            ),
            evaluate=BiLMEvaluate(every=1_000, sentences=1_000),
        ),
        optimizer=AdamW(learning_rate=6e-3, warmup=100),
        checkpoint=CheckpointConfig(every=500),
        log=LogConfig(every=50),
        steps=4_000,
    )
