"""Speed of our biLM against the same network in standard torch modules, in turns in one process.

    python benchmarks/elmo.py --size small --task inference
    python benchmarks/elmo.py --size original --task training --rounds 5
    python benchmarks/elmo.py --device gpu --size original --task training --batch-size 512 --length 20

Needs the `[parity]` extra. Tasks:

inference   every layer of B rows x T words, with initial parameters
cached      the same with token vectors looked up: the LSTMs alone
training    a step with the original's optimizer, exact softmax
sampled     the same with 8,192 sampled words of 100,000; ours alone
softmax     the chunked softmax against the naive one, time and memory
phases      time of the parts of an inference and of a step

Both sides run without clips (`nn.LSTM` has none) and without dropout. "dedup" encodes each distinct word of the batch
once on torch's side too; ours always does. Tokens are real ones, each counted once for both directions.
"""

import os
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leave room on a GPU for the other side

import jax
import jax.numpy as jnp
import torch
import tyro
from elmo_sides import SIZES, Ours, TextBatch, Torch, batches, flops_per_token, naive_softmax
from timing import Side, alternate, machine, peaks, table

from ctx_jax.encoders.elmo import BiLM
from ctx_jax.losses.softmax import exact_softmax
from ctx_jax.typing import Params

PRECISIONS = (("fp32", "float32"), ("bf16", "bfloat16"))
AGAINST = ("torch fp32", "torch bf16", "torch dedup fp32", "torch dedup bf16")


@dataclass(frozen=True)
class Options:
    """One run of the benchmark."""

    size: Literal["tiny", "small", "medium", "original"] = "small"
    """Published size; `tiny` only shows that the script runs."""

    task: Literal["inference", "cached", "training", "sampled", "softmax", "phases", "all"] = "all"
    """What is compared."""

    sides: tuple[str, ...] = ()
    """Only the sides whose name holds one of these, such as `ours` or `bf16`; empty: all."""

    rounds: int = 5
    """Rounds of measurements; medians over them are reported."""

    seconds: float = 1.0
    """Minimum time of a side in a round."""

    batch_size: int = 8
    """Sentences of a batch."""

    length: int = 32
    """Words of each; in training, targets."""

    vocabulary: int = 10_000
    """Words of the exact softmax in training."""

    device: Literal["cpu", "gpu"] = "cpu"
    """Where both sides run."""

    naive: bool = True
    """In the softmax task, also run the naive softmax, which needs about 10 GB; False: report only its memory."""


class Bench:
    """The tasks of one set of options."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.gpu = options.device == "gpu"
        # Without what `nn.LSTM` lacks (clips) and without dropout.
        self.model = replace(SIZES[options.size], cell_clip=None, projection_clip=None, dropout=0.0)
        self.peaks = peaks(self.gpu)

    def data(self, words: int) -> tuple[list[TextBatch], int]:
        return batches(self.options.batch_size, words, 8, self.model.max_characters)

    def wants(self, name: str) -> bool:
        """Whether the options ask for a side of this name."""
        return not self.options.sides or any(part in name for part in self.options.sides)

    def show(self, title: str, sides: dict[str, Side], against: tuple[str, ...] = AGAINST) -> None:
        """Run the selected sides and print their table."""
        options, wanted = self.options, {name: side for name, side in sides.items() if self.wants(name)}
        alternate(wanted, options.rounds, options.seconds)
        heading = f"{title}, {options.size}, {options.batch_size} x {options.length}, {options.rounds} rounds"
        print("\n".join(table(heading, wanted, against, self.peaks)), flush=True)

    def sides(
        self, model: BiLM, data: list[TextBatch], task: str, params: Params, vocabulary: int = 0
    ) -> dict[str, Side]:
        """Ours and torch's, in both precisions, torch's also with deduplicated words."""
        tokens = self.options.batch_size * self.options.length
        flops = tokens * flops_per_token(model, vocabulary)
        found: dict[str, Side] = {}
        for name, compute in PRECISIONS:
            if self.wants(f"ours {name}"):
                ours = Ours(model, compute, data, vocabulary)
                call = ours.training() if task == "training" else ours.inference(params)
                found[f"ours {name}"] = Side(call, tokens, flops)
        for dedup in (False, True) if model.token_input == "characters" else (False,):
            for name, _ in PRECISIONS:
                title = f"torch {'dedup ' * dedup}{name}"
                if self.wants(title):
                    theirs = Torch(model, name == "bf16", dedup, data, self.gpu, vocabulary)
                    call = theirs.training(params) if task == "training" else theirs.inference(params)
                    found[title] = Side(call, tokens, flops)
        return found

    def inference(self) -> None:
        data, _ = self.data(self.options.length)
        params = Ours(self.model, "float32", data).init(jax.random.key(0))
        self.show("Inference", self.sides(self.model, data, "inference", params))

    def cached(self) -> None:
        data, known = self.data(self.options.length)
        model = replace(self.model, token_input="words", vocabulary=known)
        params = Ours(model, "float32", data).init(jax.random.key(0))
        self.show("Inference, token vectors cached", self.sides(model, data, "cached", params))

    def training(self) -> None:
        data, _ = self.data(self.options.length - 1)
        words = self.options.vocabulary
        params = Ours(self.model, "float32", data, words).init(jax.random.key(0))
        self.show(f"Training, softmax of {words:,}", self.sides(self.model, data, "training", params, words))

    def sampled(self) -> None:
        data, _ = self.data(self.options.length - 1)
        tokens, negatives = self.options.batch_size * self.options.length, 8_192
        flops = tokens * flops_per_token(self.model, negatives + 1)
        sides = {
            f"ours {name}": Side(Ours(self.model, compute, data, 100_000, negatives).training(), tokens, flops)
            for name, compute in PRECISIONS
        }
        self.show("Training, 8,192 sampled of 100,000", sides, ())

    def phases(self) -> None:
        """Times up to the end of each part; a part's own time is the difference to the line above it."""
        data, _ = self.data(self.options.length - 1)
        model, words = self.model, self.options.vocabulary
        params = Ours(model, "float32", data, words).init(jax.random.key(0))
        tokens, sides = self.options.batch_size * self.options.length, {}
        for name, compute in PRECISIONS:
            ours = Ours(model, compute, data, words)
            theirs = Torch(model, name == "bf16", False, data, self.gpu, words)
            makers = {
                f"ours {name}: token encoder": partial(ours.token_encoder, params),
                f"ours {name}: every layer": partial(ours.inference, params),
                f"ours {name}: loss": partial(ours.forward, params, gradients=False),
                f"ours {name}: loss and gradients": partial(ours.forward, params, gradients=True),
                f"ours {name}: step": ours.training,
                f"torch {name}: token encoder": partial(theirs.token_encoder, params),
                f"torch {name}: every layer": partial(theirs.inference, params),
                f"torch {name}: loss": partial(theirs.training, params, "loss"),
                f"torch {name}: loss and gradients": partial(theirs.training, params, "gradients"),
                f"torch {name}: step": partial(theirs.training, params),
            }
            sides |= {phase: Side(make(), tokens) for phase, make in makers.items() if self.wants(phase)}
        self.show("Phases", sides, ())

    def softmax(self) -> None:
        """Loss and gradients of 8,192 tokens over 100,000 words: the compiler's temporary memory, and time."""
        tokens, words, width = 8_192, 100_000, self.model.projection
        if self.options.size == "tiny":
            tokens, words = 512, 5_000
        keys = jax.random.split(jax.random.key(0), 3)
        hidden, weights = jax.random.normal(keys[0], (tokens, width)), jax.random.normal(keys[1], (words, width)) * 0.1
        inputs = (hidden, jax.random.randint(keys[2], (tokens,), 0, words), weights, jnp.zeros(words))
        flops = 3.0 * 2 * tokens * words * width
        functions = {
            "naive fp32": naive_softmax,
            "ours fp32": lambda *given: exact_softmax(*given)[0],
            "ours bf16": lambda *given: exact_softmax(*given, compute="bfloat16")[0],
        }
        sides = {}
        for name, function in functions.items():
            run = jax.jit(jax.value_and_grad(function, argnums=(0, 2, 3))).lower(*inputs).compile()
            print(
                f"{name}: {run.memory_analysis().temp_size_in_bytes / 2**20:,.0f} MiB of temporary memory", flush=True
            )
            if name != "naive fp32" or self.options.naive:
                sides[name] = Side(lambda run=run: jax.block_until_ready(run(*inputs)), tokens, flops)  # type: ignore[misc]
        self.show(f"Softmax over {words:,}, {tokens:,} tokens, loss and gradients", sides, ("naive fp32",))


def main(options: Options) -> None:
    """Print the machine, then one table a task."""
    jax.config.update("jax_platforms", "cuda,cpu" if options.device == "gpu" else "cpu")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(cores)
    # "fp32" means full float32 products on both sides; ours asks for them by Precision.HIGHEST.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    bench = Bench(options)
    print(f"{machine(bench.gpu)}; {cores} cores; jax {jax.__version__}, torch {torch.__version__}")
    source = "data sheet" if bench.gpu else "a product of 2,048 x 2,048, measured now"
    print(
        "peak (" + source + "): " + ", ".join(f"{name} {peak / 1e9:,.0f} GFLOP/s" for name, peak in bench.peaks.items())
    )
    print(f"forward pass: {flops_per_token(bench.model) / 1e6:,.1f} MFLOP a token")
    tasks = {
        "inference": bench.inference,
        "cached": bench.cached,
        "training": bench.training,
        "sampled": bench.sampled,
        "softmax": bench.softmax,
        "phases": bench.phases,
    }
    for name, run in tasks.items():
        if options.task in (name, "all"):
            run()


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
