"""What encoders and their files say of themselves, as JSON, for people who ask what a folder is."""

from collections import Counter
from collections.abc import Callable, Mapping
from math import prod
from typing import Any, Protocol, runtime_checkable

Facts = Mapping[str, Callable[[], Any]]
"""What the files of an encoder say by themselves, as JSON by name. Each fact is found out when it is called, so that
damage to one file hides no fact about another. Some names have a meaning for whoever asks: "model" is the model itself,
no JSON; "tokenizer" an object; "files" the names, in the folder, of the files of tensors, tokenizer and config."""


@runtime_checkable
class Described(Protocol):
    """What an input processor may offer besides `encoders.base.InputProcessor`."""

    def describe(self) -> dict[str, Any]:
        """What it is, as JSON: "kind", "tokens" (how many it tells apart), "special_tokens" ({role: {"token": ...,
        "id": ...}}), and its settings."""


def tensor_facts(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, Any]:
    """How many tensors there are, how many numbers they hold, and of which types, from types and shapes by name.

    >>> tensor_facts({"a": ("F32", (2, 3)), "b": ("F16", (4,))})
    {'count': 2, 'numbers': 10, 'types': {'F32': 6, 'F16': 4}}
    """
    types: Counter[str] = Counter()
    for dtype, shape in tensors.values():
        types[dtype] += prod(shape)
    return {"count": len(tensors), "numbers": types.total(), "types": dict(types)}
