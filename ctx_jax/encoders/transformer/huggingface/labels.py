"""The labels of a Hugging Face folder: their names and what they are of, and the heads that transformers' classes have.

sequences   BERT, ALBERT, NomicBERT, GTE       the pooler and a linear layer          first token
            RoBERTa and its like, MPNet, DeBERTa-v2, ELECTRA, DistilBERT
                                               a dense and a linear layer             first token
            ModernBERT                         dense layer, norm and linear layer     first token or mean
                                                                                      (classifier_pooling)
            GPT-2, GPT, Qwen3, Gemma 3         a linear layer without bias            last token
tokens      ModernBERT                         dense layer, norm and linear layer
            others but GPT and Gemma 3         a linear layer
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from ctx_jax.encoders.transformer.huggingface.layouts import LAYOUTS
from ctx_jax.encoders.transformer.huggingface.names import Architecture
from ctx_jax.encoders.transformer.model import Transformer
from ctx_jax.heads import ClassificationHead, Head, Labelling, Pooler, SequenceHead, VocabularyHead
from ctx_jax.heads.sequence import UNNAMED
from ctx_jax.io.errors import InputError, brief
from ctx_jax.typing import Params

CLASSIFIERS = ("classifier", "score")
"""The names of heads of labels in `encoder.heads`."""

_SEQUENCES, _TOKENS = "ForSequenceClassification", "ForTokenClassification"
_PROBLEMS: Mapping[str, Literal["classes", "several", "number"]] = {
    "single_label_classification": "classes",
    "multi_label_classification": "several",
    "regression": "number",
}
_POOLING: Mapping[str, Literal["first", "mean"]] = {"cls": "first", "mean": "mean"}
_POOLED = ("bert", "albert", "nomic_bert", "gte")  # whose class for texts has the pooler and a linear layer
_LAST = ("gpt2", "openai-gpt", "qwen3", "gemma3_text")  # whose class for texts reads the last token
# The head of each class for texts; one that is not here is neither predicted with nor written.
_DENSE: Mapping[Architecture, ClassificationHead] = {
    **dict.fromkeys(_POOLED, ClassificationHead(activation="tanh")),
    **dict.fromkeys(
        ("roberta", "xlm-roberta", "xlm-roberta-xl", "data2vec-text", "camembert", "mpnet"),
        ClassificationHead(activation="tanh", input_dropout=True),
    ),
    "deberta-v2": ClassificationHead(activation="gelu"),
    "electra": ClassificationHead(activation="gelu", input_dropout=True),
    "distilbert": ClassificationHead(activation="relu"),
}


def has_class(architecture: Architecture, pooling: str | None) -> bool:
    """Whether a class of transformers for labels of texts, or with None of tokens, is read and written."""
    ending = _TOKENS if pooling is None else _SEQUENCES
    return any(name.endswith(ending) for name in LAYOUTS[architecture].names.classes.values())


def classification_head(
    architecture: Architecture,
    model: Transformer,
    labels: Sequence[str],
    pooling: str | None,
    prediction: VocabularyHead | None = None,
) -> SequenceHead | ClassificationHead:
    """The head on the last layer's vectors that transformers' class has for texts pooled this way, or with None for
    tokens; of BERT with its pooler's dense layer. `prediction`: the `VocabularyHead` of the folder, if any, from which
    ModernBERT takes the form of its dense layer.

    Raises InputError where there is no such class, or where it pools otherwise.
    """
    names, reads_last = tuple(labels), architecture in _LAST
    if not has_class(architecture, pooling):
        what = "tokens" if pooling is None else "texts"
        raise InputError(f"no class for labels of {what} of {architecture} is known here")
    form = prediction or VocabularyHead(bias=False, norm_epsilon=model.norm_epsilon, norm_bias=model.norm_bias)
    if pooling is None:
        return modern_head(names, form) if architecture == "modernbert" else SequenceHead(names)
    possible = ("last",) if reads_last else ("first", "mean") if architecture == "modernbert" else ("first",)
    if pooling not in possible:
        raise InputError(f"transformers' class for labels of texts of {architecture} pools {' or '.join(possible)}")
    if reads_last:
        return SequenceHead(names, bias=False)
    if architecture == "modernbert":
        return modern_head(names, form)
    return replace(_DENSE[architecture], labels=names)


def modern_head(labels: tuple[str, ...], prediction: VocabularyHead) -> ClassificationHead:
    """ModernBERT's head of labels, whose layers before the last one are those of its `prediction` head."""
    epsilon, bias = prediction.norm_epsilon, prediction.norm_bias
    return ClassificationHead(labels, prediction.activation, prediction.bias, epsilon, bias)


def prediction_head(head: ClassificationHead) -> VocabularyHead:
    """The `VocabularyHead` with the same layers before the last one; `modern_head` is the inverse."""
    epsilon: Any = head.norm_epsilon
    activation: Any = head.activation
    return VocabularyHead(activation=activation, bias=head.bias, norm_epsilon=epsilon, norm_bias=head.norm_bias)


def named_labels(config: Mapping[str, Any], modules: Mapping[str, Any]) -> dict[str, Any]:
    """The modules of a file's heads, those of `CLASSIFIERS` with the names of id2label in config.json.

    InputError where id2label or num_labels counts other labels than the tensors, or is damaged.
    """
    if _class_of(config).endswith("ForMultipleChoice"):  # one score a choice, whatever num_labels
        return dict(modules)
    return {
        name: replace(module, labels=_names(config, name, len(module.labels))) if name in CLASSIFIERS else module
        for name, module in modules.items()
    }


def _class_of(config: Mapping[str, Any]) -> str:
    """transformers' class that wrote config.json, or ""."""
    named = config.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else ""


def _names(config: Mapping[str, Any], head: str, count: int) -> tuple[str, ...]:
    number = config.get("num_labels", count)
    names = config.get("id2label")
    if names is None:
        names = {str(label): UNNAMED.format(label) for label in range(count)}
    if not isinstance(names, Mapping) or not all(isinstance(name, str) for name in names.values()):
        raise InputError(f"id2label of config.json must be an object of numbers and names, got {brief(names)}")
    for key, held in (("id2label", len(names)), ("num_labels", number)):
        if held is not None and held != count:
            raise InputError(
                f"{key} of config.json counts {brief(held)} labels, the tensors of {head} are for {count}: they do not "
                "belong together"
            )
    if names.keys() != {str(label) for label in range(count)}:
        raise InputError(f"id2label of config.json must name the labels 0 to {count - 1}, got {brief(names)}")
    return tuple(names[str(label)] for label in range(count))


def labelling_of(config: Mapping[str, Any], architecture: Architecture, heads: Mapping[str, Any]) -> Labelling | None:
    """What the head of labels among `heads` (name -> module) predicts; None where there is none, or where its class,
    the entry of `architectures`, is another than its tensors are of.

    Without `architectures` the tensors decide, and ModernBERT's do not tell. A single label without a problem_type is a
    number, as where transformers trains it. InputError for a problem_type or classifier_pooling that is not known.
    """
    name = next((name for name in CLASSIFIERS if name in heads), None)
    if name is None:
        return None
    head = heads[name]
    if architecture == "modernbert":
        of_texts = of_tokens = isinstance(head, ClassificationHead)
    else:
        of_texts = name == "score" or (isinstance(head, ClassificationHead) and architecture in _DENSE)
        of_texts = "pooler" in heads if architecture in _POOLED else of_texts
        of_tokens = name == "classifier" and isinstance(head, SequenceHead)
    kind = _class_of(config)
    if not kind and of_texts != of_tokens:
        kind = _SEQUENCES if of_texts else _TOKENS
    elif not kind and architecture in _POOLED:
        kind = _SEQUENCES  # the class of tokens has no pooler
    if kind.endswith(_TOKENS):
        return Labelling(pooling=None) if of_tokens else None
    if not (kind.endswith(_SEQUENCES) and of_texts):
        return None
    problem = config.get("problem_type")
    if problem is not None and problem not in [*_PROBLEMS]:
        raise InputError(f"problem_type of config.json is {brief(problem)}, must be one of {[*_PROBLEMS]}")
    count = len(head.labels)
    target = _PROBLEMS[problem] if problem is not None else "number" if count == 1 else "classes"
    if target == "number" and count > 1:
        return None  # several numbers
    if architecture != "modernbert":
        return Labelling(target, "last" if name == "score" else "first")
    pooling = config.get("classifier_pooling")
    if pooling not in [*_POOLING]:
        raise InputError(f"classifier_pooling of config.json is {brief(pooling)}, must be one of {[*_POOLING]}")
    return Labelling(target, _POOLING[pooling])


def label_entries(heads: Mapping[str, Head], labelling: Labelling | None) -> dict[str, Any]:
    """The entries of config.json that say what the labels are; transformers takes their number from id2label."""
    head = next((heads[name] for name in (*CLASSIFIERS, "qa_outputs") if name in heads), None)
    if head is None:
        return {}
    names = enumerate(head.module.labels)
    entries: dict[str, Any] = {"id2label": {str(number): name for number, name in names}}
    entries["label2id"] = {name: int(number) for number, name in entries["id2label"].items()}
    if labelling is not None and labelling.pooling is not None:
        problems = {target: problem for problem, target in _PROBLEMS.items()}
        entries["problem_type"] = problems[labelling.target]
        if isinstance(head.module, ClassificationHead) and head.module.norm_epsilon is not None:
            entries["classifier_pooling"] = {ours: theirs for theirs, ours in _POOLING.items()}[labelling.pooling]  # type: ignore[index]
    return entries


def first_values(head: ClassificationHead, architecture: Architecture, heads: Mapping[str, Head]) -> dict[str, Params]:
    """Those of the parameters of a head of `classification_head` that other heads of a folder have: BERT's pooler,
    ModernBERT's prediction head."""
    if head.norm_epsilon is not None and "masked_lm" in heads:
        return {name: heads["masked_lm"].params[name] for name in ("dense", "norm")}
    if architecture in _POOLED and "pooler" in heads:
        return {"dense": heads["pooler"].params}
    return {}


def in_file(head: Head, architecture: Architecture, pooling: str | None) -> dict[str, Head]:
    """A head of `classification_head` under the names that a file's heads have."""
    if architecture in _POOLED and pooling is not None:
        linear = Head(SequenceHead(head.module.labels), head.params["out"])
        return {"pooler": Head(Pooler(), head.params["dense"]), "classifier": linear}
    return {"score" if architecture in _LAST and pooling is not None else "classifier": head}


def from_file(heads: Mapping[str, Head], architecture: Architecture, labelling: Labelling) -> Head:
    """The inverse of `in_file`."""
    head = next(heads[name] for name in CLASSIFIERS if name in heads)
    if architecture not in _POOLED or labelling.pooling is None:
        return head
    module = replace(_DENSE[architecture], labels=head.module.labels)
    return Head(module, {"dense": heads["pooler"].params, "out": head.params})
