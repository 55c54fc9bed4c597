"""ELECTRA-small as its authors trained it (Clark et al. 2020, table 6): a discriminator 256 wide with embeddings of
128, a generator a quarter of it, 1,000,000 steps of 128 rows of 128 tokens.

Command: ctx-jax train electra_small --data.train 'wikipedia/*.txt,books/*.txt' --data.valid held-out.txt
Data: prose, one sentence a line, documents separated by empty lines; theirs had 3.3 billion words
Hardware: theirs one V100 GPU; here any number of devices that divides 128 rows
Time: four days there; with this code not measured yet
Expect: not measured yet; theirs reached 79.9 on GLUE after fine-tuning

The optimizer corrects its moments' bias in the first steps, which theirs did not; masked positions are drawn without
repetition, theirs with. Dropout is 0.1 everywhere, as theirs. With dropout on attention probabilities the fused
attention of GPUs is not used (a warning says so); --model.attention-dropout 0 enables it, with less regularization.
"""

from ctx_jax.data.config import TextConfig
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.tasks import TrainConfig
from ctx_jax.tasks.replaced_token import ReplacedTokenConfig
from ctx_jax.tasks.setup import EvaluateConfig
from ctx_jax.tokenizers.subword_training import TokenizerConfig
from ctx_jax.training.config import CheckpointConfig, LogConfig
from ctx_jax.training.optimizer import AdamW


def config() -> TrainConfig:
    return TrainConfig(
        task=ReplacedTokenConfig(
            model=Transformer(vocabulary=0, dim=256, heads=4, feed_forward=1024, embedding_dim=128, compute="bfloat16"),
            data=TextConfig(train="train.txt", valid="valid.txt"),
            sequences=SequenceConfig(
                packing="pairs",
                pair_label="none",
                length=128,
                batch_size=128,
                mask_token_probability=0.85,
                random_token_probability=0.0,
                short_sequence_probability=0.05,
            ),
            tokenizer=TokenizerConfig(kind="wordpiece", size=30_522, lowercase=True),
            evaluate=EvaluateConfig(every=10_000, sentences=20_000),
        ),
        optimizer=AdamW(learning_rate=5e-4, schedule="linear", warmup=10_000, epsilon=1e-6),
        checkpoint=CheckpointConfig(every=5_000),
        log=LogConfig(every=100),
        steps=1_000_000,
    )
