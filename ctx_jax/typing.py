"""The types that every room shares."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

Params = Mapping[str, Any]
"""A nested mapping of float32 arrays. A model takes each array out by name where it uses it, since under
`devices.mode="fsdp"` it is gathered there."""

Terms = dict[str, tuple[jax.Array, jax.Array]]
"""A loss: the name of each term -> (sum, weight). Its mean is sum / weight."""

Mask = jax.Array
"""bool, True at what is real."""

Carry = Any
"""State that passes from one batch to the next, a pytree of arrays with rows in front; `()` or None without any."""

Log = Callable[[str], object]
"""Shows a line to the user."""
