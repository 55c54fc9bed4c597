"""A small GPT-2 on this interpreter's own documentation, from its tokenizer up.

Command: python train.py gpt_quickstart
Hardware: 2 CPU cores
Time: 1 min 7 s on an AMD EPYC, reading the text and training the tokenizer included
Expect: a perplexity of about 110 a token on validation text (4,096 byte-level tokens, 1.2 a word)
"""

from ctx_jax.data.config import TextConfig
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.heads import VocabularyHead
from ctx_jax.tasks import TrainConfig
from ctx_jax.tasks.causal_lm import CausalLMConfig
from ctx_jax.tasks.setup import EvaluateConfig
from ctx_jax.tokenizers.subword_training import TokenizerConfig
from ctx_jax.training.config import CheckpointConfig, LogConfig
from ctx_jax.training.optimizer import Muon


def config() -> TrainConfig:
    return TrainConfig(
        task=CausalLMConfig(
            model=Transformer(
                vocabulary=0,
                dim=128,
                depth=4,
                heads=4,
                feed_forward=512,
                activation="gelu_tanh",
                causal=True,
                norm="pre",
                norm_epsilon=1e-5,
                embedding_norm=False,
                max_positions=128,
                token_types=0,
                depth_scaled=True,
            ).without_dropout,
            head=VocabularyHead(transform=False, decoder_bias=False),
            data=TextConfig(train="python-docs"),
            sequences=SequenceConfig(packing="causal_blocks", length=64, batch_size=32),
            tokenizer=TokenizerConfig(kind="bpe", size=4096),
            evaluate=EvaluateConfig(every=200),
        ),
        optimizer=Muon(learning_rate=4e-3, warmup=50, weight_decay=0.05),
        checkpoint=CheckpointConfig(every=200),
        log=LogConfig(every=50),
        steps=400,  # about 3 epochs; more overfit
    )
