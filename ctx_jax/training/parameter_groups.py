"""Learning-rate factors, weight decay and freezing, set for groups of parameters by patterns of their names.

A parameter's name is its path in the tree, such as "encoder/layer_0/query/kernel". Of the run's groups, of the task's
and of the defaults the first whose pattern is found in the name applies, see `group_of`.
"""

import math
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
    """Multiplies the learning rate, the optimizer's times the task's factor."""
    weight_decay: bool | None = True
    """Whether the optimizer's weight decay acts on them; None: as the task's groups and the defaults have it."""
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


def group_of(name: str, groups: Sequence[ParameterGroup], task_groups: Sequence[ParameterGroup] = ()) -> ParameterGroup:
    """The settings of a parameter, from the first of a run's `groups` that matches its name, the first of
    `task_groups` and the first of `DEFAULT_GROUPS`: learning-rate factors are multiplied, what one of them freezes is
    frozen, and weight decay is as the first that is not None. ConfigError if none of them sets weight decay."""
    levels = (groups, task_groups, DEFAULT_GROUPS)
    found = [next((group for group in level if re.search(group.pattern, name)), None) for level in levels]
    matching = [group for group in found if group is not None]
    decays = [group.weight_decay for group in matching if group.weight_decay is not None]
    if not decays:
        raise ConfigError(
            "optimizer.groups",
            f"has no group that sets weight_decay for the parameter {name!r}: add a ParameterGroup for it",
        )
    return ParameterGroup(
        matching[0].pattern,
        learning_rate_factor=math.prod(group.learning_rate_factor for group in matching),
        weight_decay=decays[0],
        frozen=any(group.frozen for group in matching),
    )


def split_frozen(
    params: Params, groups: Sequence[ParameterGroup], task_groups: Sequence[ParameterGroup] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(trainable, frozen) parameters; `checkpoints.frozen.merge_params` is the inverse."""
    frozen = map_named(lambda name, _: group_of(name, groups, task_groups).frozen, params)
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


def decayed(params: Params, groups: Sequence[ParameterGroup] = (), task_groups: Sequence[ParameterGroup] = ()) -> Any:
    """Which parameters weight decay acts on, a bool for each."""
    return map_named(lambda name, _: group_of(name, groups, task_groups).weight_decay, params)


def depth_of(name: str, model: Model) -> int:
    """The depth of a run's parameter: `model.depth_of` in the encoder, `model.num_layers` in a head."""
    part, _, inner = name.partition("/")
    if part == "head":
        return model.num_layers
    if part != "encoder":
        raise InputError(f"a run's parameters are under 'encoder' and 'head', got {name!r}")
    return model.depth_of(inner)


def rate_factors(
    params: Params,
    groups: Sequence[ParameterGroup],
    layer_decay: float,
    model: Model | None,
    task_groups: Sequence[ParameterGroup] = (),
) -> Any:
    """The factor of each parameter's learning rate: its groups' times layer_decay ** (layers above it).

    embeddings              layer_decay ** num_layers
    layer i = 1, 2, ...     layer_decay ** (num_layers - i)
    final norm, heads       1
    """

    def factor(name: str, _: Any) -> float:
        own = group_of(name, groups, task_groups).learning_rate_factor
        if layer_decay == 1.0:
            return own
        if model is None:
            raise ConfigError("optimizer.layer_decay", "needs the number of layers: give model=")
        return own * float(layer_decay ** (model.num_layers - depth_of(name, model)))

    return map_named(factor, params)


def matrices_of_layers(params: Params, model: Model) -> Any:
    """Whether a parameter is a matrix inside a layer, a bool for each: what Muon acts on."""

    return map_named(lambda name, array: array.ndim == 2 and 0 < depth_of(name, model) < model.num_layers, params)
