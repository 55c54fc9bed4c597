"""What an encoder keeps between calls of `encode`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax

from ctx_jax.encoders.base import CachesWords, InputProcessor, Model
from ctx_jax.typing import Params


@dataclass
class EncodeState:
    """The shapes of batches, and what is made of the parameters: anew if one of their arrays is another one."""

    shapes: set[tuple[int, int]] = field(default_factory=set)
    """(rows, length) of the batches so far."""
    _made: dict[str, tuple[list[Any], Any]] = field(default_factory=dict)

    def processor(self, model: Model, params: Params, processor: InputProcessor) -> InputProcessor:
        """`processor`, with a cache of words where the model has one."""
        if not isinstance(model, CachesWords):
            return processor
        made: InputProcessor = self._once("words", params, lambda: model.with_word_cache(params, processor))
        return made

    def placed(self, params: Params, devices: Sequence[jax.Device]) -> Params:
        """The parameters on the first device, copied once."""
        placed: Params = self._once(f"{devices[0]}", params, lambda: jax.device_put(params, devices[0]))
        return placed

    def _once(self, name: str, params: Params, make: Callable[[], Any]) -> Any:
        leaves = jax.tree.leaves(params)
        before, made = self._made.get(name, ([], None))
        if len(before) != len(leaves) or any(old is not new for old, new in zip(before, leaves, strict=True)):
            made = make()
            self._made[name] = leaves, made
        return made
