"""RoBERTa-base as its authors trained it (Liu et al. 2019, table 9): full sentences, no pairs, very large batches.

Command: ctx-jax train roberta_base --data.train 'text/*.txt.gz' --data.valid held-out.txt
Data: prose, one sentence a line, documents separated by empty lines; theirs had 160 GB
Hardware: theirs 1,024 V100 GPUs; here any number of devices that divides 8,192 rows, with --devices.micro-batches to
    fit
Time: about a day there; with this code not measured yet
Expect: not measured yet; theirs had a validation perplexity of 3.7 after 125,000 steps on 16 GB (table 3)

Dropout is 0.1 everywhere, as theirs. With dropout on attention probabilities the fused attention of GPUs is not used (a
warning says so); --model.attention-dropout 0 enables it, with less regularization.
"""

from ctx_jax.data.config import TextConfig
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.heads import VocabularyHead
from ctx_jax.tasks import TrainConfig
from ctx_jax.tasks.masked_lm import MaskedLMConfig, MaskedLMEvaluate
from ctx_jax.tokenizers.subword_training import TokenizerConfig
from ctx_jax.training.config import CheckpointConfig, LogConfig
from ctx_jax.training.optimizer import AdamW


def config() -> TrainConfig:
    return TrainConfig(
        task=MaskedLMConfig(
            model=Transformer(
                vocabulary=0,
                positions_after_padding=True,
                pad_id=1,
                max_positions=514,
                norm_epsilon=1e-5,
                token_types=1,
                compute="bfloat16",
            ),
            head=VocabularyHead(norm_epsilon=1e-5),
            data=TextConfig(train="train.txt", valid="valid.txt"),
            sequences=SequenceConfig(length=512, batch_size=8192),
            tokenizer=TokenizerConfig(kind="bpe", size=50_265),
            evaluate=MaskedLMEvaluate(every=5_000, sentences=20_000),
        ),
        optimizer=AdamW(learning_rate=6e-4, schedule="linear", warmup=24_000, beta2=0.98, epsilon=1e-6, clip_norm=0.0),
        checkpoint=CheckpointConfig(every=1_000),
        log=LogConfig(every=20),
        steps=500_000,
    )
