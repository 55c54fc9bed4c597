"""The settings of tasks with labels, and how a run of them is opened.

Letters: B rows, K labels.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import jax
import numpy as np
from tyro.conf import arg

from ctx_jax.checkpoints.run_files import TEXTS, Origin
from ctx_jax.data.columns import Columns
from ctx_jax.data.labelled import Example, LabelledData, digest, nested_subset
from ctx_jax.distributed.processes import is_first_process
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.embedding.encoder_digest import encoder_digest
from ctx_jax.encoders.base import InputProcessor
from ctx_jax.evaluation.reports import Report
from ctx_jax.io.errors import ConfigError, InputError, SentenceError
from ctx_jax.losses.labels import balanced_weights
from ctx_jax.ops.linear import Compute
from ctx_jax.tasks.gpt import GPTNetwork, GPTTask, check_gpt
from ctx_jax.tasks.huggingface_head import exported, first_params
from ctx_jax.tasks.label_encoder import first_mix, open_encoder
from ctx_jax.tasks.label_names import label_names
from ctx_jax.tasks.label_network import LABELS, MIX, LabelNetwork, LayerChoice, TextPooling
from ctx_jax.tasks.label_options import LabelEvaluate, RepeatOptions, TableOptions
from ctx_jax.tasks.label_predictor import LabelPredictor
from ctx_jax.tasks.label_rows import Labelled, Rows
from ctx_jax.tasks.label_task import LabelTask
from ctx_jax.tasks.label_values import METRICS, Target
from ctx_jax.tasks.options import EvaluateOptions, refuse_options
from ctx_jax.tasks.setup import check_digests, naming_setting, origin_of
from ctx_jax.tasks.tuning import TuningOptions
from ctx_jax.training.optimizer import AdamW
from ctx_jax.training.task import TaskContext
from ctx_jax.typing import Log

Split = Literal["train", "valid"]
_LANGUAGE_MODELS_ONLY = ("protocol", "batch", "per_sentence", "pseudo_perplexity", "errors")


@dataclass(frozen=True)
class LabelConfig(ABC):
    """Settings of a task with labels; subclasses say what is labelled."""

    encoder: str = ""
    """What `ctx_jax.load` takes: a run, an AllenNLP or Hugging Face folder, a table of word vectors, a stack, or
    hf://organisation/name."""

    frozen: bool = False
    """The encoder stays as it is; only the mix and the head are trained."""

    data: LabelledData = field(default_factory=LabelledData)
    layers: LayerChoice = "mix"
    """`mix`: a learned mix of all layers; `last`, or the number of one, 0 first."""

    mix: str = ""
    """A mix that the learned one starts from: a file of `ctx_jax.save_mix` or a run that learned one."""

    dropout: float = 0.1
    """Dropout rate of the vectors that the head reads, and of BiLSTMs in it; a ranking and the cosine of `pairs` have
    no such head. The encoder's own rates are those of its files."""

    encoder_dropout: bool = True
    """An encoder that is trained drops out at its own rates."""

    batch_size: int = 32
    """Rows of a batch (B), over all devices."""

    epochs: int = 0
    """How often the training file is read if `steps` is 0. 0: 20 with a frozen encoder, else 3."""

    length: int = 0
    """The longest row, in tokens, special ones included; 0: what the encoder takes."""

    class_weights: Literal["none", "balanced"] = "none"
    """`balanced`: a label's loss is weighted by N / (K x its count), so that rare labels count as much as others."""

    encoder_rate: float = 0.05
    """The learning rate of the encoder's parameters, as a share of the head's, if it is not frozen: at least 0.001."""

    mix_rate: float = 10.0
    """With `layers` mix: the learning rate of the mix, as a multiple of the head's."""

    compute: Compute = "float32"
    """Precision of the encoder's matrix products."""

    tuning: Annotated[TuningOptions, arg(name="")] = field(default_factory=TuningOptions)
    repeats: Annotated[RepeatOptions, arg(name="")] = field(default_factory=RepeatOptions)
    table: TableOptions = field(default_factory=TableOptions)
    evaluate: LabelEvaluate = field(default_factory=LabelEvaluate)

    item: ClassVar[str]
    """The name of the column of what is labelled."""
    exportable: ClassVar[str] = "layers last, pooling first (of GPT last) and head huggingface"
    """The settings of a run that can be exported with its head."""

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ConfigError("dropout", f"must be in [0, 1), got {self.dropout}")
        for name, least in (("batch_size", 1), ("epochs", 0), ("length", 0), ("encoder_rate", 0), ("mix_rate", 0)):
            if not getattr(self, name) >= least:
                raise ConfigError(name, f"must be at least {least}, got {getattr(self, name)}")

    @staticmethod
    def run_defaults() -> dict[str, Any]:
        """The settings of a run that differ from `RunConfig`'s."""
        return {"optimizer": AdamW(schedule="linear", warmup=0.1, layer_decay=0.9), "steps": 0}

    @property
    def text_pooling(self) -> TextPooling | None:
        """How a text's vectors become one; None where words are labelled."""
        return None

    @property
    def predicted(self) -> Target:
        """What is predicted."""
        return "classes"

    @property
    def metric(self) -> str:
        """The metric that chooses the best step."""
        return self.evaluate.metric or self.metrics[0]

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that may choose the best step; Matthews correlation is none of words."""
        return tuple(name for name in METRICS[self.predicted] if name != "matthews" or self.text_pooling)

    @property
    def columns(self) -> Columns:
        """The columns of the files."""
        return Columns.parse(self.data.columns, self.item)

    @abstractmethod
    def read(self, path: str, known: Collection[str] | None = None) -> Iterator[Example]:
        """The examples of a file, their labels as they stand there. Where the labels of a trained run are `known`, the
        file's may be missing."""

    def converted(self, example: Example) -> Example:
        """An example with its label as the task takes it."""
        return example

    def prepared(self, examples: list[Example], path: str, log: Log) -> list[Example]:
        """The examples of the labelled file `path` as they are trained on and measured."""
        if none := self.data.no_label:
            count = len(examples)
            examples = [example for example in examples if example.label != none]
            log(f"{path}: {count - len(examples):,} of {count:,} have the label {none}: left out")
        return [self.converted(example) for example in examples]

    def completed(self, rows: Rows, items: Sequence[Any], counts: Sequence[Sequence[int]]) -> Rows:
        """The rows of texts or sentences with what the head reads besides vectors; `counts`: the labels of each one's
        rows."""
        return rows

    @abstractmethod
    def checked(self, items: Sequence[Any], processor: InputProcessor) -> list[Any]:
        """Texts or sentences as `split` takes them; InputTypeError for anything else."""

    @abstractmethod
    def split(self, processor: InputProcessor, items: Sequence[Any], log: Log) -> list[list[tuple[Any, int]]]:
        """The rows of each text or sentence: (split by the processor, number of labels)."""

    @abstractmethod
    def answer(self, item: Any, network: LabelNetwork, found: np.ndarray) -> dict[str, Any]:
        """A prediction as JSON, of `label_rows.answers_of_rows`: the network's outputs [1, K] of a text, the numbers of
        the labels [words] of a sentence."""

    def processed(self, processor: InputProcessor, model: Any) -> InputProcessor:
        """The encoder's processor as the task uses it."""
        return processor

    def rows(self, texts: Sequence[Any], make: Callable[[str, Sequence[Any]], Rows]) -> Rows:
        """The rows of split texts; `make` makes those of a part of them, which its first argument names."""
        return make("", texts)

    @property
    def task_type(self) -> type[LabelTask]:
        """The class that trains it."""
        return GPTTask if self.tuning.gpt else LabelTask

    def network(self, encoder: Encoder, labels: tuple[str, ...]) -> LabelNetwork:
        """The pure functions of the task. An encoder of a run has the run's heads."""
        drops = self.encoder_dropout and not self.frozen
        choices = (self.layers, self.text_pooling, self.dropout, drops, self.predicted)
        kind = GPTNetwork if self.tuning.gpt else LabelNetwork
        return kind(encoder.model, labels, *choices, mix_norm=self.tuning.mix_norm)

    def check(self, steps: int) -> None:
        """ConfigError for settings that are missing, that do not name columns, or that contradict each other."""
        for name, value, what in (
            ("encoder", self.encoder, "name a run, a folder or a table of word vectors"),
            ("data.train", self.data.train, "name the training file"),
        ):
            if not value:
                raise ConfigError(name, f"is needed: {what}")
        if self.repeats.asked:
            setting = "seeds" if self.repeats.seeds else "sizes"
            raise ConfigError(setting, "asks for several runs: give the settings to ctx_jax.tasks.repeats.run")
        if self.layers != "mix":
            refuse_options(self, ("mix", "mix_rate"), f"layers {self.layers}, which are not mixed")
        if self.metric not in self.metrics:
            raise ConfigError(
                "evaluate.metric", f"is {self.metric}; must be one of {', '.join(self.metrics)} for what is predicted"
            )
        self.evaluate.check(self.data.valid)
        if self.data.no_label and not self.text_pooling:
            raise ConfigError("data.no_label", "is for labels of texts and pairs, and these are of words: leave it out")
        if self.class_weights != "none" and self.predicted != "classes":
            raise ConfigError("class_weights", f"are for one label of several, not for the target {self.predicted}")
        if not self.frozen and self.encoder_rate < 1e-3:
            raise ConfigError(
                "encoder_rate",
                f"is a share of optimizer.learning_rate, not a rate, and with {self.encoder_rate:g} the encoder would "
                "hardly learn: set at least 0.001, or frozen",
            )
        if self.frozen:
            refuse_options(self, ("encoder_rate",), "a frozen encoder")
        self.tuning.check(frozen=self.frozen, mixes=self.layers == "mix", ranks=self.predicted == "ranking")
        if self.tuning.gpt:
            check_gpt(self)
        for path in (self.data.train, self.data.valid):
            self.columns.of_file(path)

    def merged(self, old: Self) -> Self:
        """With the patience that the original run inferred."""
        return self._with_patience(old.evaluate.patience or 0)

    def _with_patience(self, patience: int) -> Self:
        """With this patience where the settings have none."""
        if self.evaluate.patience is not None:
            return self
        return replace(self, evaluate=replace(self.evaluate, patience=patience))

    def open(self, context: TaskContext) -> LabelTask:
        """Load the encoder (a resumed run's from its own directory), read the files, and collect the labels."""
        encoder, given_key = open_encoder(self, context)
        splits: tuple[Split, ...] = ("train", "valid") if self.data.valid else ("train",)
        files: dict[str, list[Example]] = {split: self._examples(split, context.log) for split in splits}
        if (wanted := self.data.examples) > (count := len(files["train"])):
            raise ConfigError("data.examples", f"is {wanted}, and {self.data.train} has {count}")
        files["train"] = nested_subset(files["train"], wanted or count, context.seed)
        context.run_dir.mkdir(parents=True, exist_ok=True)
        digests = {f"data.{name}": digest(files[name]) if name in files else None for name in ("train", "valid")}
        check_digests(context, digests | ({"encoder": given_key} if given_key else {}))
        labels, counts = label_names(self.predicted, files, context.log)
        network = self.network(encoder, labels)
        _ = network.layer  # raises for a layer that the encoder lacks
        self.tuning.check_model(network.model, jax.eval_shape(network.init_heads, jax.random.key(0)), self.frozen)
        first_heads: dict[str, Any] = {LABELS: first_params(network, encoder)}
        if self.mix and not context.resumed:
            first_heads[MIX] = dict(first_mix(self.mix, network))
        if self.predicted == "number":
            numbers = np.array([float(str(one.label)) for one in files["train"]])
            first_heads[LABELS] = first_heads[LABELS] | network.first_scores(numbers)
        if not context.resumed and is_first_process():
            encoder.processor.save(context.run_dir)
        if self.length and encoder.processor.longest is not None:  # one of words takes a row of any length
            least = encoder.processor.overhead + 1
            if self.length < least:
                raise ConfigError("length", f"must be at least {least}, or 0, got {self.length}")
        key = given_key or (encoder_digest(encoder) if self.frozen else "")
        task = self.task_type(
            config=self._with_patience(3 if self.data.valid and not context.steps else 0),
            seed=context.seed,
            encoder=replace(encoder, heads={}),
            network=network,
            first_heads=first_heads,
            labelled={name: self.labelled(encoder, examples, labels, context.log) for name, examples in files.items()},
            class_weights=balanced_weights(counts) if self.class_weights == "balanced" else np.ones_like(counts),
            identities={
                name: {"encoder": key, "texts": digest(examples, labels=False), "length": self.length}
                for name, examples in files.items()
            },
            files=(*encoder.processor.files, TEXTS),
            origin=self.origin(encoder, network, context.log),
            cache=Path(self.data.cache) if self.data.cache else context.run_dir / "cache",
            log=context.log,
        )
        steps = context.steps or task.default_steps
        self.tuning.log_unfreezing(network.model, task.unfreezing, steps, context.log)
        return task

    def origin(self, encoder: Encoder, network: LabelNetwork, log: Log) -> Origin:
        """What a run keeps of its encoder, and what makes one vector of a text."""
        return origin_of(encoder, self.encoder, log)

    def _examples(self, split: Split, log: Log) -> list[Example]:
        path = getattr(self.data, split)
        with naming_setting(f"data.{split}"):
            examples = list(self.read(path))
        try:
            examples = self.prepared(examples, path, log)
        except ConfigError:  # of another setting
            raise
        except InputError as error:
            raise ConfigError(f"data.{split}", str(error)) from error
        if not examples:
            raise ConfigError(f"data.{split}", f"{path} holds no example")
        return examples

    def labelled(self, encoder: Encoder, examples: Sequence[Example], labels: tuple[str, ...], log: Log) -> Labelled:
        """The rows of examples, split by the encoder's processor, with the numbers of their labels."""
        try:
            rows = self.split(encoder.processor, [each.item for each in examples], log)
        except SentenceError as error:
            raise InputError(f"{examples[error.sentence].location}: {error.message}") from error
        return Labelled.of(examples, rows, labels, self.predicted)

    def report(self, encoder: Encoder, run_dir: Path, options: EvaluateOptions) -> Report:
        """The metrics of labelled files, and the mix."""
        refuse_options(options, _LANGUAGE_MODELS_ONLY, f"{run_dir}, a run with labels")
        return self.predictor(encoder).report(options.texts, options.log)

    def predictor(self, encoder: Encoder) -> LabelPredictor:
        """Predictions of a loaded run."""
        head = encoder.heads.get(LABELS)
        network = self.network(encoder, getattr(head and head.module, "labels", ()))
        processor = self.processed(encoder.processor, encoder.model)
        return LabelPredictor(replace(encoder, processor=processor), self, network)

    def exported(self, encoder: Encoder) -> Encoder:
        """The encoder of a run with its head of labels as a Hugging Face folder has it; InputError where no class of
        transformers computes the labels."""
        network = self.predictor(encoder).network
        return exported(encoder, network, self.exportable, length=self.length or None)
