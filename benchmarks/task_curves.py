"""Fine-tuning by us and by a plain torch + transformers loop, step by step, from equal weights and in one order.

    python benchmarks/task_curves.py sst2 --encoder minilm --data ../shared/data
    python benchmarks/task_curves.py stsb --encoder minilm --data ../shared/data
    python benchmarks/task_curves.py cola --encoder minilm --data ../shared/data --dropout --steps 0

The recipe is that of `task_parity.py`, the examples those of `task_files.py`; the numbers of STS-B are a linear layer
on (u, v, |u - v|, u * v) of both texts. With `--dropout` torch uses our masks. Prints the mean loss of every 10 steps
and, for sst2 and cola, the metric of both sides after the last one; fails where a mean is more than 0.01 % off. Needs
the `[parity]` extra and scikit-learn.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import task_files
import torch
import transformers
import tyro
from step_masks import step_masks
from task_parity import BATCH, DROPOUT, LAYER_DECAY, RATE, WARMUP, Network, Trainer, metric, pooled, read
from task_parity import Options as ParityOptions

from ctx_jax.checkpoints.frozen import merge_params
from ctx_jax.data.labelled import LabelledData
from ctx_jax.tasks.classify import ClassifyConfig
from ctx_jax.tasks.pairs import PairsConfig
from ctx_jax.training.optimizer import AdamW
from ctx_jax.training.step import TrainingStep
from ctx_jax.training.task import TaskContext

INTERVAL, ALLOWED = 10, 1e-4


@dataclass(frozen=True)
class Options:
    """One comparison."""

    what: tyro.conf.Positional[Literal["sst2", "cola", "stsb"]]
    encoder: str
    """A Hugging Face folder of a BERT."""
    data: Path
    """The folder of the data sets."""
    steps: int = 50
    """Steps of the run, which the schedule spans; 0: 3 epochs."""
    dropout: bool = False
    """For texts alone."""
    seed: int = 0
    """Of the order, the first head and the dropout masks."""


def opened(options: Options, folder: Path) -> Any:
    """Our task: its training examples, and for validation those that are measured."""
    (train, _, measured), columns = task_files.paths(options.what, options.data, folder)
    common: dict[str, Any] = {
        "encoder": options.encoder,
        "data": LabelledData(train, valid=measured, columns=columns),
        "dropout": DROPOUT if options.dropout else 0.0,
        "encoder_dropout": options.dropout,
        "batch_size": BATCH,
    }
    config = PairsConfig(**common, target="number") if options.what == "stsb" else ClassifyConfig(**common)
    return config.open(TaskContext(folder, options.seed, options.steps, False, print))


def text_vectors(network: Network, inputs: Any) -> torch.Tensor:
    """The mixed means [B, D] of texts."""
    inputs = jax.tree.map(lambda array: torch.tensor(np.asarray(array)), inputs)
    ids, mask = inputs["token_ids"].long(), inputs["token_mask"]
    return network.mixed(pooled(network.layers(ids, mask.long()), mask.float()))


def torch_scores(network: Network, inputs: Any) -> torch.Tensor:
    """[B, K] of a batch of texts, or of pairs that are read apart."""
    if "first" not in inputs:
        return network.head(network.dropout(text_vectors(network, inputs)))
    u, v = (text_vectors(network, inputs[side]) for side in ("first", "second"))
    return network.head(torch.cat([u, v, (u - v).abs(), u * v], 1))


def torch_loss(network: Network, batch: Any) -> torch.Tensor:
    """The cross-entropy of texts, the squared error of pairs."""
    found, labels = torch_scores(network, batch.inputs), torch.tensor(batch.labels)
    if "first" in batch.inputs:
        return torch.nn.functional.mse_loss(found[:, 0], labels)
    return torch.nn.functional.cross_entropy(found, labels.long())


class GivenMasks:
    """In the place of `torch.nn.functional.dropout`."""

    def __init__(self) -> None:
        self.left: Iterator[jax.Array] = iter(())

    def __call__(self, values: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        if not training or p == 0:
            return values
        if p != DROPOUT:
            sys.exit(f"--dropout needs an encoder whose config.json has dropout {DROPOUT}, this one's is {p}")
        return torch.where(torch.tensor(np.asarray(next(self.left))), values / (1 - p), 0.0)


def compare(options: Options, folder: Path) -> bool:
    """Print both sides; whether the means of all intervals agree."""
    task = opened(options, folder)
    steps = options.steps or 3 * task.steps_per_epoch
    optimizer = AdamW(learning_rate=RATE, schedule="linear", warmup=WARMUP, layer_decay=LAYER_DECAY)
    training_step = TrainingStep(task, optimizer, steps, options.seed)
    state, _ = training_step.initial()
    state, frozen = training_step.with_params(state, task.initial(state.params))
    network = torch_network(options, state.params["head"]["labels"]["scores"])
    trainer, step, batches = Trainer(network, False, steps), jax.jit(training_step.__call__), task.batches(0, BATCH)
    given = torch.nn.functional.dropout = GivenMasks()
    losses = np.zeros((2, steps))
    for number in range(steps):
        batch = next(batches).arrays
        if options.dropout:
            length = batch.inputs["token_ids"].shape[1]
            rows = jnp.asarray(batch.rows)
            given.left = step_masks(task.model, training_step.key(state), rows, length, DROPOUT)
        fresh = state._replace(totals=training_step.zero_totals())
        state = step(fresh, frozen, jax.tree.map(jnp.asarray, batch))
        total, weight = state.totals.terms["label"]
        loss = torch_loss(network, batch)
        assert next(given.left, None) is None, "torch did not drop out as often as we did"
        losses[:, number] = float(total) / float(weight), float(loss.detach())
        trainer.step(loss)
        if (number + 1) % INTERVAL == 0:
            ours, theirs = losses[:, number + 1 - INTERVAL : number + 1].mean(axis=1)
            print(f"to step {number + 1}   ours {ours:.5f}   torch {theirs:.5f}   {ours / theirs - 1:+.5%}", flush=True)
    if options.what != "stsb":
        name = task_files.task(options.what, options.data).metric
        ours = task.valid_metrics(merge_params(state.params, frozen), jax.devices(), print)[name]
        theirs = metric(network, read(ParityOptions(options.what, options.encoder, options.data))[2], name)
        print(f"{name} x 100 of the measured examples   ours {100 * ours:.4f}   torch {100 * theirs:.4f}")
    means = losses[:, : steps // INTERVAL * INTERVAL].reshape(2, -1, INTERVAL).mean(axis=2)
    return bool((np.abs(means[0] / means[1] - 1) < ALLOWED).all())


def torch_network(options: Options, head: Any) -> Network:
    """torch's network with our first head."""
    encoder = transformers.AutoModel.from_pretrained(options.encoder, attn_implementation="eager")
    network = Network(encoder, len(head["bias"]), DROPOUT, 4 if options.what == "stsb" else 1).train(options.dropout)
    with torch.no_grad():
        network.head.weight.copy_(torch.tensor(np.asarray(head["kernel"]).T))
        network.head.bias.copy_(torch.tensor(np.asarray(head["bias"])))
    return network


def main(options: Options) -> bool:
    """Run the comparison; False where it fails."""
    if options.dropout and options.what == "stsb":
        sys.exit("--dropout is for texts: take sst2 or cola")
    if 0 < options.steps < INTERVAL:
        sys.exit(f"--steps must be 0 or at least {INTERVAL}, got {options.steps}")
    with TemporaryDirectory() as folder:
        return compare(options, Path(folder))


if __name__ == "__main__":
    sys.exit(0 if main(tyro.cli(Options, description=__doc__)) else 1)
