"""The same small BERT trained twice from the same weights, on the same batches: by `training/step.py`, and by a plain
torch loop over `transformers.BertForMaskedLM`.

    python benchmarks/bert_curve.py --text wikitext-2/train.txt.xz

Needs the `[parity]` extra. No dropout, float32, one AdamW on both sides: bias correction, the same epsilon, decay on
everything but biases and norms, norm clipped to 1, the rate rising over `warmup` steps and falling in a straight line.
Prints the mean loss of every 50 steps of both, and fails where one is more than 1 % off.
"""

import sys
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
import tyro
from transformer_sides import Exported, decay_groups, labels, masked_lm, read_text

from ctx_jax.data.batch import MaskedBatch
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.data.sequences import Sequences
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.tasks.masked_lm import MaskedLMTask
from ctx_jax.training.optimizer import AdamW
from ctx_jax.training.step import TrainingStep

INTERVAL = 50  # steps of a mean
ALLOWED = 0.01


@dataclass(frozen=True)
class Options:
    """One pair of trainings."""

    text: str = "python-docs"
    """Files or globs of text separated by commas, plain, .gz or .xz; or `python-docs`."""

    steps: int = 300
    """Steps of either."""

    dim: int = 128
    """Width; heads are 32 wide, the feed-forward part four times as wide."""

    depth: int = 4
    """Layers."""

    batch_size: int = 32
    """Rows of a batch."""

    length: int = 64
    """Tokens of a row."""

    vocabulary: int = 8_192
    """The most tokens of the WordPiece tokenizer trained on the text."""

    learning_rate: float = 1e-3
    """The highest learning rate."""

    warmup: int = 30
    """Steps in which it rises."""

    seed: int = 0
    """Of the weights, the order and the masks."""


class Ours:
    """The step of `train.py` on one device."""

    def __init__(self, task: MaskedLMTask, optimizer: AdamW, options: Options) -> None:
        self._training_step = TrainingStep(task, optimizer, options.steps, options.seed)
        self._step = jax.jit(self._training_step.__call__, donate_argnums=0)
        self._state, self._frozen = jax.jit(self._training_step.initial)()

    @property
    def params(self) -> Any:
        return self._state.params

    def __call__(self, batch: MaskedBatch) -> float:
        """The loss of a batch, in nats a predicted token, before the step on it."""
        fresh = self._state._replace(totals=self._training_step.zero_totals())
        self._state = self._step(fresh, self._frozen, jax.tree.map(jnp.asarray, batch))
        total, weight = self._state.totals.terms["masked"]
        return float(total) / float(weight)


class Theirs:
    """A loop as one writes it by hand, its learning rate by the formula."""

    def __init__(self, network: torch.nn.Module, config: AdamW, steps: int) -> None:
        self._network, self._config, self._steps, self._done = network.train(), config, steps, 0
        self._optimizer = torch.optim.AdamW(
            decay_groups(network, config.weight_decay), config.learning_rate, (config.beta1, config.beta2),
            config.epsilon,
        )  # fmt: skip

    def __call__(self, batch: MaskedBatch) -> float:
        ids, mask, wanted = map(torch.from_numpy, (batch.tokens.token_ids, batch.tokens.mask, labels(batch)))
        loss = self._network(input_ids=ids.long(), attention_mask=mask.long(), labels=wanted).loss
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), self._config.clip_norm)
        warmup = self._config.warmup
        rise, fall = (self._done + 1) / max(warmup, 1), (self._steps - self._done) / max(self._steps - warmup, 1)
        for group in self._optimizer.param_groups:
            group["lr"] = self._config.learning_rate * (rise if self._done < warmup else fall)
        self._optimizer.step()
        self._done += 1
        return float(loss.detach())


def curves(options: Options) -> tuple[np.ndarray, np.ndarray]:
    """The losses of both, float64 [steps] each."""
    text = read_text(options.text, options.vocabulary)
    sequences = SequenceConfig(batch_size=options.batch_size, length=options.length)
    model = Transformer(
        vocabulary=len(text.subwords), dim=options.dim, depth=options.depth, heads=options.dim // 32,
        feed_forward=4 * options.dim, max_positions=options.length,
    ).without_dropout  # fmt: skip
    task = masked_lm(model, sequences, text, text.tokens, options.seed)
    optimizer = AdamW(learning_rate=options.learning_rate, schedule="linear", warmup=options.warmup, epsilon=1e-6)
    ours = Ours(task, optimizer, options)
    theirs = Theirs(Exported(task, ours.params).network("eager"), optimizer, options.steps)
    data = Sequences(text.tokens, text.subwords, sequences, seed=options.seed)
    parameters = sum(array.size for array in jax.tree.leaves(ours.params))
    print(f"{options.text}: {len(text.tokens.ids):,} tokens of {len(text.subwords):,}; {parameters:,} parameters")
    losses, seconds = np.zeros((2, options.steps)), [0.0, 0.0]
    for step in range(options.steps):
        arrays = next(data).arrays
        for side, run in enumerate((ours, theirs)):
            start = time.perf_counter()
            losses[side, step] = run(arrays)
            seconds[side] += time.perf_counter() - start
    print(
        f"{seconds[0]:.0f} s ours (compiling included), {seconds[1]:.0f} s torch's, on {torch.get_num_threads()} cores"
    )
    return losses[0], losses[1]


def main(options: Options) -> bool:
    """Print both curves; whether every mean agrees."""
    if options.steps % INTERVAL:
        raise ValueError(f"--steps {options.steps} must be a multiple of {INTERVAL}, over which losses are averaged")
    jax.config.update("jax_platforms", "cpu")
    transformers.logging.disable_progress_bar()
    versions = f"jax {jax.__version__}, torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{options.steps} steps of {options.batch_size} x {options.length}; {versions}")
    ours, theirs = curves(options)
    print("\n| steps | ours | torch | ours / torch | largest difference of a step |\n|---|---|---|---|---|")
    agree = True
    for start in range(0, options.steps, INTERVAL):
        part = slice(start, start + INTERVAL)
        own, other = ours[part].mean(), theirs[part].mean()
        agree &= bool(abs(own / other - 1.0) <= ALLOWED)
        apart = np.abs(ours[part] / theirs[part] - 1.0).max()
        print(f"| {start + 1}-{start + INTERVAL} | {own:.4f} | {other:.4f} | {own / other:.6f} | {apart:.1e} |")
    print(f"\nevery mean within {ALLOWED:.0%}: {'yes' if agree else 'no'}")
    return agree


if __name__ == "__main__":
    sys.exit(0 if main(tyro.cli(Options, description=__doc__)) else 1)
