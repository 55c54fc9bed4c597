"""What `ctx-jax evaluate` says of a Transformer's run."""

from collections.abc import Callable

from ctx_jax.data.cache import build_cache
from ctx_jax.data.corpora import Source
from ctx_jax.data.progress import Pace
from ctx_jax.data.tokens import cache_tokens
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.embedding.reading import SubwordReader
from ctx_jax.evaluation.held_out import held_out_metrics
from ctx_jax.evaluation.masked import pseudo_perplexity
from ctx_jax.files.temporary import temporary_folder
from ctx_jax.models.transformer import Transformer
from ctx_jax.training.config import TrainConfig


def table(
    config: TrainConfig, encoder: Encoder, text: Source, title: str, pseudo: bool, report: Callable[[str], None]
) -> str:
    """The means over the fixed mask of the run's own sequences as aligned lines, and the pseudo-perplexity.

    The text is indexed and cut into tokens among the system's temporary files, as training does in the run's directory:
    memory does not grow with it, unless those lie in memory (TMPDIR says where they lie). `report` hears how far it is.
    Raises ValueError for text without words, and what cutting it into sequences raises.
    """
    model, reader = encoder.model, encoder.reader
    assert isinstance(model, Transformer) and isinstance(reader, SubwordReader) and config.sequences is not None
    with temporary_folder("evaluate") as folder:
        sentences = build_cache(text, folder, report=report)
        tokens = cache_tokens(sentences, reader.subwords, folder, report=report)
        found = held_out_metrics(model, encoder.params, tokens, reader.subwords, config.sequences, report)
        rows = [(name.replace("_", " "), f"{value:,.4f}") for name, value in found.items()]
        if pseudo:
            pace = Pace("pseudo-perplexity", "sentences", report, len(sentences))
            result = pseudo_perplexity(model, encoder.params, reader.subwords, sentences, advance=pace.add)
            rows += [("pseudo-perplexity", f"{result.perplexity:,.4f}"), ("of tokens", f"{result.tokens:,}")]
    return "\n".join([title, *(f"  {name:<28}{value:>14}" for name, value in rows)])
