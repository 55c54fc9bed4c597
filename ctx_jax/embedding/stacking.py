"""`stack`: several encoders as one, their vectors side by side or added.

Letters: L layers, T words, D width, I width of one member.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from ctx_jax.embedding.encoder import Encoder, Sentence
from ctx_jax.embedding.mixing import softmax_weights
from ctx_jax.embedding.principal_components import principal_components
from ctx_jax.encoders.base import Source, check_several
from ctx_jax.encoders.stack import Member, Stack, StackInputs
from ctx_jax.encoders.stack.inputs import has_pieces
from ctx_jax.encoders.stack.model import How, member_name, projection_name
from ctx_jax.io.errors import ConfigError, InputError, InputTypeError
from ctx_jax.ops.linear import Compute
from ctx_jax.tokenizers.words import Rule

LayersOfMember = Literal["all", "last"] | int | Mapping[str, Any] | None


def stack(
    encoders: Sequence[Encoder],
    *,
    how: How = "concat",
    layers: LayersOfMember | Sequence[LayersOfMember] = None,
    dim: int | None = None,
    fit: Iterable[Sentence] | None = None,
    rule: Rule | None = None,
    compute: Compute | None = None,
    seed: int = 0,
) -> Encoder:
    """Several encoders as one, which gives each word a vector made of theirs.

        bert, glove = ctx_jax.load("bert"), ctx_jax.load("glove.6B.300d.txt", lowercase=True)
        both = ctx_jax.stack([bert, glove])                              # [L, T, 768 + 300]
        both = ctx_jax.stack([bert, glove], how="add", fit=sentences)    # [L, T, 768]
        both = ctx_jax.stack([elmo, bert], layers=[None, "last"])        # L of elmo, each beside bert's last layer
        ctx_jax.save_stack("stacks/both", both)                          # a small folder, which `load` takes

    A member that gives one layer gives it at every depth. Everything that takes an encoder takes a stack: `embed`,
    `encode`, tasks. Of members with pieces it gives vectors of words alone, no tokens; the vector of a text is the mean
    of its words. Heads and sentence modules of the members are left out.

    Args:
      how: "concat": vectors one after the other; "add": their sum.
      layers: of each member, or one value for all: None or "all", "last", a number, or a mix (`load_mix`), which is
        not trained. Members that give several layers must give equally many.
      dim: the width of a sum; None: that of the first member. Members of another width are projected to it.
      fit: sentences, read once into memory, on whose vectors (of all layers of a member together) the projections are
        fitted: principal components, centred. None: the projections are random, drawn by `seed`, and meant to be
        trained with a task.
      rule: how strings are split into words; None: as the members do.
      compute: the precision of matrix products; None: as the members compute.

    Raises:
      ConfigError, naming the argument: layers that are not equally many or do not exist, a `dim` or `fit` without use.
      InputError: no members; members of different rules, precisions or choices of pieces; a `fit` of too few words.
      InputTypeError: members that are no encoders.
    """
    encoders = _checked(encoders)
    choices = _choices(encoders, layers)
    members = tuple(Member(each.model, chosen) for each, chosen in zip(encoders, choices, strict=True))
    model = Stack(members, how, dim, compute or _compute(encoders))
    _ = _agreed("pieces", [each.processor.pieces for each in encoders if has_pieces(each.processor)] or ["mean"])
    rule = rule or _agreed("rule", [each.processor.rule for each in encoders])
    params: dict[str, Any] = {member_name(i): each.params for i, each in enumerate(encoders)}
    if fit is not None and not model.projected:
        raise ConfigError(
            "fit", f"fits projections, and no member is projected: how={how!r}, widths {_widths(encoders)}"
        )
    if fit is not None:
        sentences = list(check_several(fit))
        for i in model.projected:
            params[projection_name(i)] = _fitted(members[i], encoders[i], sentences, model.width, rule, model.compute)
    elif model.projected:
        names = [projection_name(i) for i in model.projected]
        fresh = jax.jit(lambda key: {name: model.init(key)[name] for name in names})  # without the members' parameters
        params |= fresh(jax.random.key(seed))
    processor = model.inputs_of([each.processor for each in encoders], rule)
    return Encoder(model, params, processor, source=Source(members=tuple(each.source for each in encoders)))


def member_encoder(encoder: Encoder, number: int) -> Encoder:
    """One member of a stack, with all its layers."""
    model, processor = stack_parts(encoder)
    return Encoder(model.members[number].model, encoder.params[member_name(number)], processor.processors[number])


def stack_parts(encoder: Encoder) -> tuple[Stack, StackInputs]:
    """The model and the processor of a stack; InputTypeError for another encoder."""
    if not isinstance(encoder.model, Stack) or not isinstance(encoder.processor, StackInputs):
        raise InputTypeError(f"needs an encoder of ctx_jax.stack, got one of {type(encoder.model).__name__}")
    return encoder.model, encoder.processor


def _checked(encoders: Sequence[Encoder]) -> list[Encoder]:
    encoders = [encoders] if isinstance(encoders, Encoder) else list(encoders)
    if not encoders:
        raise InputError("a stack needs at least one encoder, got none")
    for each in encoders:
        if not isinstance(each, Encoder):
            raise InputTypeError(f"a stack is made of encoders, got a {type(each).__name__}: ctx_jax.load makes one")
    return encoders


def _choices(encoders: Sequence[Encoder], layers: Any) -> list[int | tuple[float, ...] | None]:
    """The layers of each member, as `Member` takes them."""
    several = isinstance(layers, Sequence) and not isinstance(layers, str)
    given = list(layers) if several else [layers] * len(encoders)
    if len(given) != len(encoders):
        raise ConfigError("layers", f"must be one choice, or one for each of {len(encoders)} members, got {len(given)}")
    return [_choice(each.model.num_layers, choice) for each, choice in zip(encoders, given, strict=True)]


def _choice(count: int, choice: Any) -> int | tuple[float, ...] | None:
    match choice:
        case None | "all":
            return None
        case "last":
            return count - 1
        case int() | np.integer() if not isinstance(choice, bool):
            return int(choice) + count if -count <= choice < 0 else int(choice)
        case Mapping() if {*choice} == {"weights", "gamma"}:
            shares = np.asarray(softmax_weights(choice)) * np.float32(choice["gamma"])  # type: ignore[arg-type]
            return tuple(map(float, shares))
    raise ConfigError("layers", f'of a member must be None, "all", "last", a number or a mix, got {choice!r}')


def _compute(encoders: Sequence[Encoder]) -> Compute:
    """The precision of the members, but of those without matrix products."""
    computing = [each.model.compute for each in encoders if each.model.flops_per_token(1)]
    return _agreed("compute", computing or [encoders[0].model.compute])


def _agreed(name: str, values: Sequence[Any]) -> Any:
    if len({*values}) > 1:
        how = "set it by processor.with_pieces" if name == "pieces" else f"give {name}= to stack"
        raise InputError(f"the members of a stack must have one {name}, these have {', '.join(values)}: {how}")
    return values[0]


def _widths(encoders: Sequence[Encoder]) -> str:
    return ", ".join(str(each.model.width) for each in encoders)


def _fitted(
    member: Member, encoder: Encoder, sentences: list[Sentence], width: int, rule: Rule, compute: Compute
) -> dict[str, np.ndarray]:
    """The projection of one member to its principal components."""
    alone = Stack((member,), compute=compute)
    inputs = alone.inputs_of([encoder.processor], rule)
    vectors = Encoder(alone, {member_name(0): encoder.params}, inputs).encode(sentences, share=False)  # [L, T, I]
    kernel, bias = principal_components(vectors, width)
    return {"kernel": kernel, "bias": bias}
