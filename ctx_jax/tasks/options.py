"""The options of `ctx-jax evaluate` as tasks read them: the text and how to measure it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ctx_jax.data.config import TextConfig
from ctx_jax.data.corpora import Source, TextFiles, resolve
from ctx_jax.data.text_files import Errors
from ctx_jax.evaluation.perplexity import ProtocolName
from ctx_jax.io.errors import ConfigError, InputError


@dataclass(frozen=True)
class EvaluateOptions:
    """A text, and how to measure it. A task refuses the options that it does not use (`refuse_options`)."""

    texts: tuple[str, ...]
    protocol: ProtocolName = "sentence"
    batch: int = 0
    per_sentence: Path | None = None
    pseudo_perplexity: bool = False
    errors: Errors | None = None
    log: Callable[[str], None] = print

    def sources(self, data: TextConfig) -> list[Source]:
        """The texts, split into words by the run's rule; InputError if one is named twice."""
        sources = [
            resolve(spec, "valid", rule=data.word_rule, sentences=data.sentences, errors=self.errors or data.errors)
            for spec in self.texts
        ]
        names = [
            str(name)
            for source in sources
            for name in (source.files if isinstance(source, TextFiles) else [source.name])
        ]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"named twice: {', '.join(twice)}; name each text once")
        return sources


def refuse_options(options: Any, names: Iterable[str], what: str, *, prefix: str = "") -> None:
    """ConfigError for the first of the fields `names` of a dataclass that is set; `what` has no use for them. `prefix`
    is what stands before them in the setting's dotted name."""
    defaults = {field.name: field.default for field in fields(options)}
    for name in names:
        if getattr(options, name) != defaults[name]:
            raise ConfigError(f"{prefix}{name}", f"means nothing to {what}: leave it out")
