"""Hugging Face's name of each parameter: one table per architecture, used for reading and for writing.

Paths are those of the encoder's parameters; a head's start with its name ("masked_lm/dense/kernel"). `{l}` stands for
the layer's number. An entry whose parameters a model lacks (a bias, the first norm of ModernBERT) is not expected in
its file, so the tables need no variants. Linear weights are [out, in] in the files, except GPT's Conv1D, which is
[in, out] like ours. A tensor that holds several parameters has them concatenated along the out axis.
"""

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

Architecture = str
"""`model_type` of a config.json, such as "bert"."""


class Entry(NamedTuple):
    """One tensor of a file: its name there, the parameters it holds, and how it holds them."""

    name: str
    paths: tuple[str, ...]
    transposed: bool = False
    less_one: bool = False  # the tensor is the parameter minus 1
    given: str = ""  # a parameter with which alone the file has this tensor
    unless: str = ""  # and one without which


class LabelHead(NamedTuple):
    """A head of labels, recognised by its tensors: a linear layer, or one after a dense layer, its activation and,
    perhaps, a norm, which then have biases where the config says so."""

    head: str  # name in `encoder.heads`
    out: str  # the linear layer's module in the file
    bias: bool = True
    dense: str = ""  # the module of the dense layer before it, of `ClassificationHead`
    norm: str = ""  # the module of the norm between the two; the config then says the activation
    activation: Literal["tanh", "relu", "gelu"] | None = "tanh"  # None: the model's

    @property
    def tensors(self) -> frozenset[str]:
        """The names of its tensors."""
        return frozenset(
            entry.name for entry in self.entries if self.bias or not entry.name.startswith(f"{self.out}.bias")
        )

    @property
    def optional(self) -> frozenset[str]:
        """Those of them that a config may do without."""
        return frozenset({f"{self.dense}.bias", f"{self.norm}.bias"}) if self.norm else frozenset()

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Its tensors and their parameters."""
        if not self.dense:
            return dense(self.out, self.head)
        inner = norm(self.norm, f"{self.head}/norm") if self.norm else ()
        return (*dense(self.dense, f"{self.head}/dense"), *inner, *dense(self.out, f"{self.head}/out"))


class Names(NamedTuple):
    """The tensors of one architecture."""

    prefix: str  # of the body's names in files with heads
    body: tuple[Entry, ...]
    heads: tuple[Entry, ...]
    head_prefixes: Mapping[str, tuple[str, ...]]  # head -> its tensors' names start with one of these
    classes: Mapping[frozenset[str], str]  # heads -> transformers' class with exactly these; DENSE marks some
    labels: tuple[LabelHead, ...]
    tied_copy: str  # the decoder's tensor, which tied files may hold as a copy of `embedding`
    shared_by_labels: tuple[str, ...] = ()  # with tensors that start so, those of "masked_lm" belong to another head
    bias_copy: tuple[str, str] | None = None  # the decoder's bias: (its name in tied files, the name of its copy)
    embedding: str = "embeddings.word_embeddings.weight"
    renamed: tuple[tuple[str, str], ...] = ()  # (regular expression of a name without prefix, the name in `body`)
    old_prefixes: tuple[str, ...] = ()  # others that files may have in the place of `prefix`
    ignored: str = r"embeddings\.(position|token_type)_ids"  # regular expression of buffers that old files hold
    unused: tuple[str, ...] = ()  # tensors that files may hold of parameters that the config switches off

    @property
    def above(self) -> tuple[Entry, ...]:
        """The tensors of all heads."""
        return self.heads + tuple(entry for form in self.labels for entry in form.entries)


def dense(name: str, *paths: str, transposed: bool = True) -> tuple[Entry, ...]:
    return (
        Entry(f"{name}.weight", tuple(f"{path}/kernel" for path in paths), transposed),
        Entry(f"{name}.bias", tuple(f"{path}/bias" for path in paths)),
    )


def norm(name: str, path: str) -> tuple[Entry, ...]:
    return (Entry(f"{name}.weight", (f"{path}/scale",)), Entry(f"{name}.bias", (f"{path}/bias",)))


DENSE = "+dense"
"""Follows the name of a `ClassificationHead` in `Names.classes`: "classifier+dense"."""
TOKENS = "tokens"
"""Stands beside the heads in `Names.classes` where two classes have the same: that of labels of tokens."""


def classes(start: str, *sequence: str) -> dict[frozenset[str], str]:
    """The classes whose names begin with `start`, such as "Bert"; `sequence` are the heads that classify sequences."""
    return {
        frozenset(): f"{start}Model",
        frozenset({"pooler"}): f"{start}Model",
        frozenset({"masked_lm"}): f"{start}ForMaskedLM",
        frozenset({"classifier"}): f"{start}ForTokenClassification",
        frozenset({"qa_outputs"}): f"{start}ForQuestionAnswering",
        frozenset(sequence or {f"classifier{DENSE}"}): f"{start}ForSequenceClassification",
    }


LINEAR = (LabelHead("classifier", "classifier"), LabelHead("qa_outputs", "qa_outputs"))
DENSE_HEAD = LabelHead("classifier", "classifier.out_proj", dense="classifier.dense")
EMBEDDINGS = (
    Entry("embeddings.word_embeddings.weight", ("embeddings/tokens",)),
    Entry("embeddings.position_embeddings.weight", ("embeddings/positions",)),
    Entry("embeddings.token_type_embeddings.weight", ("embeddings/types",)),
    *norm("embeddings.LayerNorm", "embeddings/norm"),
)
BERT_BODY = (
    *EMBEDDINGS,
    *dense("encoder.layer.{l}.attention.self.query", "layer_{l}/query"),
    *dense("encoder.layer.{l}.attention.self.key", "layer_{l}/key"),
    *dense("encoder.layer.{l}.attention.self.value", "layer_{l}/value"),
    *dense("encoder.layer.{l}.attention.output.dense", "layer_{l}/output"),
    *norm("encoder.layer.{l}.attention.output.LayerNorm", "layer_{l}/attention_norm"),
    *dense("encoder.layer.{l}.intermediate.dense", "layer_{l}/up"),
    *dense("encoder.layer.{l}.output.dense", "layer_{l}/down"),
    *norm("encoder.layer.{l}.output.LayerNorm", "layer_{l}/feed_forward_norm"),
    *dense("pooler.dense", "pooler"),
)
BERT = Names(
    prefix="bert.",
    body=BERT_BODY,
    heads=(
        *dense("cls.predictions.transform.dense", "masked_lm/dense"),
        *norm("cls.predictions.transform.LayerNorm", "masked_lm/norm"),
        Entry("cls.predictions.decoder.weight", ("masked_lm/decoder/matrix",)),
        Entry("cls.predictions.bias", ("masked_lm/decoder/bias",)),
        *dense("cls.seq_relationship", "next_sentence"),
    ),
    head_prefixes={
        "masked_lm": ("cls.predictions.",),
        "pooler": ("pooler.",),
        "next_sentence": ("cls.seq_relationship.",),
    },
    tied_copy="cls.predictions.decoder.weight",
    bias_copy=("cls.predictions.bias", "cls.predictions.decoder.bias"),
    labels=LINEAR,
    classes={
        **classes("Bert", "pooler", "classifier"),
        frozenset({"masked_lm", "pooler", "next_sentence"}): "BertForPreTraining",
        frozenset({"pooler", "next_sentence"}): "BertForNextSentencePrediction",
    },
)
ROBERTA = Names(
    prefix="roberta.",
    body=BERT_BODY,
    heads=(
        *dense("lm_head.dense", "masked_lm/dense"),
        *norm("lm_head.layer_norm", "masked_lm/norm"),
        Entry("lm_head.decoder.weight", ("masked_lm/decoder/matrix",)),
        Entry("lm_head.bias", ("masked_lm/decoder/bias",)),
    ),
    head_prefixes={"masked_lm": ("lm_head.",), "pooler": ("pooler.",)},
    tied_copy="lm_head.decoder.weight",
    bias_copy=("lm_head.bias", "lm_head.decoder.bias"),
    labels=(*LINEAR, DENSE_HEAD),
    classes=classes("Roberta"),
)
# Its norms precede what they normalise; the last one has the name of an embedding norm elsewhere.
_XL_NORMS = {
    "encoder.layer.{l}.attention.output.LayerNorm": "encoder.layer.{l}.attention.self_attn_layer_norm",
    "encoder.layer.{l}.output.LayerNorm": "encoder.layer.{l}.LayerNorm",
}
XLM_ROBERTA_XL = ROBERTA._replace(
    body=tuple(
        entry._replace(name=_XL_NORMS.get(module := entry.name.rpartition(".")[0], module) + entry.name[len(module) :])
        for entry in BERT_BODY
        if not entry.name.startswith("embeddings.LayerNorm")
    )
    + norm("encoder.LayerNorm", "final_norm"),
    classes=classes("XLMRobertaXL"),
)
ELECTRA = ROBERTA._replace(
    prefix="electra.",
    body=(
        *(entry for entry in BERT_BODY if not entry.name.startswith("pooler")),
        *dense("embeddings_project", "embeddings/projection"),
    ),
    heads=(
        *dense("generator_predictions.dense", "masked_lm/dense"),
        *norm("generator_predictions.LayerNorm", "masked_lm/norm"),
        Entry("generator_lm_head.weight", ("masked_lm/decoder/matrix",)),
        Entry("generator_lm_head.bias", ("masked_lm/decoder/bias",)),
    ),
    head_prefixes={"masked_lm": ("generator_",)},
    tied_copy="generator_lm_head.weight",
    bias_copy=None,
    labels=(
        *LINEAR,
        DENSE_HEAD._replace(activation="gelu"),
        LabelHead(
            "replaced_token",
            "discriminator_predictions.dense_prediction",
            dense="discriminator_predictions.dense",
            activation=None,
        ),
    ),
    classes={**classes("Electra"), frozenset({f"replaced_token{DENSE}"}): "ElectraForPreTraining"},
)
DISTILBERT = Names(
    prefix="distilbert.",
    body=(
        *EMBEDDINGS,
        *dense("transformer.layer.{l}.attention.q_lin", "layer_{l}/query"),
        *dense("transformer.layer.{l}.attention.k_lin", "layer_{l}/key"),
        *dense("transformer.layer.{l}.attention.v_lin", "layer_{l}/value"),
        *dense("transformer.layer.{l}.attention.out_lin", "layer_{l}/output"),
        *norm("transformer.layer.{l}.sa_layer_norm", "layer_{l}/attention_norm"),
        *dense("transformer.layer.{l}.ffn.lin1", "layer_{l}/up"),
        *dense("transformer.layer.{l}.ffn.lin2", "layer_{l}/down"),
        *norm("transformer.layer.{l}.output_layer_norm", "layer_{l}/feed_forward_norm"),
    ),
    heads=(
        *dense("vocab_transform", "masked_lm/dense"),
        *norm("vocab_layer_norm", "masked_lm/norm"),
        Entry("vocab_projector.weight", ("masked_lm/decoder/matrix",)),
        Entry("vocab_projector.bias", ("masked_lm/decoder/bias",)),
    ),
    head_prefixes={"masked_lm": ("vocab_",)},
    tied_copy="vocab_projector.weight",
    labels=(LabelHead("classifier", "classifier", dense="pre_classifier", activation="relu"), *LINEAR),
    classes=classes("DistilBert"),
)


def canonical(names: Names, name: str) -> str:
    """A tensor's name without its prefix, old norm names replaced.

    bert.embeddings.LayerNorm.gamma -> embeddings.LayerNorm.weight
    """
    for prefix in (names.prefix, *names.old_prefixes):
        name = name.removeprefix(prefix)
    for pattern, new in names.renamed:
        name = re.sub(f"{pattern}$", new, name) if re.match(pattern, name) else name
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def expand(entries: tuple[Entry, ...], depth: int, present: set[str]) -> list[Entry]:
    """The entries for `depth` layers, `{l}` filled in; those with a parameter that is not `present` are left out."""
    result = []
    for entry in entries:
        for layer in range(depth) if "{l}" in entry.name else range(1):
            name, given, unless, *paths = (
                text.format(l=layer) for text in (entry.name, entry.given, entry.unless, *entry.paths)
            )
            if {*paths} <= present and (not given or given in present) and unless not in present:
                result.append(entry._replace(name=name, paths=tuple(paths)))
    return result
