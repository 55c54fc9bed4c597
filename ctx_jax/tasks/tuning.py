"""How the pretrained parts of a task with labels are trained: which of them, when, and from which parameters."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from ctx_jax.io.errors import ConfigError, listed
from ctx_jax.training.parameter_groups import ParameterGroup, map_named, named
from ctx_jax.training.unfreezing import Unfreezing
from ctx_jax.typing import Log, Params

LM_WEIGHT = 0.5  # that of Radford et al. 2018, section 4.1


@dataclass(frozen=True)
class TuningOptions:
    """How the mix and the encoder are trained."""

    mix_norm: bool = False
    """Each layer is normalised before the mix, by the mean and variance of all its numbers in one row (text, sentence
    or pair)."""

    mix_penalty: float = 0.0
    """lambda: this times the sum of the squared weights of the mix, before their softmax, is added to the loss, which
    draws the mix to the plain mean (Peters et al. 2018, section 3.4)."""

    freeze: tuple[str, ...] = ()
    """Parameters that stay as they are: regular expressions, searched for in names such as
    `encoder/layer_0/query/kernel`."""

    fresh_layers: int = 0
    """So many of the encoder's top layers begin with new random parameters (Zhang et al. 2021). With `unfreeze_every`
    they are trained from the start, as the head is."""

    unfreeze_every: float = 0.0
    """Gradual unfreezing: the head is trained first, and after so many epochs each one more layer from the top; the
    embeddings come last. 1: one an epoch (Howard and Ruder 2018). 0: all are trained from the start."""

    gpt: bool = False
    """The first GPT's way, for `classify` and `pairs` (cross) on a causal Transformer: new start, delimiter and extract
    tokens, the extract token's vector for the head, and the language model's loss as an auxiliary term."""

    lm_weight: float = LM_WEIGHT
    """With `gpt`: the weight of the language model's loss."""

    def __post_init__(self) -> None:
        for name in ("mix_penalty", "fresh_layers", "unfreeze_every", "lm_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(name, f"must be at least 0, got {getattr(self, name)}")
        for pattern in self.freeze:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigError("freeze", f"has {pattern!r}, which is no regular expression: {error}") from error

    def check(self, *, frozen: bool, mixes: bool, ranks: bool) -> None:
        """ConfigError for options that mean nothing: without a mix, in a ranking, or where the encoder is frozen."""
        for name in ("mix_norm", "mix_penalty"):
            if getattr(self, name) and not mixes:
                raise ConfigError(name, "is for layers mix: leave it out, or set layers to mix")
        if self.mix_penalty and ranks:
            raise ConfigError("mix_penalty", "is added to losses of labels and numbers, and the target is ranking")
        if self.lm_weight != LM_WEIGHT and not self.gpt:
            raise ConfigError("lm_weight", "is for gpt: leave it out, or set gpt")
        for name in ("fresh_layers", "unfreeze_every"):
            if getattr(self, name) and frozen:
                raise ConfigError(name, "is for an encoder that is trained, and it is frozen: leave one of them out")

    def check_model(self, model: Any, heads: Any, frozen: bool) -> None:
        """ConfigError for patterns that no parameter matches, or that leave none to train, and for more layers than
        the encoder has. `heads`: the shapes of the heads' parameters."""
        layers = int(model.num_layers) - 1
        if self.fresh_layers > layers:
            raise ConfigError("fresh_layers", f"is {self.fresh_layers}, and the encoder has {layers} above its first")
        if self.fresh_layers and getattr(model, "shared_layers", False):
            raise ConfigError("fresh_layers", "is for layers of their own, and those of the encoder share parameters")
        shapes = {"encoder": jax.eval_shape(model.init, jax.random.key(0)), "head": heads}
        names = list(named(shapes))
        for pattern in self.freeze:
            if not any(re.search(pattern, name) for name in names):
                raise ConfigError("freeze", f"has {pattern!r}, which no parameter matches; they are {listed(names)}")
        stay = ("^encoder/", *self.freeze) if frozen else self.freeze
        if self.freeze and all(any(re.search(pattern, name) for pattern in stay) for name in names):
            raise ConfigError("freeze", f"leaves nothing to train: {listed(self.freeze)} match every parameter")

    def unfreezing(self, steps_per_epoch: int) -> Unfreezing | None:
        """`unfreeze_every` in steps; None without it."""
        if not self.unfreeze_every:
            return None
        return Unfreezing(max(round(self.unfreeze_every * steps_per_epoch), 1), self.fresh_layers)

    def log_unfreezing(self, model: Any, unfreezing: Unfreezing | None, steps: int, log: Log) -> None:
        """Say when the last layer is unfrozen, or how many stay frozen in a run of so many steps."""
        if unfreezing is None:
            return
        layers, every = int(model.num_layers), unfreezing.every
        waiting = layers - unfreezing.fresh_layers
        frozen = waiting - min((steps - 1) // every, waiting)
        last = every * waiting
        rest = f"{frozen} of {layers} stay frozen in {steps} steps" if frozen else f"all are from step {last}"
        log(f"one more layer is trained every {every} steps: {rest}")

    @property
    def groups(self) -> tuple[ParameterGroup, ...]:
        """The frozen parameters."""
        return tuple(ParameterGroup(pattern, frozen=True) for pattern in self.freeze)

    def first_params(self, model: Any, pretrained: Params, fresh: Params) -> Params:
        """The encoder's parameters at the first step, from those of its files and from new ones."""
        if not self.fresh_layers:
            return pretrained
        new = named(fresh)
        layers = range(int(model.num_layers) - self.fresh_layers, int(model.num_layers))

        def first(name: str, array: Any) -> Any:
            return new[name] if model.depth_of(name) in layers else array

        chosen: Mapping[str, Any] = map_named(first, pretrained)
        return chosen
