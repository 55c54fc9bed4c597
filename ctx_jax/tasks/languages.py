"""The texts of a language model's run in one language or several: reading them, how much is read of each, and metrics
by language."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from ctx_jax.data.cache import Sentences, load_sentences
from ctx_jax.data.config import Split, TextConfig
from ctx_jax.data.languages import LanguageSentences, LanguageTokens
from ctx_jax.data.tokens import Tokens
from ctx_jax.evaluation.perplexity import exp_or_inf
from ctx_jax.tasks.setup import check_digests, naming_setting, read_texts
from ctx_jax.training.task import TaskContext
from ctx_jax.typing import Log

Text = TypeVar("Text", Sentences, Tokens)


def open_texts(data: TextConfig, context: TaskContext) -> tuple[Sentences | LanguageSentences, dict[str, Sentences]]:
    """The cached training text, or texts of `data.languages`, and the validation texts there are: {language: text}, of
    one text {"": text}.

    Raises ConfigError that names the language for a text that is missing, holds no word or is damaged, or is not the
    one that a resumed run was started with.
    """
    if not data.languages:
        one, valid = read_texts(data, context)
        return one, {} if valid is None else {"": valid}
    context.run_dir.mkdir(parents=True, exist_ok=True)
    found: dict[Split, dict[str, Sentences]] = {"train": {}, "valid": {}}
    fields = {"train": "languages", "valid": "valid_languages"}
    for split, texts in found.items():
        for name, own in data.language_texts().items():
            path = own.train if split == "train" else own.valid
            with naming_setting(f"data.{fields[split]}", f"{name}={path}"):
                text = load_sentences(own, split, context.run_dir / "cache", log=context.log)
            if text is not None:
                texts[name] = text
    check_digests(
        context,
        {f"data.{fields[split]}.{name}": text.digest for split, texts in found.items() for name, text in texts.items()},
    )
    return LanguageSentences(found["train"], data.exponent), found["valid"]


def cut_texts(text: Sentences | LanguageSentences, tokens: Callable[[Sentences], Tokens]) -> Tokens | LanguageTokens:
    """The training text, or each language's, cut into tokens by `tokens`."""
    if isinstance(text, Sentences):
        return tokens(text)
    return LanguageTokens({name: tokens(one) for name, one in text.texts.items()}, text.exponent)


def without_name(texts: Mapping[str, Text]) -> Text | Mapping[str, Text] | None:
    """The text itself if there is one without a language's name; None if there is no text."""
    return texts.get("", texts or None)


def shares_of_run(tokens: Tokens | LanguageTokens, epochs: np.ndarray) -> dict[str, float]:
    """{"share_de": of the rows, "tokens_de": of the text, "epochs_de": how often the run reads it (float [L]), ...};
    empty for one text."""
    numbers: dict[str, float] = {}
    if isinstance(tokens, Tokens):
        return numbers
    for (name, text), share, times in zip(tokens.texts.items(), tokens.shares.tolist(), epochs.tolist(), strict=True):
        numbers |= {f"share_{name}": share, f"tokens_{name}": float(len(text.ids)), f"epochs_{name}": times}
    return numbers


def log_shares(tokens: Tokens | LanguageTokens, numbers: Mapping[str, float], log: Log) -> None:
    """The numbers of `shares_of_run` as aligned lines; nothing for one text."""
    if isinstance(tokens, Tokens):
        return
    width = max(len("language"), *map(len, tokens.texts))
    lines = [f"{'language':{width}}  {'tokens':>15}  {'share':>7}  {'epochs':>8}  (exponent {tokens.exponent:g})"]
    for name in tokens.texts:
        count, share, epochs = (numbers[f"{kind}_{name}"] for kind in ("tokens", "share", "epochs"))
        lines.append(f"{name:{width}}  {count:>15,.0f}  {share:>7.2%}  {epochs:>8.2f}")
    log("\n".join(lines))


def metrics_by_language(
    texts: Tokens | Mapping[str, Tokens], measure: Callable[[Tokens], dict[str, float]], log: Log
) -> dict[str, float]:
    """Of one text its metrics. Of several languages the metrics of each with the language behind the name ("loss_de"),
    and before them their means over the languages, each counted alike ("loss"); of perplexities the geometric mean."""
    if isinstance(texts, Tokens):
        return measure(texts)
    measured: dict[str, dict[str, float]] = {}
    for name, text in texts.items():
        measured[name] = measure(text)
        log(f"  {name}  " + "  ".join(f"{metric} {value:,.4f}" for metric, value in measured[name].items()))
    metrics = list(next(iter(measured.values())))
    means = {metric: float(np.mean([one[metric] for one in measured.values()])) for metric in metrics}
    if "perplexity" in means:
        means["perplexity"] = exp_or_inf(float(np.mean(np.log([one["perplexity"] for one in measured.values()]))))
    return means | {f"{metric}_{name}": one[metric] for name, one in measured.items() for metric in metrics}
