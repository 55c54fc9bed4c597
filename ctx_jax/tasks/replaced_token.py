"""ELECTRA's pretraining as a task (Clark et al. 2020): a generator replaces tokens, the encoder finds those replaced.

The encoder of a run is the discriminator, which is what one uses afterwards. The generator is a head: it shares the
encoder's embedding tables, and has its own projection of them, layers and vocabulary head.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax

from ctx_jax import losses
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.data.tokens import Tokens
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.encoders.transformer.huggingface.export import architecture_of
from ctx_jax.evaluation.replaced_token_eval import metrics_of_means, replaced_token_metrics
from ctx_jax.heads import ClassificationHead, Generator, Head, VocabularyHead
from ctx_jax.io.errors import ConfigError, InputError, listed
from ctx_jax.io.progress import Progress
from ctx_jax.losses.replaced_token import COEFFICIENTS
from ctx_jax.tasks.huggingface_head import vocabulary_head
from ctx_jax.tasks.options import EvaluateOptions, refuse_options
from ctx_jax.tasks.subword_lm import SubwordLMTask
from ctx_jax.tasks.subword_lm_config import SubwordLMConfig
from ctx_jax.tokenizers.subwords import Subwords
from ctx_jax.training.task import TaskContext
from ctx_jax.typing import Carry, Params, Terms

HEAD, GENERATOR = "replaced_token", "generator"
"""The names of the two heads in params["head"]."""


@dataclass(frozen=True)
class GeneratorConfig:
    """The generator's size, as shares of the discriminator's."""

    width: float = 0.25
    """Share of the discriminator's width and feed-forward width; its heads are as wide as the discriminator's.
    Published: a quarter (small, large) or a third (base)."""

    depth: float = 1.0
    """Share of its layers."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value <= 1:
                raise ConfigError(f"generator.{name}", f"must be above 0 and at most 1, got {value}")

    def model_of(self, model: Transformer) -> Transformer:
        """The generator beside `model`, whose embedding tables it reads. ConfigError for a width that cannot be."""
        width, depth = max(1, round(model.dim * self.width)), max(1, round(model.depth * self.depth))
        tables = model.embedding_dim or model.dim
        try:
            return replace(
                model,
                dim=width,
                depth=depth,
                heads=max(1, width // model.head_width),
                kv_heads=None,
                head_dim=None,
                feed_forward=max(1, round(model.feed_forward * self.width)),
                embedding_dim=None if width == tables else tables,
                local_layers=tuple(layer for layer in model.local_layers if layer < depth),
            )
        except ConfigError as error:
            raise ConfigError(
                "generator.width", f"is {self.width}, which makes {width} of {model.dim}: {error}"
            ) from error


def _sequences() -> SequenceConfig:
    return SequenceConfig(mask_token_probability=0.85, random_token_probability=0.0)


@dataclass(frozen=True)
class ReplacedTokenConfig(SubwordLMConfig):
    """Train an ELECTRA: `model` is the discriminator, `head` the generator's vocabulary head."""

    sequences: SequenceConfig = field(default_factory=_sequences)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)

    discriminator_weight: float = COEFFICIENTS["discriminator"]
    """The weight of the discriminator's loss, a mean over all tokens, beside the generator's, over the masked ones."""

    name = HEAD
    causal = False

    def heads(self) -> dict[str, Any]:
        """The discriminator's head, and the generator."""
        head = ClassificationHead(("replaced",), self.model.activation)
        return {HEAD: head, GENERATOR: Generator(self.generator.model_of(self.model), self.head)}

    def check_model(self) -> None:
        """Also refuses pair labels, and sizes that the generator cannot have."""
        super().check_model()
        if self.discriminator_weight < 0:
            raise ConfigError("discriminator_weight", f"must be at least 0, got {self.discriminator_weight}")
        if self.sequences.has_pair_label:
            raise ConfigError(
                "sequences.pair_label", f"is {self.sequences.pair_label}, and {self.name} has no labels: set none"
            )
        if not self.head.tied:
            raise ConfigError("head.tied", "is False, and the generator decodes with the shared token table: set True")
        self.generator.model_of(self.model)

    def _imported_head(self, imported: Encoder) -> VocabularyHead:
        """That of the import's generator if it has one, else that of its class: a discriminator's folder has none."""
        if GENERATOR not in imported.heads:
            return vocabulary_head(imported, "masked_lm")
        head: VocabularyHead = imported.heads[GENERATOR].module.head
        return head

    def open(self, context: TaskContext) -> "ReplacedTokenTask":
        task = self._open(context, ReplacedTokenTask)
        if task.imported is not None and GENERATOR in task.imported.heads:
            module = task.imported.heads[GENERATOR].module
            if module.model.without_dropout != task.heads[GENERATOR].model.without_dropout:
                raise ConfigError(
                    "generator.width",
                    f"gives another generator than that of {self.init}, which has {module.model.depth} layers of width "
                    f"{module.model.dim}: set generator.width and generator.depth to fit it",
                )
        # A file of ELECTRA has a place for the discriminator's head, one of BERT has none.
        fits = architecture_of(task.model) in ("bert", "electra")
        return replace(task, origin=task.origin._replace(architecture="electra")) if fits else task

    def report(self, encoder: Encoder, run_dir: Any, options: EvaluateOptions) -> Any:
        """Metrics of a text with one fixed mask and fixed samples, as aligned lines."""
        refuse_options(options, ("pseudo_perplexity",), f"a discriminator, which {run_dir} holds")
        return super().report(encoder, run_dir, options)

    def measure(
        self,
        model: Any,
        heads: Mapping[str, Any],
        params: Params,
        subwords: Subwords,
        tokens: Tokens,
        progress: Progress,
        devices: Sequence[jax.Device] | None = None,
    ) -> dict[str, float]:
        """The training metrics of a text, with one fixed mask, fixed samples and without dropout."""
        return replaced_token_metrics(
            model,
            heads[GENERATOR],
            heads[HEAD],
            params,
            tokens,
            subwords,
            self.sequences,
            weight=self.discriminator_weight,
            devices=devices,
            progress=progress,
        )


class ReplacedTokenTask(SubwordLMTask):
    """See `training.task.Task`."""

    @property
    def coefficients(self) -> dict[str, float]:
        return {**COEFFICIENTS, "discriminator": self.config.discriminator_weight}

    def init(self, key: jax.Array) -> Params:
        of_encoder, of_head, of_generator = jax.random.split(key, 3)
        model, heads = self.model, self.heads
        head = heads[HEAD].init(of_head, width=model.width, scale=model.initial_scale)
        return {
            "encoder": model.init(of_encoder),
            "head": {HEAD: head, GENERATOR: heads[GENERATOR].init(of_generator)},
        }

    def loss(self, params: Params, batch: Any, carry: Carry, key: jax.Array | None) -> tuple[Terms, Carry]:
        """Cross entropy of the masked tokens and of "replaced" in nats, and what the metrics count."""
        heads = self.heads
        return losses.replaced_token(self.model, heads[GENERATOR], heads[HEAD], params, batch, carry, key=key)

    def metrics(self, means: dict[str, float]) -> dict[str, float]:
        return metrics_of_means(means, self.config.discriminator_weight)

    def flops_per_token(self) -> float:
        """Three times the forward pass of both networks, and of the generator's vocabulary head at the masked share."""
        model, sequences, generator = self.model, self.config.sequences, self.heads[GENERATOR]
        small = generator.model
        share = sequences.predictions_per_row / sequences.length
        decoder = generator.head.flops_per_token(
            width=small.width, vocabulary=small.vocabulary, decoder_width=small.embedding_dim
        )
        layers = model.flops_per_token(sequences.length) + small.flops_per_token(sequences.length)
        return float(3.0 * (layers + share * decoder + 2 * model.width * (model.width + 1)))


def generator_of(encoder: Encoder) -> Encoder:
    """The generator of a loaded run as an encoder of its own with its head "masked_lm". InputError if it has none.

    ```
    generator = generator_of(ctx_jax.load("runs/electra"))
    ```
    """
    if GENERATOR not in encoder.heads:
        raise InputError(
            f"it has no generator, only the heads {listed(encoder.heads)}: a run of {HEAD} is needed, whose exported "
            "discriminator has none either"
        )
    module, own = encoder.heads[GENERATOR]
    params = module.complete(own, encoder.params["embeddings"])
    masked_lm = Head(module.head, params["head"]["masked_lm"])
    # What the encoder says of its labels and of vectors of whole texts is not true of the generator.
    return replace(
        encoder,
        model=module.model,
        params=params["encoder"],
        heads={"masked_lm": masked_lm},
        labelling=None,
        sentence=None,
        sif=None,
    )
