"""A small causal Transformer on this interpreter's own documentation, from its tokenizer up.

Command: python train.py gpt_quickstart
Hardware: 2 CPU cores
Time: 1 min on an AMD EPYC, reading the text and training the tokenizer included
Expect: a perplexity of about 97 a token on validation text (4,096 byte-level tokens, 1.2 a word)

The model is `mlm_quickstart`'s, with causal attention: GPT (Radford et al. 2018) with rotary positions, norms before
each part and Muon.
"""

from dataclasses import replace

from ctx_jax.configs import mlm_quickstart

from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.tasks import TrainConfig
from ctx_jax.tasks.causal_lm import CausalLMConfig
from ctx_jax.tasks.masked_lm import MaskedLMConfig
from ctx_jax.tasks.setup import EvaluateConfig
from ctx_jax.tokenizers.subword_training import TokenizerConfig
from ctx_jax.training.config import CheckpointConfig


def config() -> TrainConfig:
    masked = mlm_quickstart.config()
    assert isinstance(masked.task, MaskedLMConfig)
    task = CausalLMConfig(
        model=replace(masked.task.model, causal=True),
        data=masked.task.data,
        sequences=SequenceConfig(packing="causal_blocks", length=64, batch_size=32),
        tokenizer=TokenizerConfig(kind="bpe", size=4096),
        evaluate=EvaluateConfig(every=200),
    )
    # About 3 epochs. More overfit: in 1,200 steps the validation perplexity rose from 105 at step 400 to 146.
    return replace(masked, task=task, checkpoint=CheckpointConfig(every=200), steps=400)
