"""Two texts: a label (entailment), a number (similarity), or which second text belongs to a first one.

ctx-jax train pairs --encoder minilm --style cross --data.train train.tsv --data.valid dev.tsv --run-dir runs/nli
ctx-jax train pairs --encoder minilm --style siamese --target ranking --data.columns first,second --data.train ...
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np

from ctx_jax.checkpoints.run_files import Origin
from ctx_jax.data.columns import Columns
from ctx_jax.data.labelled import Example, LabelledData
from ctx_jax.data.labelled_pairs import FIRST, SECOND, read_text_pairs
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.encoders.base import InputProcessor
from ctx_jax.encoders.transformer.gpt_inputs import GPTInputs
from ctx_jax.encoders.transformer.pair_inputs import PairInputs
from ctx_jax.io.errors import ConfigError, InputError, InputTypeError
from ctx_jax.tasks.gpt import GPTNetwork
from ctx_jax.tasks.huggingface_head import HeadChoice, with_own_head
from ctx_jax.tasks.label_config import LabelConfig
from ctx_jax.tasks.label_network import LabelNetwork, TextPooling
from ctx_jax.tasks.label_rows import Rows, cut_texts, row_limit
from ctx_jax.tasks.label_task import LabelTask
from ctx_jax.tasks.label_values import Target, checked_number
from ctx_jax.tasks.options import refuse_options
from ctx_jax.tasks.pair_network import Comparison, PairRows, SiameseNetwork
from ctx_jax.tasks.ranking import RankingNetwork, RankingTask
from ctx_jax.training.task import TaskContext
from ctx_jax.typing import Log


@dataclass(frozen=True)
class PairsConfig(LabelConfig):
    """Train on pairs of texts. The columns of the two are `first` and `second`."""

    data: LabelledData = field(default_factory=lambda: LabelledData(columns="first,second,label"))

    style: Literal["cross", "siamese"] = "siamese"
    """`cross`: both texts in one row with the tokenizer's separators, for Transformers. `siamese`: each by itself."""

    target: Literal["classes", "number", "ranking"] = "classes"
    """What a pair has: a label, a number, or nothing, since it belongs together: `ranking` learns to find the second
    text among those of the whole batch (siamese; `--data.columns first,second`)."""

    compare: Comparison = "features"
    """Of a siamese label or number: `features`, a linear layer on (u, v, |u - v|, u * v) of both vectors, or `cosine`,
    scale * cosine + bias for a number. Ranking takes the cosine."""

    pooling: TextPooling = "mean"
    """How the vectors of a row's tokens become one, as in `classify`."""

    head: HeadChoice = "linear"
    """As in `classify`; for the style cross."""

    both_orders: bool | None = None
    """With `gpt`: a pair is read in both orders, and the two vectors are added, as where it has none (similarity).
    None: of a number."""

    scale: float = 20.0
    """Of the target ranking alone: what cosines are multiplied by before the softmax."""

    name: ClassVar[str] = "pairs"
    exportable: ClassVar[str] = f"style cross, {LabelConfig.exportable}"
    item: ClassVar[str] = FIRST

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scale > 0:
            raise ConfigError("scale", f"must be more than 0, got {self.scale}")
        if self.head == "huggingface" and self.style != "cross":
            raise ConfigError("head", "is huggingface, which is for the style cross: set it, or head linear")
        if self.style == "cross" and self.target == "ranking":
            raise ConfigError("style", "is cross, which gives no vectors of single texts to rank: set siamese")
        if self.both_orders is not None and not self.tuning.gpt:
            raise ConfigError("both_orders", "is for gpt: leave it out, or set gpt")
        if self.compare == "cosine" and (self.style == "cross" or self.target == "classes"):
            raise ConfigError("compare", "is cosine, which is for a number of the style siamese: set features")

    @property
    def text_pooling(self) -> TextPooling:
        return self.pooling

    @property
    def predicted(self) -> Target:
        return self.target

    @property
    def task_type(self) -> type[LabelTask]:
        return RankingTask if self.target == "ranking" else super().task_type

    @property
    def reads_both_orders(self) -> bool:
        """Whether each pair is two rows."""
        return self.tuning.gpt and (self.target == "number" if self.both_orders is None else self.both_orders)

    @property
    def columns(self) -> Columns:
        return Columns.parse(self.data.columns, FIRST, SECOND, label=self.target != "ranking")

    def check(self, steps: int) -> None:
        """As `LabelConfig.check`; ConfigError for a scale and for a dropout that nothing reads."""
        super().check(steps)
        if self.target != "ranking":
            refuse_options(self, ("scale",), f"target {self.target}, only to ranking")
        if self.dropout and (self.target == "ranking" or self.compare == "cosine"):
            compared = "target ranking" if self.target == "ranking" else "compare cosine"
            refuse_options(self, ("dropout",), f"{compared}, whose vectors no head reads (see encoder_dropout)")

    def read(self, path: str, known: Collection[str] | None = None) -> Iterator[Example]:
        return read_text_pairs(path, self.columns, prefix=self.data.strip_prefix, labels=known is None)

    def converted(self, example: Example) -> Example:
        return checked_number(example) if self.target == "number" else example

    def processed(self, processor: InputProcessor, model: Any) -> InputProcessor:
        if self.style == "siamese":
            return processor.of_texts(empty=False)
        if self.tuning.gpt:
            return GPTInputs.of_model(processor, model, pairs=True)
        try:
            return PairInputs.of(processor, model)
        except InputError as error:
            raise ConfigError("style", f"is cross, which the encoder does not fit ({error}): set siamese") from error

    def network(self, encoder: Encoder, labels: tuple[str, ...]) -> LabelNetwork:
        base = super().network(encoder, labels)
        if isinstance(base, GPTNetwork):
            return replace(base, both_orders=self.reads_both_orders)
        if self.style == "cross":
            return with_own_head(base, encoder, "head") if self.head == "huggingface" else base
        own = {name: getattr(base, name) for name in LabelNetwork.__dataclass_fields__}
        if self.target == "ranking":
            return RankingNetwork(**own, scale=self.scale)
        return SiameseNetwork(**own, compare=self.compare)

    def open(self, context: TaskContext) -> LabelTask:
        """As `LabelConfig.open`; ConfigError where nothing would be trained."""
        task = super().open(context)
        if self.frozen and not task.heads:
            raise ConfigError(
                "frozen",
                f"leaves nothing to train with layers {self.layers} and pooling {self.pooling}: set layers mix",
            )
        return task

    def origin(self, encoder: Encoder, network: LabelNetwork, log: Log) -> Origin:
        """As `LabelConfig.origin`; where vectors of texts are compared, the run's own take the place of what the
        encoder's folder says of them."""
        if isinstance(network, SiameseNetwork):
            length = row_limit(encoder.processor, self.length) if self.length else None
            return Origin(encoder.architecture, network.sentence(length))
        return super().origin(encoder, network, log)

    def checked(self, items: Sequence[Any], processor: InputProcessor) -> list[Any]:
        for number, pair in enumerate(items):
            texts = list(pair) if isinstance(pair, list | tuple) else []
            if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
                raise InputTypeError(f"a pair must be two strings; number {number} is {pair!r:.80}")
        return [tuple(pair) for pair in items]

    def split(
        self, processor: InputProcessor, items: Sequence[tuple[str, str]], log: Log
    ) -> list[list[tuple[Any, int]]]:
        """One row a pair, cut where it is longer than the encoder takes, which `log` says once."""
        if self.style == "cross":
            orders = [items, [(second, first) for first, second in items]] if self.reads_both_orders else [items]
            pairs = processor.split([list(pair) for own in orders for pair in own])
            found = cut_texts(processor, pairs, self.length, log, "orders of pairs" if len(orders) == 2 else "pairs")
            if not self.reads_both_orders:
                return [[(pair, 1)] for pair in found]
            return [[(both, 1)] for both in zip(found[: len(items)], found[len(items) :], strict=True)]
        sides = [processor.split([pair[side] for pair in items], "tokens") for side in (0, 1)]
        cut = cut_texts(processor, [text for texts in sides for text in texts], self.length, log, "texts")
        return [[(pair, 1)] for pair in zip(cut[: len(items)], cut[len(items) :], strict=True)]

    def rows(self, texts: Sequence[Any], make: Callable[[str, Sequence[Any]], Rows]) -> Rows:
        if self.style == "cross" and not self.reads_both_orders:
            return make("pair", texts)
        return PairRows(make(FIRST, [text for text, _ in texts]), make(SECOND, [text for _, text in texts]))

    def answer(self, item: tuple[str, str], network: LabelNetwork, found: np.ndarray) -> dict[str, Any]:
        """{"label": ..., "probabilities": {label: p}}, {"number": ...} or, of ranked pairs, {"cosine": ...}."""
        return network.answer(found[0])
