"""Encoders: one folder a family.

`FAMILIES` names them; a family is added there and nowhere else outside its folder.
"""

from ctx_jax.encoders import elmo, stack, static, transformer
from ctx_jax.encoders.base import Family

FAMILIES: tuple[Family, ...] = (elmo.FAMILY, transformer.FAMILY, static.FAMILY, stack.FAMILY)
"""The families of the package, in the order in which a folder is offered to them."""
