"""A regularised biLM on WikiText-2 (Merity et al. 2016), two million words of Wikipedia.

Command: ctx-jax train elmo_wikitext2 --data.train wiki.train.tokens --data.valid wiki.valid.tokens
Data: the word-level WikiText-2 its authors published, https://huggingface.co/datasets/Salesforce/wikitext
    (wikitext-2-v1), as the three files wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens
Hardware: one GPU
Time: meant to take about ten minutes; not measured yet
Expect: not measured yet. The field's convention is one stream with the state carried:
    ctx-jax evaluate runs/elmo_wikitext2 wiki.test.tokens --protocol stream
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
            model=BiLM(dim=1024, projection=256, dropout=0.4, compute="bfloat16"),
            zero_start=0.02,
            data=BiLMData(train="wiki.train.tokens", valid="wiki.valid.tokens", batch_size=64, unroll_steps=35),
            evaluate=BiLMEvaluate(every=1_000),
        ),
        optimizer=AdamW(learning_rate=2e-3, warmup=200, weight_decay=0.1),
        checkpoint=CheckpointConfig(every=1_000),
        log=LogConfig(every=100),
        steps=20_000,
    )
