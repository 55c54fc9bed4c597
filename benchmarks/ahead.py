"""Compiles a training step for TPUs that are not at hand, and prints the memory it needs and its communication.

    pip install 'jax[tpu]'                                     # its compiler runs on any x86 Linux machine
    python benchmarks/ahead.py --topology v5e:4x4 --model bert-base --rows 64 --length 128
    python benchmarks/ahead.py --topology v5e:4x4 --model elmo-original --rows 32 --length 20
    python benchmarks/ahead.py --topology v5e:2x2 --model bert-large --rows 8 --length 512 --remat --mode fsdp

Says whether the step compiles, how long that takes, how much memory a device needs, and how often devices exchange
arrays: no reduction should stand within a loop over layers or steps, but under fsdp a layer's parameters are gathered
and their gradient scattered there. No time of a step: nothing runs.

Topologies are named as Cloud TPU names them: v5e:2x2 (4 chips), v5e:16x16 (256), v5p:2x2x1, v6e:2x4 and so on.
"""

import os
import re
import time
from dataclasses import dataclass, replace
from typing import Any, Literal

# The compiler asks the machine it runs on what it is, unless it is told.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("TPU_WORKER_ID", "0")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import tyro
from jax.experimental import topologies
from jax.sharding import NamedSharding

from ctx_jax.distributed.sharding import SHARDED_ROWS
from ctx_jax.ops.linear import Compute
from ctx_jax.training.config import DevicesConfig
from ctx_jax.training.devices import Devices
from ctx_jax.training.optimizer import OptimizerConfig
from ctx_jax.training.step import TrainingStep
from ctx_jax.training.task import Task

GIB = 2**30


@dataclass(frozen=True)
class Options:
    """What is compiled, and for what."""

    topology: str = "v5e:2x2"
    """The TPU: generation and how its chips stand."""

    model: Literal["elmo-small", "elmo-original", "bert-base", "bert-large"] = "bert-base"
    """A published size."""

    rows: int = 32
    """Rows of each device; of all of them, the batch size."""

    length: int = 128
    """Tokens of a row; of an ELMo, the unrolled steps."""

    vocabulary: int = 100_000
    """Words of an ELMo's softmax."""

    negatives: int = 8_192
    """Words an ELMo's softmax samples in a step; 0: the exact softmax."""

    dropout: float = 0.1
    """Of a BERT, but for attention's probabilities."""

    mode: Literal["shard", "fsdp"] = "shard"
    """`--devices.mode` of the run."""

    remat: bool = False
    """A BERT's layers are computed again in the backward pass, to save memory."""

    compute: Compute = "bfloat16"
    """The precision of products."""


def elmo(options: Options, rows: int) -> tuple[Task, OptimizerConfig, Any]:
    """A task, its optimizer and a batch."""
    from elmo_sides import OPTIMIZER, SIZES, batches, bilm_task

    model = replace(SIZES[options.model.removeprefix("elmo-")], compute=options.compute)
    data, _ = batches(rows, options.length - 1, 1, model.max_characters)
    task = bilm_task(model, rows, options.vocabulary, options.negatives)
    return task, OPTIMIZER, data[0].training(options.vocabulary)


def bert(options: Options, rows: int) -> tuple[Task, OptimizerConfig, Any]:
    """A task, its optimizer and a batch of full rows."""
    from transformer_sides import OPTIMIZER, batches, masked_lm, read_text, shape

    from ctx_jax.data.sequence_config import SequenceConfig

    model = shape(options.model.removeprefix("bert-"), options.length, options.dropout, attention_dropout=0.0)
    model = replace(model, compute=options.compute, scan=True, remat=options.remat)
    text = read_text("python-docs", 8_192)
    config = SequenceConfig(batch_size=rows, length=options.length, whole_sentences=False)
    data, _ = batches(text.tokens, text, config, 1)
    return masked_lm(model, config, text, text.tokens), OPTIMIZER, data[0]


def count_collectives(program: str, kind: str) -> tuple[int, int]:
    """(collectives of a kind such as "all-reduce", those of them within a loop) in a compiled program's text.

    A collective is within a loop if the loop's body holds it, or a computation that the body calls, directly or not.
    """
    counts: dict[str, int] = {}
    called: dict[str, set[str]] = {}
    name = ""
    for line in program.splitlines():
        if head := re.match(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$", line):
            name = head[1]
        counts[name] = counts.get(name, 0) + len(re.findall(rf" {kind}(?:-start)?\(", line))
        called.setdefault(name, set()).update(re.findall(r"%([\w.-]+)", line))
    waiting, inside = re.findall(r"\bbody=%?([\w.-]+)", program), set[str]()
    while waiting:
        if (computation := waiting.pop()) not in inside:
            inside.add(computation)
            waiting += called.get(computation, set()) & counts.keys()
    return sum(counts.values()), sum(counts[computation] for computation in inside)


def main(options: Options) -> None:
    """Compile one step and print a line a finding."""
    chips = topologies.get_topology_desc(options.topology, "tpu").devices
    jax.config.update("jax_default_device", chips[0])  # what the model chooses by
    batch_size = options.rows * len(chips)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        task, optimizer, batch = (elmo if options.model.startswith("elmo") else bert)(options, batch_size)
    devices = Devices(DevicesConfig(options.mode), batch_size, chips)
    step = TrainingStep(task, optimizer, 1_000_000, 0)
    state, frozen = devices.abstract(step.initial)
    by_rows = NamedSharding(devices.mesh, SHARDED_ROWS)
    shapes = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=by_rows), batch)
    start = time.perf_counter()
    lowered = devices.compile(step).lower(state, frozen, shapes)  # type: ignore[attr-defined]
    traced = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise SystemExit(f"does not fit, fewer --rows or --remat may: {error}") from error
    memory, program = compiled.memory_analysis(), compiled.as_text()
    print(
        f"{options.model}, {options.mode}, on {len(chips)} x {chips[0].device_kind}, "
        f"{options.rows} x {options.length} a device"
    )
    print(f"traced in {traced - start:.1f} s, compiled in {time.perf_counter() - traced:.1f} s")
    print(
        f"memory of a device: {memory.argument_size_in_bytes / GIB:.2f} GiB of state and batch, "
        f"{memory.temp_size_in_bytes / GIB:.2f} GiB in the step"
    )
    for kind in ("all-reduce", "all-gather", "reduce-scatter"):
        total, inside = count_collectives(program, kind)
        print(f"{kind} over devices: {total}, of which {inside} within a loop")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
