"""`Stack`: several encoders as one (see `encoders.base.Model`).

Parameters: member_0, member_1 ...: those of each member; projection_1 {kernel [I, D], bias [D]} of each member whose
vectors are projected. Inputs are the members', "token_ids" of the first under "member_0/token_ids".

Letters: L layers, B rows, T words, D width, I width of one member.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from ctx_jax.checkpoints.run_files import member_name
from ctx_jax.encoders.base import CachesWords, Layers
from ctx_jax.encoders.stack.inputs import StackInputs
from ctx_jax.io.errors import ConfigError, InputError, InputTypeError, brief
from ctx_jax.ops.dense import dense, init_dense
from ctx_jax.ops.dropout import Dropout
from ctx_jax.ops.linear import Compute
from ctx_jax.tokenizers.words import Rule
from ctx_jax.typing import Carry, Params

How = Literal["concat", "add"]


@dataclass(frozen=True)
class Member:
    """An encoder of a stack, and which of its layers stand in it."""

    model: Any
    """An `encoders.base.Model`."""
    layers: int | tuple[float, ...] | None = None
    """None: all of them. A number: this one. A share of each: their sum, a mix that is not trained."""

    def __post_init__(self) -> None:
        if not callable(getattr(self.model, "layers", None)):
            raise ConfigError("members", f"must hold the models of encoders, got {brief(self.model)}")
        count = self.model.num_layers
        if isinstance(self.layers, tuple) and len(self.layers) != count:
            raise ConfigError("layers", f"has {len(self.layers)} shares, and the member has {count} layers")
        if isinstance(self.layers, int) and not 0 <= self.layers < count:
            raise ConfigError("layers", f"must be 0..{count - 1} for a member of {count} layers, got {self.layers}")

    @property
    def num_layers(self) -> int:
        """How many layers stand in the stack."""
        return int(self.model.num_layers) if self.layers is None else 1

    def chosen(self, values: jax.Array) -> jax.Array:
        """The member's layers [.., B, T, I] as they stand in the stack."""
        match self.layers:
            case None:
                return values
            case int():
                return values[self.layers][None]
        shares = jnp.asarray(self.layers, jnp.float32)
        return jnp.einsum("l,lbtd->btd", shares, values, precision=jax.lax.Precision.HIGHEST)[None]


@dataclass(frozen=True)
class Stack:
    """Encoders side by side; hashable, so it can be a static argument of `jax.jit`.

    A member that gives one layer, as a table does, gives it at every depth: layer k of a BERT and a table is the
    BERT's layer k and the table's vector. Two members with several layers must have equally many.
    """

    members: tuple[Member, ...]
    how: How = "concat"
    """`concat`: the members' vectors one after the other. `add`: their sum."""
    dim: int | None = None
    """D of `add`: vectors of another width are projected to it; None: the width of the first member."""
    compute: Compute = "float32"
    """The precision of the matrix products of all members."""

    def __post_init__(self) -> None:
        if not self.members:
            raise ConfigError("members", "needs at least one encoder, got none")
        if self.how not in ("concat", "add"):
            raise ConfigError("how", f"must be concat or add, got {self.how!r}")
        if self.dim is not None and (self.how == "concat" or self.dim < 1):
            raise ConfigError("dim", f"is the width of how=add, at least 1, got {self.dim} with how={self.how}")
        depths = [member.num_layers for member in self.members]
        if len({depth for depth in depths if depth > 1}) > 1:
            raise ConfigError(
                "layers",
                f"of the members must be as many, or one: they have {', '.join(map(str, depths))}. Choose one of a "
                'member by layers: "last", a number, or a mix',
            )
        # One precision, so that `replace(stack, compute=...)` reaches the members.
        own = tuple(replace(each, model=replace(each.model, compute=self.compute)) for each in self.members)
        object.__setattr__(self, "members", own)

    @property
    def num_layers(self) -> int:
        """L, that of the members."""
        return max(member.num_layers for member in self.members)

    @property
    def width(self) -> int:
        """D: the sum of the members' widths, or that of each vector of a sum."""
        if self.how == "concat":
            return sum(member.model.width for member in self.members)
        return int(self.members[0].model.width) if self.dim is None else self.dim

    @property
    def projected(self) -> tuple[int, ...]:
        """The numbers of the members whose vectors are projected."""
        if self.how == "concat":
            return ()
        return tuple(i for i, member in enumerate(self.members) if member.model.width != self.width)

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters of every member; projections from a truncated normal of standard deviation I ** -0.5."""
        keys = jax.random.split(key, 2 * len(self.members))
        params: dict[str, Any] = {member_name(i): each.model.init(keys[2 * i]) for i, each in enumerate(self.members)}
        for i in self.projected:
            width = self.members[i].model.width
            params[projection_name(i)] = init_dense(keys[2 * i + 1], width, self.width, bias=True, scale=width**-0.5)
        return params

    def layers(
        self, params: Params, inputs: Mapping[str, Any], *, carry: Carry = None, dropout: Dropout | None = None
    ) -> Layers:
        """[L, B, T, D] of the inputs that `StackInputs` makes.

        `carry` is a tuple of one state a member, None where it has none: `layers.carry` of an earlier call, which is
        None itself if no member has one. Raises InputError for inputs of other names, or that are no members' for the
        same words, InputTypeError for a carry of another kind; and what the members raise.
        """
        if carry is not None and (not isinstance(carry, tuple) or len(carry) != len(self.members)):
            raise InputTypeError(f"carry must be layers.carry of this stack, one state for each of {len(self.members)}")
        states = carry or (None,) * len(self.members)

        def of_member(i: int, own: Mapping[str, Any]) -> Layers:
            member, drop = self.members[i], dropout
            if dropout is not None:  # members draw apart
                drop = dropout._replace(key=jax.random.fold_in(dropout.key, i))
            found = member.model.layers(params[member_name(i)], own, carry=states[i], dropout=drop)
            return Layers(member.chosen(found.values), *found[1:])

        found = [of_member(i, own) for i, own in enumerate(self._own(inputs))]
        carries = tuple(each.carry for each in found)
        values, mask = self._joined(params, [each.values for each in found]), found[0].mask
        if self.projected:
            values = jnp.where(mask[None, :, :, None], values, 0.0)
        return Layers(values, mask, None if all(state is None for state in carries) else carries)

    def token_layer(self, params: Params, inputs: Mapping[str, Any]) -> jax.Array:
        """Layer 0 alone, [B, T, D]; of a member of which another layer was chosen it is that one."""
        inputs_of, values = self._own(inputs), []
        for i, (member, own) in enumerate(zip(self.members, inputs_of, strict=True)):
            if member.layers in (None, 0):
                values.append(member.model.token_layer(params[member_name(i)], own)[None])
            else:
                values.append(member.chosen(member.model.layers(params[member_name(i)], own).values))
        if not self.projected:
            return self._joined(params, values)[0]
        # Projections have biases, which must not stand at padding; under `jit` only the mask is computed here.
        i = min(range(len(self.members)), key=lambda i: self.members[i].model.flops_per_token(1))
        mask = self.members[i].model.layers(params[member_name(i)], inputs_of[i]).mask
        return jnp.where(mask[..., None], self._joined(params, values)[0], 0.0)

    def inputs(self, folder: Path | None = None, *, rule: Rule = "whitespace") -> StackInputs:
        """The processor that holds those of the members; they read `member_0/`, `member_1/` ... of `folder`."""
        own = [
            member.model.inputs(None if folder is None else Path(folder) / member_name(i), rule=rule)
            for i, member in enumerate(self.members)
        ]
        return self.inputs_of(own, rule)

    def inputs_of(self, processors: Sequence[Any], rule: Rule) -> StackInputs:
        """The processor that holds these of the members."""
        return StackInputs(tuple(processors), rule, any(member.layers not in (None, 0) for member in self.members))

    def with_word_cache(self, params: Params, processor: StackInputs) -> StackInputs:
        """With the caches of the members that have one (see `encoders.base.CachesWords`)."""
        named = [(member_name(i), each.model) for i, each in enumerate(self.members)]
        own = [
            model.with_word_cache(params[name], each) if isinstance(model, CachesWords) else each
            for (name, model), each in zip(named, processor.processors, strict=True)
        ]
        return replace(processor, processors=tuple(own))

    def depth_of(self, name: str) -> int:
        """A member's own depth, but `num_layers` at most (of a member of which one layer was chosen); `num_layers` for
        projections. InputError for a name that the model does not have."""
        first, _, inner = name.partition("/")
        for i, member in enumerate(self.members):
            if first == member_name(i):
                return min(int(member.model.depth_of(inner)), self.num_layers)
            if first == projection_name(i) and i in self.projected:
                return self.num_layers
        raise InputError(f"a stack of {len(self.members)} encoders has no parameter {name!r}")

    def flops_per_token(self, length: int) -> float:
        """The members' together, and 2 I D for every layer that is projected."""
        own = sum(float(member.model.flops_per_token(length)) for member in self.members)
        chosen = (self.members[i] for i in self.projected)
        return own + sum(2.0 * member.model.width * self.width * member.num_layers for member in chosen)

    def _own(self, inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The inputs of each member, under its own names."""
        own: list[dict[str, Any]] = [{} for _ in self.members]
        numbers = {member_name(i): i for i in range(len(self.members))}
        for name in inputs if isinstance(inputs, Mapping) else [type(inputs).__name__]:
            first, _, inner = str(name).partition("/")
            if first not in numbers or not inner:
                raise InputError(
                    f"a stack of {len(self.members)} encoders reads inputs {member_name(0)}/... to "
                    f"{member_name(len(self.members) - 1)}/..., got {name!r}: use encoder.tokenize"
                )
            own[numbers[first]][inner] = inputs[name]
        return own

    def _joined(self, params: Params, values: Sequence[jax.Array]) -> jax.Array:
        """[L, B, T, D] of the members' layers, [L or 1, B, T, I] each."""
        if len({each.shape[1:3] for each in values}) > 1:
            shapes = ", ".join(str(each.shape[1:3]) for each in values)
            raise InputError(f"the members of a stack need inputs for the same words, got [B, T] of {shapes}")
        values = [
            dense(params[projection_name(i)], each, self.compute) if i in self.projected else each
            for i, each in enumerate(values)
        ]
        repeated = [jnp.broadcast_to(each, (self.num_layers, *each.shape[1:])) for each in values]
        return jnp.concatenate(repeated, axis=-1) if self.how == "concat" else sum(repeated[1:], repeated[0])


def projection_name(number: int) -> str:
    """The name of the parameters of a member's projection."""
    return f"projection_{number}"
