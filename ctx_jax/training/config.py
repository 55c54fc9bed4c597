"""The settings of a training run: frozen dataclasses, whose field names are the command line's flags."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from tyro.conf import AvoidSubcommands, arg

from ctx_jax.checkpoints.run_files import FREE
from ctx_jax.data.config import DataConfig
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.encoders.elmo.model import BiLM
from ctx_jax.encoders.transformer.config import Transformer
from ctx_jax.io.errors import InputError
from ctx_jax.tokenizers.subword_training import TokenizerConfig
from ctx_jax.training.optimizer import Adagrad, AdamW, Lamb, Muon, check_recipe


@dataclass(frozen=True)
class DevicesConfig:
    """Where the step runs. None of these changes what is computed, beyond rounding."""

    mode: Literal["shard", "pmap", "fsdp"] = "shard"
    """`shard`: `jit(shard_map)` over all devices, parameters and optimizer whole on each of them. `pmap`: the same step
    under `jax.pmap`. `fsdp`: parameters, their average and the optimizer's state lie divided over the devices, for a
    Transformer for which they leave too little memory on one. It costs traffic: in every pass, of every micro-batch, a
    device gathers each layer's parameters where it uses them, and each layer's gradient is added up on its own. With
    `--model.remat` it holds one layer's at a time, without it all that the forward pass has gathered, until the
    backward pass has used them. An evaluation gathers the parameters whole."""

    count: int = 0
    """How many of this machine's devices to use; 0: all of them."""

    micro_batches: int = 1
    """Parts in which each device takes its lanes, one after the other, to save memory."""

    deterministic: Annotated[bool, arg(aliases=["--deterministic"])] = False
    """On GPUs: only operations that give the same bits every time, and the same choice of kernels when the run goes on
    (kept in `autotune/` of the run directory). Slower. On CPUs it is so anyway. A program that has used jax before it
    calls `run` is too late for this: it sets XLA_FLAGS itself, as `devices.fix_kernels` does."""

    distributed: bool = False
    """Join the other processes of a job over many hosts (`jax.distributed`): coordinator, process count and number
    come from Slurm, Kubernetes or the TPU's environment, or from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID."""


@dataclass(frozen=True)
class CheckpointConfig:
    """When the run is saved, and how much of it is kept."""

    every: int = 1000
    """Steps from one checkpoint to the next; one more at the end, where the run is told to stop, and wherever the
    validation loss is the lowest so far."""

    keep: int = 3
    """The latest checkpoints kept; the one with the lowest validation loss is kept besides."""


@dataclass(frozen=True)
class EvaluateConfig:
    """When the validation text is measured."""

    every: int = 1000
    """Steps from one evaluation to the next; one more at the end. 0: none. A run told to stop at such a step is
    evaluated before it is saved."""

    sentences: int = 0
    """The most sentences of the validation text that are read each time; 0: all of them. Losses of other sentences do
    not compare, and the best checkpoint is chosen by them: leave it as it is when a run goes on."""


@dataclass(frozen=True)
class LogConfig:
    """What is written while the run goes on."""

    every: int = 50
    """Steps from one line of metrics.jsonl to the next; a line holds the means over their targets."""

    tensorboard: bool = False
    """The same numbers for TensorBoard, in `tensorboard/` of the run directory (needs the `[tensorboard]` extra)."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run. What differs from these defaults is what a file of `configs/` states."""

    model: AvoidSubcommands[BiLM | Transformer] = field(default_factory=BiLM)
    data: AvoidSubcommands[DataConfig] = field(default_factory=DataConfig)

    sequences: AvoidSubcommands[SequenceConfig | None] = None
    """Of a Transformer's run, which has it; a biLM's batches are `data.lanes` and `data.window`."""

    tokenizer: AvoidSubcommands[TokenizerConfig | None] = None
    """Of a Transformer's run, which has it; a biLM's words are `data.vocabulary` and what follows it."""

    optimizer: AvoidSubcommands[AdamW | Lamb | Muon | Adagrad] = field(default_factory=AdamW)
    devices: DevicesConfig = field(default_factory=DevicesConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    log: LogConfig = field(default_factory=LogConfig)

    init: str = ""
    """A Hugging Face folder or a run of a Transformer to start from: its parameters, tokenizer and shape take the
    place of those of `model` and `tokenizer`; of `model` only `compute`, `attention`, `scan`, `remat` and what is said
    of dropout stay. A head that it lacks is new."""

    run_dir: str = ""
    """Where the run lives; the same command with the same directory goes on. Empty: runs/<name of the config>."""

    steps: int = 1000
    """Batches to train on, from the first one; a run that is done trains nothing."""

    seed: int = 0
    """Decides initial parameters, order of the text, dropout and sampling."""


_BILM_DATA = ("vocabulary", "vocabulary_size", "minimum_count", "lanes", "window", "directions", "assignment")
"""Of the data settings those that a Transformer, which has sequences and a tokenizer instead, does not read."""


def check_config(config: TrainConfig) -> None:
    """Refuse settings that no run can follow: ValueError, naming the flag."""
    for flag, value, least in (
        ("steps", config.steps, 1),
        ("devices.count", config.devices.count, 0),
        ("devices.micro-batches", config.devices.micro_batches, 1),
        ("checkpoint.every", config.checkpoint.every, 1),
        ("checkpoint.keep", config.checkpoint.keep, 1),
        ("evaluate.every", config.evaluate.every, 0),
        ("evaluate.sentences", config.evaluate.sentences, 0),
        ("log.every", config.log.every, 1),
        ("data.lanes", config.data.lanes, 1),
        ("data.window", config.data.window, 1),
        ("data.prefetch", config.data.prefetch, 1),
        ("data.vocabulary-size", config.data.vocabulary_size, 0),
        ("data.minimum-count", config.data.minimum_count, 1),
    ):
        if value < least:
            raise InputError(f"--{flag} must be at least {least}, not {value}")
    if not 0 <= config.seed < 2**32:
        raise InputError(f"--seed must be between 0 and 2**32 - 1, not {config.seed}")
    check_recipe(config.optimizer)
    match config.model:
        case BiLM():
            if config.devices.mode == "fsdp":
                raise InputError(
                    "--devices.mode fsdp gathers a Transformer's parameters layer by layer, and a biLM uses all of its "
                    "own at once, so that dividing them would save little: set --devices.mode shard"
                )
            if config.sequences or config.tokenizer or config.init:
                raise InputError(
                    "--sequences, --tokenizer and --init are for a Transformer, and this run's model is a BiLM: leave "
                    "them out, or set model=Transformer() in the config"
                )
        case Transformer():
            unread = [name for name in _BILM_DATA if getattr(config.data, name) != getattr(DataConfig, name)]
            if unread:
                raise InputError(
                    f"--data.{unread[0].replace('_', '-')} is for a BiLM, and this run's model is a Transformer, whose "
                    "--sequences and --tokenizer say how it reads text: leave it out"
                )
            if config.sequences is None or config.tokenizer is None:
                raise InputError(
                    "a Transformer's run needs sequences=SequenceConfig() and tokenizer=TokenizerConfig(): set them in "
                    "the config"
                )
            if config.init == "":  # else its shape is that of the import
                check_sequences(config.model, config.sequences)
            if config.sequences.first_steps >= config.steps:
                raise InputError(
                    f"--sequences.first-steps {config.sequences.first_steps} leaves nothing of {config.steps} steps "
                    "for the full length: set fewer"
                )


def has_label(sequences: SequenceConfig) -> bool:
    """Whether batches have a label for the second text of their pairs."""
    return sequences.form == "pairs" and sequences.pairs != "none"


def check_sequences(model: Transformer, sequences: SequenceConfig, *, imported: bool = False) -> None:
    """ValueError, naming the flags, where a model cannot be trained on such sequences; of an import, whose shape no
    flag changes, those of the sequences."""

    def either(flag: str) -> str:
        return "" if imported else f"--model.{flag}, or "

    if model.head == "none":
        raise InputError("a Transformer is trained through its vocabulary head: set --model.head transform or direct")
    if model.causal != (sequences.form == "causal"):
        raise InputError(
            f"--sequences.form {sequences.form} does not go with a model of causal={model.causal}, next-token targets "
            f"need a causal model, masked ones another: set {either('no-causal' if model.causal else 'causal')}"
            f"--sequences.form {'causal' if model.causal else 'full'}"
        )
    if sequences.form == "pairs" and model.token_types < 2:
        raise InputError(
            f"pairs need two token types, the model has {model.token_types}: set "
            f"{either('token-types 2')}--sequences.form full"
        )
    wanted = has_label(sequences)
    if (model.pooler, model.next_sentence) != (wanted, wanted):
        no = "" if wanted else "no-"
        raise InputError(
            f"these sequences {'have labels' if wanted else 'have no label'} for a next-sentence head: set "
            f"--model.{no}pooler --model.{no}next-sentence, or other --sequences.form and --sequences.pairs"
        )
    if wanted and model.positions_after_padding:
        raise InputError(
            "labelled pairs need a next-sentence head, for which roberta's files have no place: set "
            f"{either('no-positions-after-padding')}--sequences.pairs none"
        )


def check_resume(old: TrainConfig, new: TrainConfig, differences: list[tuple[str, object, object]]) -> None:
    """Refuse to go on with other settings than the run began with: ValueError, naming field, old and new value.

    `differences` are (dotted field, old value, new value), as `checkpoints.configs.differences` gives them. `steps`
    may grow where the learning rate does not depend on it.
    """
    refused = []
    for name, before, after in differences:
        if name.split(".")[0] in FREE:
            continue
        if name == "steps" and new.optimizer.schedule == "constant" and new.steps > old.steps:
            continue
        refused.append(f"  {name}: the run has {before!r}, this command {after!r}")
    if refused:
        raise InputError(
            "this run directory was begun with other settings:\n"
            + "\n".join(refused)
            + "\nRepeat the command it was begun with, or choose another --run-dir. Only devices, log, checkpoint and "
            "evaluate settings may change, and steps may grow where the schedule is constant."
        )
