"""Contextual word embeddings in JAX: train them, load them, mix their layers.

`import ctx_jax` imports this file alone; the first use of one of its names imports jax and what the names need.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctx_jax import tasks as tasks
    from ctx_jax.api import *  # noqa: F403
else:  # hidden from type checkers, which would take any name for one of the module's

    def __getattr__(name: str) -> Any:
        """`tasks`, which brings Orbax and the command line's packages, or a name of `ctx_jax.api`."""
        if name == "tasks":
            import ctx_jax.tasks as tasks

            return tasks
        if not name.startswith("__"):  # else it is what Python and its tools ask of any module
            import ctx_jax.api as api

            if name in api.__all__:
                return getattr(api, name)
        raise AttributeError(f"module 'ctx_jax' has no attribute {name!r}")

    def __dir__() -> list[str]:
        import ctx_jax.api as api

        return sorted({*globals(), *api.__all__, "tasks"})


try:
    __version__ = version("ctx-jax")
except PackageNotFoundError:  # a copy of the folder on the path, which nobody installed
    __version__ = "0+unknown"
