"""The model card of an exported folder, README.md with the Hub's front matter."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctx_jax.data.config import TextConfig
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.tasks.pairs import PairsConfig
from ctx_jax.training.task import TaskConfig

CARD = "README.md"
_LIBRARIES = {"huggingface": "transformers", "sentence-transformers": "sentence-transformers", "allennlp": "allennlp"}
_LANGUAGE_MODELS = {"masked_lm": "fill-mask", "causal_lm": "text-generation"}


@dataclass(frozen=True)
class CardOptions:
    """What the card says that the run does not know."""

    language: tuple[str, ...] = ()
    """Languages of the model, as ISO 639 codes: en, de ..."""

    license: str = ""
    """The licence, by its name on the Hub: apache-2.0, cc-by-4.0 ..."""


def model_card(
    name: str,
    encoder: Encoder,
    form: str,
    task: TaskConfig | None,
    options: CardOptions,
    *,
    on_hub: bool,
    class_name: str,
) -> str:
    """The text of the card of a folder in the format `form`. `name` is its name, on the Hub or here; `task` that of the
    run, if the encoder is a run's; `class_name` transformers' class of the folder."""
    model, matter = encoder.model, dict[str, Any]()
    if form in _LIBRARIES:
        matter["library_name"] = _LIBRARIES[form]
    if (tag := _pipeline_tag(encoder, form)) is not None:
        matter["pipeline_tag"] = tag
    if options.language:
        matter["language"] = [*options.language]
    if options.license:
        matter["license"] = options.license
    # YAML holds JSON's values.
    front = "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in matter.items())
    kind = type(model).__name__ if not encoder.architecture else f"{type(model).__name__} ({encoder.architecture})"
    text = f"# {name}\n\n{kind} with {model.num_layers} layers of width {model.width}, layer 0 included"
    text += f"; heads: {', '.join(encoder.heads)}.\n" if encoder.heads and form == "huggingface" else ".\n"
    if encoder.labelling is not None and form == "huggingface":
        head = next(head for key, head in encoder.heads.items() if key in ("classifier", "score"))
        text += f"\nLabels: {', '.join(head.module.labels)}.\n"
    if task is not None:
        text += f"\n## Training\n\n{_training(task)}"
    use = _use(name, f"hf://{name}" if on_hub else name, encoder, form, class_name, pairs=isinstance(task, PairsConfig))
    return f"---\n{front}---\n\n{text}\n## Use\n\n{use}"


def _pipeline_tag(encoder: Encoder, form: str) -> str | None:
    if form == "sentence-transformers":
        return "sentence-similarity"
    if form != "huggingface":
        return "feature-extraction"
    if encoder.labelling is not None:
        return "token-classification" if encoder.labelling.pooling is None else "text-classification"
    return next((tag for head, tag in _LANGUAGE_MODELS.items() if head in encoder.heads), "feature-extraction")


def _training(task: Any) -> str:
    """The task, where its encoder came from, and the texts that it names; of absolute paths the last part."""
    data = getattr(task, "data", None)
    texts = data.language_texts() if isinstance(data, TextConfig) else {}
    named = {"Started from": getattr(task, "encoder", "") or getattr(task, "init", "")}
    for name, one in texts.items() or [("", data)]:
        language = f" ({name})" if name else ""
        named[f"Training data{language}"] = getattr(one, "train", "")
        named[f"Validation data{language}"] = getattr(one, "valid", "")
    lines = [f"Trained with ctx_jax, task `{task.name}`.\n\n"]
    for what, value in named.items():
        if isinstance(value, str) and value:
            paths = filter(None, map(str.strip, value.split(",")))  # files and globs
            lines.append(f"- {what}: {', '.join(f'`{_without_folder(path)}`' for path in paths)}\n")
    return "".join(lines)


def _without_folder(path: str) -> str:
    """The last part of a path that says where somebody's files are."""
    return Path(path).name if path.startswith("~") or ".." in Path(path).parts or Path(path).is_absolute() else path


def _use(name: str, path: str, encoder: Encoder, form: str, kind: str, *, pairs: bool) -> str:
    lines = ["import ctx_jax", "", f'encoder = ctx_jax.load("{path}")', 'encoder.encode(["a text of some words"])']
    if form == "huggingface" and encoder.labelling is not None:
        item = '["A", "text"]' if encoder.labelling.pooling is None else '"a text"'
        if pairs:
            lines += [f'ctx_jax.tasks.load("{path}", pairs=True).predict([("a text", "another")])']
        else:
            lines += [f'ctx_jax.tasks.load("{path}").predict([{item}])']
    theirs: list[str] = []
    if form == "huggingface":
        theirs = [f"from transformers import {kind}, AutoTokenizer", ""]
        theirs += [f'model = {kind}.from_pretrained("{name}")', f'tokenizer = AutoTokenizer.from_pretrained("{name}")']
    elif form == "sentence-transformers":
        theirs = ["from sentence_transformers import SentenceTransformer", ""]
        theirs += [f'SentenceTransformer("{name}").encode(["a text"])']
    blocks = ["\n".join(block) for block in (lines, theirs) if block]
    return "\n\n".join(f"```python\n{block}\n```" for block in blocks) + "\n"
