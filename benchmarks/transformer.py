"""Speed of our masked-LM Transformer against transformers on torch, in turns in one process.

    python benchmarks/transformer.py --size base --task training
    python benchmarks/transformer.py --size base --task packing
    python benchmarks/transformer.py --device gpu --size base --task training --batch-size 256 --dropout 0.1

Needs the `[parity]` extra. What is compared:

inference   every layer of B rows x T tokens of full rows
training    a step of masked LM: AdamW, norm clipped to 1, the head on the predicted positions
packing     a step on rows of packed sentences against rows of one padded sentence, in real tokens
input       how fast text is cut, and rows are made, masked and put on the device, beside a step that only sleeps

Both sides start from the same weights, through our export, and read the same batches of real text. "bf16" is
`compute="bfloat16"` for ours; for torch autocast over float32 weights in training, and bf16 weights in inference.
`--sides "torch bf16" ours` leaves out what is compiled, which can take minutes before the first number.
"""

import gc
import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leave room on a GPU for the other side

import jax
import numpy as np
import torch
import transformers
import tyro
from timing import Side, alternate, machine, peaks, table
from transformer_sides import (
    Attention,
    Call,
    Exported,
    Ours,
    Positions,
    Torch,
    batches,
    first_call,
    flops_per_token,
    masked_lm,
    read_text,
    shape,
    unavailable,
)

from ctx_jax.data.batch import MaskedBatch
from ctx_jax.data.prefetch import prefetch
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.data.sequences import Sequences
from ctx_jax.data.tokens import Tokens
from ctx_jax.tasks.masked_lm import MaskedLMTask

PRECISIONS = (("fp32", "float32"), ("bf16", "bfloat16"))
AGAINST = ("torch fp32", "torch bf16", "torch compiled fp32", "torch compiled bf16")


@dataclass(frozen=True)
class Options:
    """One run of the benchmark."""

    size: Literal["tiny", "384", "base", "large"] = "base"
    """BERT's, MiniLM's 384-wide six layers, or `tiny`, which only shows that the script runs."""

    task: Literal["inference", "training", "packing", "input", "all"] = "all"
    """What is compared."""

    sides: tuple[str, ...] = ()
    """Only the sides whose name holds one of these, such as `ours` or `bf16`; empty: all."""

    rounds: int = 5
    """Rounds of measurements; medians over them are reported."""

    seconds: float = 1.0
    """Minimum time of a side in a round."""

    batch_size: int = 8
    """Rows of a batch."""

    length: int = 128
    """Tokens of a row, special ones included."""

    dropout: float = 0.0
    """Of both sides, in the embeddings and after each part of a layer."""

    attention_dropout: float | None = None
    """On the attention's probabilities; None: as `dropout`. Ours takes its fused attention only without it."""

    device: Literal["cpu", "gpu"] = "cpu"
    """Where both sides run."""

    attention: Attention = "sdpa"
    """transformers' attention: `flash_attention_2` needs the package flash-attn and a GPU, `flex_attention` has no
    dropout."""

    head: Positions = "predicted"
    """Where torch computes the vocabulary: on the `predicted` positions, as ours does, or on `all`, as
    `BertForMaskedLM` does when it is given labels."""

    text: str = "python-docs"
    """The text, as the setting data.train has it."""

    vocabulary: int = 8_192
    """The most tokens of the tokenizer trained on it; the model's vocabulary is its own, BERT's 30,522."""

    step_rate: float = 800_000.0
    """`input`: real tokens per second of the step that a sleep stands for."""


class Bench:
    """The tasks of one set of options."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.gpu = options.device == "gpu"
        attention = options.dropout if options.attention_dropout is None else options.attention_dropout
        self.model = shape(options.size, options.length, options.dropout, attention)
        if why := unavailable(options.attention, self.gpu, attention):
            raise SystemExit(why)
        self.peaks = peaks(self.gpu)
        self.text = read_text(options.text, min(options.vocabulary, self.model.vocabulary))
        # Full rows: every token of a batch is a real one.
        self.full = SequenceConfig(batch_size=options.batch_size, length=options.length, whole_sentences=False)

    def wants(self, name: str) -> bool:
        """Whether the options ask for a side of this name."""
        return not self.options.sides or any(part in name for part in self.options.sides)

    def show(self, title: str, sides: dict[str, Side], against: tuple[str, ...] = AGAINST) -> None:
        """Run the sides and print their table."""
        options = self.options
        alternate(sides, options.rounds, options.seconds)
        heading = f"{title}, {options.size}, {options.batch_size} x {options.length}, {options.rounds} rounds"
        print("\n".join(table(heading, sides, against, self.peaks)), flush=True)
        gc.collect()

    def trainer(self, config: SequenceConfig, tokens: Tokens) -> MaskedLMTask:
        """The task of `train.py` on this text."""
        return masked_lm(self.model, config, self.text, tokens)

    def theirs(self, data: list[MaskedBatch], params: Any, training: bool, prefix: str = "torch") -> dict[str, Call]:
        """torch's calls in both precisions, eager and compiled; without those that do not run here."""
        exported, options, found = (
            Exported(self.trainer(self.full, self.text.tokens), params),
            self.options,
            dict[str, Call](),
        )
        for compiled, (name, _) in itertools.product((False, True), PRECISIONS):
            title = f"{prefix} {'compiled ' * compiled}{name}"
            if self.wants(title):
                side = Torch(exported, data, name == "bf16", compiled, self.gpu, options.attention, options.head)
                make = side.training if training else side.inference
                optional = compiled or options.attention.startswith("fl")
                if (call := first_call(title, make, optional)) is not None:
                    found[title] = call
        return found

    def params(self) -> Any:
        """Those both sides start from."""
        return jax.jit(self.trainer(self.full, self.text.tokens).init)(jax.random.key(0))

    def compare(self, title: str, training: bool) -> None:
        data, real = batches(self.text.tokens, self.text, self.full, 8)
        task = self.trainer(self.full, self.text.tokens)
        flops = real * flops_per_token(task, training)
        print(f"{title}: {flops / real / 1e6:,.1f} MFLOP a token", flush=True)
        params, calls = self.params(), dict[str, Call]()
        for name, compute in PRECISIONS:
            if self.wants(f"ours {name}"):
                ours = Ours(task, compute, data)
                calls[f"ours {name}"] = ours.training() if training else ours.inference(params)
        calls |= self.theirs(data, params, training)
        self.show(title, {name: Side(call, real, flops) for name, call in calls.items()})

    def inference(self) -> None:
        self.compare("Inference, every layer", training=False)

    def training(self) -> None:
        rates = f"{self.options.dropout:g} and {self.model.attention_dropout:g} in attention"
        self.compare(f"Training, dropout {rates}, torch's head on {self.options.head}", training=True)

    def packing(self) -> None:
        """Steps on the same text, a row a sentence or as many sentences as fit; torch on the padded rows."""
        packed = replace(self.full, packing="packed")
        padded = replace(self.full, cross_documents=False, whole_sentences=True)
        apart, sides = self.text.sentences_apart(), dict[str, Side]()
        for name, config, tokens in (("packed", packed, self.text.tokens), ("padded", padded, apart)):
            data, real = batches(tokens, self.text, config, 32)
            print(
                f"{name}: {real:,} real tokens a batch of {self.options.batch_size * self.options.length:,}", flush=True
            )
            for precision, compute in PRECISIONS:
                if self.wants(title := f"ours {name} {precision}"):
                    sides[title] = Side(Ours(self.trainer(config, tokens), compute, data).training(), real)
            if name == "padded":
                calls = self.theirs(data, self.params(), training=True, prefix="torch padded")
                sides |= {title: Side(call, real) for title, call in calls.items()}
        self.show("Packing, training", sides, ("ours padded fp32", "ours padded bf16"))

    def input(self) -> None:
        """Text to tokens; then rows, by themselves and beside a step of the asked-for rate that sleeps."""
        options = self.options
        start, count, words = time.perf_counter(), 0, 0
        for block in range(0, len(self.text.words), 4_096):
            sentences = self.text.words[block : block + 4_096]
            count += sum(len(pieces.ids) for pieces in self.text.subwords.tokenize_words(sentences))
            words += sum(map(len, sentences))
            if time.perf_counter() - start > options.rounds * options.seconds:
                break
        seconds = time.perf_counter() - start
        print(f"\n### Input, {options.batch_size} x {options.length}, a step of {options.step_rate:,.0f} tokens/s\n")
        print(f"Cutting text: {count / seconds:,.0f} tokens/s ({words / seconds:,.0f} words/s)\n")
        print("| sequences | made, tokens/s | beside the step | of the step's rate | waited, ms a step |")
        print("|---|---|---|---|---|", flush=True)
        kinds: dict[str, SequenceConfig] = {
            "full, tokens masked": self.full,
            "full, words masked": replace(self.full, masking="words"),
            "full, spans masked": replace(self.full, masking="spans"),
            "pairs": replace(self.full, packing="pairs"),
            "packed": replace(self.full, packing="packed"),
        }
        for name, config in kinds.items():
            self.feed(name, config)

    def feed(self, name: str, config: SequenceConfig) -> None:
        """A line of the table: medians over the rounds."""
        make = partial(Sequences, self.text.tokens, self.text.subwords, config)
        _, real = batches(self.text.tokens, self.text, config, 8)
        step = real / self.options.step_rate
        alone, beside, waited = list[float](), list[float](), list[float]()
        for _ in range(self.options.rounds):
            source = make()
            calls, seconds, _ = self.timed(lambda source=source: next(source).arrays, 0.0)  # type: ignore[misc]
            alone.append(calls * real / seconds)
            with prefetch(make(), 2) as ready:
                calls, seconds, waiting = self.timed(lambda ready=ready: jax.device_put(next(ready).arrays), step)  # type: ignore[misc]
            beside.append(calls * real / seconds)
            waited.append(1e3 * waiting / calls)
        made, fed, idle = (float(np.median(values)) for values in (alone, beside, waited))
        share = fed / self.options.step_rate
        print(f"| {name} | {made:,.0f} | {fed:,.0f} | {share:.1%} | {idle:.2f} |", flush=True)

    def timed(self, get: Callable[[], object], step: float) -> tuple[int, float, float]:
        """(calls, seconds in all, seconds in `get`), each call followed by a sleep that ends a step later."""
        get()
        start, calls, waiting = time.perf_counter(), 0, 0.0
        while calls < 3 or time.perf_counter() - start < self.options.seconds:
            asked = time.perf_counter()
            jax.block_until_ready(get())
            given = time.perf_counter()
            waiting += given - asked
            time.sleep(step)
            calls += 1
        return calls, time.perf_counter() - start, waiting


def main(options: Options) -> None:
    """Print the machine, then one table a task."""
    jax.config.update("jax_platforms", "cuda,cpu" if options.device == "gpu" else "cpu")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(cores)
    # "fp32" means full float32 products on both sides; ours asks for them by Precision.HIGHEST.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    transformers.logging.disable_progress_bar()
    bench = Bench(options)
    versions = f"jax {jax.__version__}, torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{machine(bench.gpu)}; {cores} cores; {versions}")
    source = "data sheet" if bench.gpu else "a product of 2,048 x 2,048, measured now"
    print(f"peak ({source}): " + ", ".join(f"{name} {peak / 1e9:,.0f} GFLOP/s" for name, peak in bench.peaks.items()))
    tasks = {"inference": bench.inference, "training": bench.training, "packing": bench.packing, "input": bench.input}
    for name, run in tasks.items():
        if options.task in (name, "all"):
            run()


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
