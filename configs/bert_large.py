"""BERT-large (335 M parameters), with LAMB and the batches of You et al. (2020), who trained it in 76 minutes.

Command: ctx-jax train bert_large --data.train 'wikipedia/*.txt,books/*.txt' --data.valid held-out.txt
Data: prose, one sentence a line, documents separated by empty lines; theirs had 3.3 billion words
Hardware: theirs 1,024 TPU chips; here any number of devices that divides 8,192 rows, with --devices.micro-batches to
    fit
Time: 76 minutes there; with this code not measured yet
Expect: not measured yet

Dropout is 0.1 everywhere, as theirs. With dropout on attention probabilities the fused attention of GPUs is not used (a
warning says so); --model.attention-dropout 0 enables it, with less regularization.
"""

from ctx_jax.data.config import TextConfig
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.tasks import TrainConfig
from ctx_jax.tasks.masked_lm import MaskedLMConfig, MaskedLMEvaluate
from ctx_jax.tokenizers.subword_training import TokenizerConfig
from ctx_jax.training.config import CheckpointConfig, LogConfig
from ctx_jax.training.optimizer import Lamb


def config() -> TrainConfig:
    return TrainConfig(
        task=MaskedLMConfig(
            model=Transformer(
                vocabulary=0,
                dim=1024,
                depth=24,
                heads=16,
                feed_forward=4096,
                compute="bfloat16",
                remat=True,
            ),
            data=TextConfig(train="train.txt", valid="valid.txt"),
            sequences=SequenceConfig(
                packing="pairs", length=512, batch_size=8192, max_predictions=80, short_steps=14_063, short_length=128
            ),
            tokenizer=TokenizerConfig(kind="wordpiece", size=30_522),
            evaluate=MaskedLMEvaluate(every=1_000, sentences=20_000),
        ),
        optimizer=Lamb(learning_rate=2.5e-3, warmup=3_125),
        checkpoint=CheckpointConfig(every=500),
        log=LogConfig(every=20),
        steps=15_625,
    )
