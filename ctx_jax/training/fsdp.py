"""Parameters of which each device holds a part, and gathers an array where the model takes it out.

Letters: n devices.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax import lax


def divided_axis(shape: tuple[int, ...], count: int) -> int | None:
    """The axis along which n = `count` devices share an array: its largest that n divides, the first of equals.

    (30522, 1024) over 8: axis 1, over 2: axis 0. None, whole on every device, where n divides no axis, and for vectors
    and scalars: they are small, and a gathering costs its latency.
    """
    axes = [axis for axis, size in enumerate(shape) if size % count == 0]
    return max(axes, key=lambda axis: shape[axis], default=None) if len(shape) > 1 else None


@jax.tree_util.register_pytree_with_keys_class
class Divided(Mapping[str, Any]):
    """A nested dict of a device's parts, under a mapped axis of devices: what is taken out of it is whole.

    divided["layer_0"]["up"]["kernel"]   [I, O], gathered here; the leaf is the part, [I, O / n] say

    So a model gathers a layer at a time, where it uses it (scanned: within the loop; with `remat`: once more in the
    backward pass), and the gradient, a tree of parts like this one, is added up over the devices as it comes: the
    transpose of a gathering scatters what it sums.
    """

    def __init__(self, parts: Mapping[str, Any], axes: Mapping[str, int | None], over: str) -> None:
        self.parts, self.axes, self.over = parts, axes, over

    @classmethod
    def of(cls, parts: Mapping[str, Any], specs: Mapping[str, Any], over: str) -> "Divided":
        """Of nested dicts of parts and of their PartitionSpecs over the mapped axis `over`."""
        inner = {name: cls.of(part, specs[name], over) for name, part in parts.items() if isinstance(part, Mapping)}
        axes = {name: None if name in inner else _place(over, specs[name]) for name in parts}
        return cls({**parts, **inner}, axes, over)

    def __getitem__(self, name: str) -> Any:
        part, axis = self.parts[name], self.axes[name]
        return part if axis is None else lax.all_gather(part, self.over, axis=axis, tiled=True)

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    def plain(self) -> dict[str, Any]:
        """The parts as a nested dict."""
        return {name: part.plain() if isinstance(part, Divided) else part for name, part in self.parts.items()}

    def summed(self) -> "Divided":
        """Of a gradient with respect to such a tree: the sum over the devices. That of a part is one already."""

        def one(name: str, part: Any) -> Any:
            if isinstance(part, Divided):
                return part.summed()
            return lax.psum(part, self.over) if self.axes[name] is None else part

        return Divided({name: one(name, part) for name, part in self.parts.items()}, self.axes, self.over)

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        """Its parts are the leaves, named as a dict's."""
        names = sorted(self.parts)
        parts = [(jax.tree_util.DictKey(name), self.parts[name]) for name in names]
        return parts, (tuple((name, self.axes[name]) for name in names), self.over)

    @classmethod
    def tree_unflatten(cls, form: tuple[Any, ...], parts: Any) -> "Divided":
        """The same form around other leaves."""
        axes, over = form
        return cls({name: part for (name, _), part in zip(axes, parts, strict=True)}, dict(axes), over)


def _place(over: str, spec: Any) -> int | None:
    return tuple(spec).index(over) if over in tuple(spec) else None
