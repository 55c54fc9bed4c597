"""A small BERT (7.2 M parameters) on six million tokens of Wikipedia, beside `elmo_hour`.

Command: ctx-jax train mlm_hour --data.train train.txt --data.valid valid.txt
Data: prose, one paragraph a line, documents separated by empty lines; `docs/results.md` says which was used
Hardware: CPU cores with bf16 products (on others set `--model.compute float32`)
Time: 45 min 31 s on one core of an AMD EPYC with AVX512-BF16, reading the text and training the tokenizer included
Expect: on validation text a perplexity of 88 and 29 % of the masked tokens right; `docs/results.md` has the rest, and
    how the recipe was chosen

Less than one pass over the text, hence no dropout and 30 % of the tokens masked.
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


def config() -> TrainConfig:
    model = replace(
        MODERN.without_dropout,
        dim=256,
        depth=6,
        heads=4,
        feed_forward=768,
        compute="bfloat16",
    )
    return TrainConfig(
        task=MaskedLMConfig(
            model=model,
            head=model.default_head(),
            data=TextConfig(train="train.txt", valid="valid.txt", sentences="split"),
            sequences=SequenceConfig(length=64, batch_size=64, mask_rate=0.3),
            tokenizer=TokenizerConfig(kind="wordpiece", size=8192, lowercase=True),
            evaluate=MaskedLMEvaluate(every=250, sentences=1_000),
        ),
        optimizer=Muon(learning_rate=4e-3, warmup=50, weight_decay=0.05),
        checkpoint=CheckpointConfig(every=250),
        log=LogConfig(every=50),
        steps=2_000,
    )
