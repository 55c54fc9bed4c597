"""Hugging Face's name of each parameter: one table per architecture, used for reading and for writing.

Paths are those of the encoder's parameters; a head's start with its name ("masked_lm/dense/kernel"). `{l}` stands for
the layer's number. An entry whose parameters a model lacks (a bias, the first norm of ModernBERT) is not expected in
its file, so the tables need no variants. Linear weights are [out, in] in the files, except GPT's Conv1D, which is
[in, out] like ours. A tensor that holds several parameters has them concatenated along the out axis.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

Architecture = Literal[
    "bert",
    "roberta",
    "xlm-roberta",
    "camembert",
    "electra",
    "distilbert",
    "modernbert",
    "gpt2",
    "openai-gpt",
]


class Entry(NamedTuple):
    """One tensor of a file: its name there, the parameters it holds, and whether it is transposed."""

    name: str
    paths: tuple[str, ...]
    transposed: bool = False


class LabelHead(NamedTuple):
    """A head of labels, recognised by its tensors: a linear layer, or one after a dense layer, its activation and,
    perhaps, a norm, which then have biases where the config says so."""

    head: str  # name in `encoder.heads`
    out: str  # the linear layer's module in the file
    bias: bool = True
    dense: str = ""  # the module of the dense layer before it, of `ClassificationHead`
    norm: str = ""  # the module of the norm between the two; the config then says the activation
    activation: Literal["tanh", "relu", "gelu"] = "tanh"

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
            return _dense(self.out, self.head)
        norm = _norm(self.norm, f"{self.head}/norm") if self.norm else ()
        return (*_dense(self.dense, f"{self.head}/dense"), *norm, *_dense(self.out, f"{self.head}/out"))


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
    ignored: str = r"embeddings\.(position|token_type)_ids"  # regular expression of buffers that old files hold

    @property
    def above(self) -> tuple[Entry, ...]:
        """The tensors of all heads."""
        return self.heads + tuple(entry for form in self.labels for entry in form.entries)


def _dense(name: str, *paths: str, transposed: bool = True) -> tuple[Entry, ...]:
    return (
        Entry(f"{name}.weight", tuple(f"{path}/kernel" for path in paths), transposed),
        Entry(f"{name}.bias", tuple(f"{path}/bias" for path in paths)),
    )


def _norm(name: str, path: str) -> tuple[Entry, ...]:
    return (Entry(f"{name}.weight", (f"{path}/scale",)), Entry(f"{name}.bias", (f"{path}/bias",)))


DENSE = "+dense"
"""Follows the name of a `ClassificationHead` in `Names.classes`: "classifier+dense"."""
TOKENS = "tokens"
"""Stands beside the heads in `Names.classes` where two classes have the same: that of labels of tokens."""


def _classes(start: str, *sequence: str) -> dict[frozenset[str], str]:
    """The classes whose names begin with `start`, such as "Bert"; `sequence` are the heads that classify sequences."""
    return {
        frozenset(): f"{start}Model",
        frozenset({"pooler"}): f"{start}Model",
        frozenset({"masked_lm"}): f"{start}ForMaskedLM",
        frozenset({"classifier"}): f"{start}ForTokenClassification",
        frozenset({"qa_outputs"}): f"{start}ForQuestionAnswering",
        frozenset(sequence or {f"classifier{DENSE}"}): f"{start}ForSequenceClassification",
    }


_LINEAR = (LabelHead("classifier", "classifier"), LabelHead("qa_outputs", "qa_outputs"))
_DENSE = LabelHead("classifier", "classifier.out_proj", dense="classifier.dense")
_EMBEDDINGS = (
    Entry("embeddings.word_embeddings.weight", ("embeddings/tokens",)),
    Entry("embeddings.position_embeddings.weight", ("embeddings/positions",)),
    Entry("embeddings.token_type_embeddings.weight", ("embeddings/types",)),
    *_norm("embeddings.LayerNorm", "embeddings/norm"),
)
_BERT_BODY = (
    *_EMBEDDINGS,
    *_dense("encoder.layer.{l}.attention.self.query", "layer_{l}/query"),
    *_dense("encoder.layer.{l}.attention.self.key", "layer_{l}/key"),
    *_dense("encoder.layer.{l}.attention.self.value", "layer_{l}/value"),
    *_dense("encoder.layer.{l}.attention.output.dense", "layer_{l}/output"),
    *_norm("encoder.layer.{l}.attention.output.LayerNorm", "layer_{l}/attention_norm"),
    *_dense("encoder.layer.{l}.intermediate.dense", "layer_{l}/up"),
    *_dense("encoder.layer.{l}.output.dense", "layer_{l}/down"),
    *_norm("encoder.layer.{l}.output.LayerNorm", "layer_{l}/feed_forward_norm"),
    *_dense("pooler.dense", "pooler"),
)
_BERT = Names(
    prefix="bert.",
    body=_BERT_BODY,
    heads=(
        *_dense("cls.predictions.transform.dense", "masked_lm/dense"),
        *_norm("cls.predictions.transform.LayerNorm", "masked_lm/norm"),
        Entry("cls.predictions.decoder.weight", ("masked_lm/decoder/matrix",)),
        Entry("cls.predictions.bias", ("masked_lm/decoder/bias",)),
        *_dense("cls.seq_relationship", "next_sentence"),
    ),
    head_prefixes={
        "masked_lm": ("cls.predictions.",),
        "pooler": ("pooler.",),
        "next_sentence": ("cls.seq_relationship.",),
    },
    tied_copy="cls.predictions.decoder.weight",
    bias_copy=("cls.predictions.bias", "cls.predictions.decoder.bias"),
    labels=_LINEAR,
    classes={
        **_classes("Bert", "pooler", "classifier"),
        frozenset({"masked_lm", "pooler", "next_sentence"}): "BertForPreTraining",
        frozenset({"pooler", "next_sentence"}): "BertForNextSentencePrediction",
    },
)
_ROBERTA = Names(
    prefix="roberta.",
    body=_BERT_BODY,
    heads=(
        *_dense("lm_head.dense", "masked_lm/dense"),
        *_norm("lm_head.layer_norm", "masked_lm/norm"),
        Entry("lm_head.decoder.weight", ("masked_lm/decoder/matrix",)),
        Entry("lm_head.bias", ("masked_lm/decoder/bias",)),
    ),
    head_prefixes={"masked_lm": ("lm_head.",), "pooler": ("pooler.",)},
    tied_copy="lm_head.decoder.weight",
    bias_copy=("lm_head.bias", "lm_head.decoder.bias"),
    labels=(*_LINEAR, _DENSE),
    classes=_classes("Roberta"),
)
_ELECTRA = _ROBERTA._replace(
    prefix="electra.",
    body=tuple(entry for entry in _BERT_BODY if not entry.name.startswith("pooler")),
    heads=(
        *_dense("generator_predictions.dense", "masked_lm/dense"),
        *_norm("generator_predictions.LayerNorm", "masked_lm/norm"),
        Entry("generator_lm_head.weight", ("masked_lm/decoder/matrix",)),
        Entry("generator_lm_head.bias", ("masked_lm/decoder/bias",)),
    ),
    head_prefixes={"masked_lm": ("generator_",)},
    tied_copy="generator_lm_head.weight",
    bias_copy=None,
    labels=(*_LINEAR, _DENSE._replace(activation="gelu")),
    classes=_classes("Electra"),
)
_DISTILBERT = Names(
    prefix="distilbert.",
    body=(
        *_EMBEDDINGS,
        *_dense("transformer.layer.{l}.attention.q_lin", "layer_{l}/query"),
        *_dense("transformer.layer.{l}.attention.k_lin", "layer_{l}/key"),
        *_dense("transformer.layer.{l}.attention.v_lin", "layer_{l}/value"),
        *_dense("transformer.layer.{l}.attention.out_lin", "layer_{l}/output"),
        *_norm("transformer.layer.{l}.sa_layer_norm", "layer_{l}/attention_norm"),
        *_dense("transformer.layer.{l}.ffn.lin1", "layer_{l}/up"),
        *_dense("transformer.layer.{l}.ffn.lin2", "layer_{l}/down"),
        *_norm("transformer.layer.{l}.output_layer_norm", "layer_{l}/feed_forward_norm"),
    ),
    heads=(
        *_dense("vocab_transform", "masked_lm/dense"),
        *_norm("vocab_layer_norm", "masked_lm/norm"),
        Entry("vocab_projector.weight", ("masked_lm/decoder/matrix",)),
        Entry("vocab_projector.bias", ("masked_lm/decoder/bias",)),
    ),
    head_prefixes={"masked_lm": ("vocab_",)},
    tied_copy="vocab_projector.weight",
    labels=(LabelHead("classifier", "classifier", dense="pre_classifier", activation="relu"), *_LINEAR),
    classes=_classes("DistilBert"),
)
_MODERNBERT = Names(
    prefix="model.",
    body=(
        Entry("embeddings.tok_embeddings.weight", ("embeddings/tokens",)),
        *_norm("embeddings.norm", "embeddings/norm"),
        *_dense("layers.{l}.attn.Wqkv", "layer_{l}/query", "layer_{l}/key", "layer_{l}/value"),
        *_dense("layers.{l}.attn.Wo", "layer_{l}/output"),
        *_norm("layers.{l}.attn_norm", "layer_{l}/attention_norm"),
        *_dense("layers.{l}.mlp.Wi", "layer_{l}/gate", "layer_{l}/up"),
        *_dense("layers.{l}.mlp.Wo", "layer_{l}/down"),
        *_norm("layers.{l}.mlp_norm", "layer_{l}/feed_forward_norm"),
        *_norm("final_norm", "final_norm"),
    ),
    heads=(
        *_dense("head.dense", "masked_lm/dense"),
        *_norm("head.norm", "masked_lm/norm"),
        Entry("decoder.weight", ("masked_lm/decoder/matrix",)),
        Entry("decoder.bias", ("masked_lm/decoder/bias",)),
    ),
    head_prefixes={"masked_lm": ("head.", "decoder.")},
    embedding="embeddings.tok_embeddings.weight",
    tied_copy="decoder.weight",
    ignored=r".*rotary_emb\.inv_freq",
    labels=(LabelHead("classifier", "classifier", dense="head.dense", norm="head.norm"),),
    shared_by_labels=("classifier.", "qa_outputs."),
    classes={
        frozenset(): "ModernBertModel",
        frozenset({"masked_lm"}): "ModernBertForMaskedLM",
        frozenset({f"classifier{DENSE}"}): "ModernBertForSequenceClassification",
        frozenset({f"classifier{DENSE}", TOKENS}): "ModernBertForTokenClassification",
    },
)
_GPT_LAYER = (
    *_dense("h.{l}.attn.c_attn", "layer_{l}/query", "layer_{l}/key", "layer_{l}/value", transposed=False),
    *_dense("h.{l}.attn.c_proj", "layer_{l}/output", transposed=False),
    *_norm("h.{l}.ln_1", "layer_{l}/attention_norm"),
    *_dense("h.{l}.mlp.c_fc", "layer_{l}/up", transposed=False),
    *_dense("h.{l}.mlp.c_proj", "layer_{l}/down", transposed=False),
    *_norm("h.{l}.ln_2", "layer_{l}/feed_forward_norm"),
)
_GPT2 = Names(
    prefix="transformer.",
    body=(
        Entry("wte.weight", ("embeddings/tokens",)),
        Entry("wpe.weight", ("embeddings/positions",)),
        *_GPT_LAYER,
        *_norm("ln_f", "final_norm"),
    ),
    heads=(Entry("lm_head.weight", ("causal_lm/decoder/matrix",)),),
    head_prefixes={"causal_lm": ("lm_head.",)},
    embedding="wte.weight",
    tied_copy="lm_head.weight",
    ignored=r"h\.\d+\.attn\.(masked_)?bias",
    labels=(LabelHead("score", "score", bias=False), *_LINEAR),
    classes={
        frozenset(): "GPT2Model",
        frozenset({"causal_lm"}): "GPT2LMHeadModel",
        frozenset({"score"}): "GPT2ForSequenceClassification",
        frozenset({"classifier"}): "GPT2ForTokenClassification",
        frozenset({"qa_outputs"}): "GPT2ForQuestionAnswering",
    },
)
_GPT = _GPT2._replace(
    body=(
        Entry("tokens_embed.weight", ("embeddings/tokens",)),
        Entry("positions_embed.weight", ("embeddings/positions",)),
        *_GPT_LAYER,
    ),
    embedding="tokens_embed.weight",
    ignored=r"h\.\d+\.attn\.bias|position_ids",
    labels=(LabelHead("score", "score", bias=False),),
    classes={
        frozenset(): "OpenAIGPTModel",
        frozenset({"causal_lm"}): "OpenAIGPTLMHeadModel",
        frozenset({"score"}): "OpenAIGPTForSequenceClassification",
    },
)


NAMES: Mapping[Architecture, Names] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA._replace(classes=_classes("XLMRoberta")),
    "camembert": _ROBERTA._replace(classes=_classes("Camembert")),
    "electra": _ELECTRA,
    "distilbert": _DISTILBERT,
    "modernbert": _MODERNBERT,
    "gpt2": _GPT2,
    "openai-gpt": _GPT,
}


def canonical(names: Names, name: str) -> str:
    """A tensor's name without its prefix, old norm names replaced.

    bert.embeddings.LayerNorm.gamma -> embeddings.LayerNorm.weight
    """
    name = name.removeprefix(names.prefix)
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def expand(entries: tuple[Entry, ...], depth: int, present: set[str]) -> list[Entry]:
    """The entries for `depth` layers, `{l}` filled in; those with a parameter that is not `present` are left out."""
    result = []
    for entry in entries:
        for layer in range(depth) if "{l}" in entry.name else range(1):
            paths = tuple(path.format(l=layer) for path in entry.paths)
            if all(path in present for path in paths):
                result.append(Entry(entry.name.format(l=layer), paths, entry.transposed))
    return result
