"""A masked-LM encoder for 20 to 30 million words of prose, one GPU and ten minutes (40 M parameters).

Command: ctx-jax train mlm_22m --data.train 'books.txt.xz,wikipedia.txt.xz' --data.valid held-out.txt
Data: prose, one paragraph a line (split into sentences here), documents separated by empty lines
Hardware: one GPU with bfloat16, 24 GB or more
Time: meant to take about ten minutes, tokenizer and compilation included; not measured yet
Expect: not measured yet

131,072 tokens a step, 524 million in all. At 1.4 pieces a word (BPE of 16,384, measured on English books and
Wikipedia) that reads 22.5 million words 16 to 17 times, 20 million 19 times, 30 million 12 times. Hence dropout of 0.1,
the usual for text read about 15 times or more; set it to 0 for text read a few times only. Attention's probabilities
have none: the fused kernel of GPUs does not take it.
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
        MODERN,
        dim=512,
        depth=12,
        heads=8,
        feed_forward=1024,
        attention_dropout=0.0,
        depth_scaled=True,
        compute="bfloat16",
    )
    return TrainConfig(
        task=MaskedLMConfig(
            model=model,
            head=model.default_head(),
            data=TextConfig(train="train.txt", valid="valid.txt", sentences="split"),
            sequences=SequenceConfig(length=128, batch_size=1024, mask_rate=0.2, whole_sentences=False),
            tokenizer=TokenizerConfig(kind="bpe", size=16_384),
            evaluate=MaskedLMEvaluate(every=500, sentences=10_000),
        ),
        optimizer=Muon(learning_rate=2e-3, warmup=200, weight_decay=0.05, cooldown=0.4),
        checkpoint=CheckpointConfig(every=1_000),
        log=LogConfig(every=50),
        steps=4_000,
    )
