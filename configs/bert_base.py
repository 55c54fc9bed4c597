"""BERT-base, cased, trained as its authors did (Devlin et al. 2019, appendix A.2): pairs, next-sentence labels, and
nine tenths of the steps at length 128.

Command: ctx-jax train bert_base --data.train 'wikipedia/*.txt,books/*.txt' --data.valid held-out.txt
Data: prose, one sentence a line, documents separated by empty lines; theirs had 3.3 billion words
Hardware: theirs 16 TPU chips; here any number of devices that divides 256 rows, with --devices.micro-batches to fit
Time: four days there; with this code not measured yet
Expect: not measured yet; theirs reached 84.6 on GLUE's MNLI after fine-tuning

The optimizer corrects its moments' bias in the first steps, which theirs did not. Dropout is 0.1 everywhere, as theirs.
With dropout on attention probabilities the fused attention of GPUs is not used (a warning says so);
--model.attention-dropout 0 enables it, with less regularization.
"""

from ctx_jax.data.config import TextConfig
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.tasks import TrainConfig
from ctx_jax.tasks.masked_lm import MaskedLMConfig, MaskedLMEvaluate
from ctx_jax.tokenizers.subword_training import TokenizerConfig
from ctx_jax.training.config import CheckpointConfig, LogConfig
from ctx_jax.training.optimizer import AdamW


def config() -> TrainConfig:
    return TrainConfig(
        task=MaskedLMConfig(
            model=Transformer(vocabulary=0, compute="bfloat16"),
            data=TextConfig(train="train.txt", valid="valid.txt"),
            sequences=SequenceConfig(
                packing="pairs", length=512, batch_size=256, max_predictions=80, short_steps=900_000, short_length=128
            ),
            tokenizer=TokenizerConfig(kind="wordpiece", size=30_522),
            evaluate=MaskedLMEvaluate(every=10_000, sentences=20_000),
        ),
        optimizer=AdamW(learning_rate=1e-4, schedule="linear", warmup=10_000, epsilon=1e-6),
        checkpoint=CheckpointConfig(every=5_000),
        log=LogConfig(every=100),
        steps=1_000_000,
    )
