"""Learning-rate factors, weight decay and freezing, set for groups of parameters by patterns of their names.

A parameter's name is its path in the tree, such as "encoder/layer_0/query/kernel". The first group whose pattern is
found in the name applies; a name that no pattern matches is an error.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from ctx_jax.encoders.base import Model
from ctx_jax.io.errors import ConfigError, InputError
from ctx_jax.typing import Params


@dataclass(frozen=True)
class ParameterGroup:
    """Settings of the parameters whose names match a pattern."""

    pattern: str
    """Regular expression, searched for in the name."""
    learning_rate_factor: float = 1.0
    """Multiplies the optimizer's learning rate."""
    weight_decay: bool = True
    """Whether the optimizer's weight decay acts on them."""
    frozen: bool = False
    """Never updated: no gradient, no optimizer state, saved once instead of in every checkpoint."""

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ConfigError(
                "optimizer.groups", f"has the pattern {self.pattern!r}, which is no regular expression: {error}"
            ) from error
        if not 0 <= self.learning_rate_factor < float("inf"):
            raise ConfigError(
                "optimizer.groups", f"has a learning_rate_factor of {self.learning_rate_factor}; at least 0 is needed"
            )


DEFAULT_GROUPS = (
    ParameterGroup(r"(^|/)(\w+_)?(bias|scale)$|(^|/)(\w+_)?norm(/|$)", weight_decay=False),
    ParameterGroup(r"(^|/)mix/(weights|gamma)$", weight_decay=False),
    ParameterGroup(r"(^|/)((\w+_)?kernel|projection|embedding|tokens|positions|types|matrix)$"),
)
"""For the names that the package's families and heads use: weight decay on matrices and tables, none on biases, norms
and mixes."""


def named(params: Params) -> dict[str, Any]:
    """{"encoder/layer_0/query/kernel": array, ...} in the tree's order."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def _name(path: Sequence[Any]) -> str:
    return "/".join(str(step.key) for step in path)


def map_named(function: Callable[[str, Any], Any], params: Params) -> Any:
    """A tree like `params` of `function(name, leaf)`."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: function(_name(path), leaf), params)


def group_of(name: str, groups: Sequence[ParameterGroup]) -> ParameterGroup:
    """The first of `groups`, then of `DEFAULT_GROUPS`, that matches the name; ConfigError if none does."""
    for group in (*groups, *DEFAULT_GROUPS):
        if re.search(group.pattern, name):
            return group
    raise ConfigError(
        "optimizer.groups",
        f"has no pattern that matches the parameter {name!r}: add a ParameterGroup for it",
    )


def split_frozen(params: Params, groups: Sequence[ParameterGroup]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(trainable, frozen) parameters; `checkpoints.frozen.merge_params` is the inverse."""
    frozen = map_named(lambda name, _: group_of(name, groups).frozen, params)
    return _kept(params, frozen, False), _kept(params, frozen, True)


def _kept(params: Params, flags: Params, wanted: bool) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            if inner := _kept(value, flags[name], wanted):
                kept[name] = inner
        elif flags[name] is wanted:
            kept[name] = value
    return kept


def decayed(params: Params, groups: Sequence[ParameterGroup] = ()) -> Any:
    """Which parameters weight decay acts on, a bool for each."""
    return map_named(lambda name, _: group_of(name, groups).weight_decay, params)


def depth_of(name: str, model: Model) -> int:
    """The depth of a run's parameter: `model.depth_of` in the encoder, `model.num_layers` in a head."""
    part, _, inner = name.partition("/")
    if part == "head":
        return model.num_layers
    if part != "encoder":
        raise InputError(f"a run's parameters are under 'encoder' and 'head', got {name!r}")
    return model.depth_of(inner)


def rate_factors(params: Params, groups: Sequence[ParameterGroup], layer_decay: float, model: Model | None) -> Any:
    """The factor of each parameter's learning rate: its group's times layer_decay ** (layers above it).

    embeddings              layer_decay ** num_layers
    layer i = 1, 2, ...     layer_decay ** (num_layers - i)
    final norm, heads       1
    """

    def factor(name: str, _: Any) -> float:
        own = group_of(name, groups).learning_rate_factor
        if layer_decay == 1.0:
            return own
        if model is None:
            raise ConfigError("optimizer.layer_decay", "needs the number of layers: give model=")
        return own * float(layer_decay ** (model.num_layers - depth_of(name, model)))

    return map_named(factor, params)


def matrices_of_layers(params: Params, model: Model) -> Any:
    """Whether a parameter is a matrix inside a layer, a bool for each: what Muon acts on."""

    return map_named(lambda name, array: array.ndim == 2 and 0 < depth_of(name, model) < model.num_layers, params)
