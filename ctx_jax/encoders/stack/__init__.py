"""Stacks: several encoders as one, their vectors side by side or added."""

from ctx_jax.encoders.base import Family
from ctx_jax.encoders.stack.files import facts
from ctx_jax.encoders.stack.inputs import StackInputs
from ctx_jax.encoders.stack.model import Member, Stack

__all__ = ["FAMILY", "Member", "Stack", "StackInputs"]

# `embedding.load` reads the folder of a stack, since it loads the members, which may be runs.
FAMILY = Family(Stack, "stack.json (a stack of encoders)", lambda path: None, facts=facts)
