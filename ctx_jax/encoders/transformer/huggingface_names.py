"""What Hugging Face calls each parameter: one table an architecture, read in both directions.

`{l}` stands for the layer's number. An entry whose parameters a model lacks (a bias, the first norm of ModernBERT)
is not expected in its file, so the tables need no variants. Linear weights lie in the files as [out, in] but for
GPT's Conv1D, which keeps [in, out] as we do; a tensor of several parameters holds them side by side on the out axis.
"""

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

Architecture = Literal["bert", "roberta", "xlm-roberta", "distilbert", "modernbert", "gpt2", "openai-gpt"]


class Entry(NamedTuple):
    """One tensor of a file: its name there, the parameters it holds, and whether it lies transposed."""

    name: str
    paths: tuple[str, ...]
    transposed: bool = False


class Names(NamedTuple):
    """The tensors of one architecture."""

    prefix: str  # before the body's names in files of task models
    body: tuple[Entry, ...]
    heads: tuple[Entry, ...]
    head_marks: tuple[str, ...]  # a file holding a name that starts so has the vocabulary head
    embedding: str  # the body's tensor to which `tied_copy` is tied
    tied_copy: str
    bias_copy: tuple[str, str] | None  # (the name in tied files, its second name)
    ignored: str  # regular expression of buffers that old files carry
    classes: Mapping[str, str]  # base, head, and where they exist pretraining and next_sentence


def _plain(name: str, path: str) -> tuple[Entry, ...]:
    return (Entry(name, (path,)),)


def _dense(name: str, *paths: str, transposed: bool = True) -> tuple[Entry, ...]:
    return (
        Entry(f"{name}.weight", tuple(f"{path}/kernel" for path in paths), transposed),
        Entry(f"{name}.bias", tuple(f"{path}/bias" for path in paths)),
    )


def _norm(name: str, path: str) -> tuple[Entry, ...]:
    return (Entry(f"{name}.weight", (f"{path}/scale",)), Entry(f"{name}.bias", (f"{path}/bias",)))


_EMBEDDINGS = (
    *_plain("embeddings.word_embeddings.weight", "embeddings/tokens"),
    *_plain("embeddings.position_embeddings.weight", "embeddings/positions"),
    *_plain("embeddings.token_type_embeddings.weight", "embeddings/types"),
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
        *_dense("cls.predictions.transform.dense", "head/dense"),
        *_norm("cls.predictions.transform.LayerNorm", "head/norm"),
        *_plain("cls.predictions.decoder.weight", "head/decoder/matrix"),
        *_plain("cls.predictions.bias", "head/decoder/bias"),
        *_dense("cls.seq_relationship", "next_sentence"),
    ),
    head_marks=("cls.predictions.",),
    embedding="embeddings.word_embeddings.weight",
    tied_copy="cls.predictions.decoder.weight",
    bias_copy=("cls.predictions.bias", "cls.predictions.decoder.bias"),
    ignored=r"embeddings\.position_ids",
    classes={
        "base": "BertModel",
        "head": "BertForMaskedLM",
        "pretraining": "BertForPreTraining",
        "next_sentence": "BertForNextSentencePrediction",
    },
)
_ROBERTA = Names(
    prefix="roberta.",
    body=_BERT_BODY,
    heads=(
        *_dense("lm_head.dense", "head/dense"),
        *_norm("lm_head.layer_norm", "head/norm"),
        *_plain("lm_head.decoder.weight", "head/decoder/matrix"),
        *_plain("lm_head.bias", "head/decoder/bias"),
    ),
    head_marks=("lm_head.",),
    embedding="embeddings.word_embeddings.weight",
    tied_copy="lm_head.decoder.weight",
    bias_copy=("lm_head.bias", "lm_head.decoder.bias"),
    ignored=r"embeddings\.position_ids",
    classes={"base": "RobertaModel", "head": "RobertaForMaskedLM"},
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
        *_dense("vocab_transform", "head/dense"),
        *_norm("vocab_layer_norm", "head/norm"),
        *_plain("vocab_projector.weight", "head/decoder/matrix"),
        *_plain("vocab_projector.bias", "head/decoder/bias"),
    ),
    head_marks=("vocab_",),
    embedding="embeddings.word_embeddings.weight",
    tied_copy="vocab_projector.weight",
    bias_copy=None,
    ignored=r"embeddings\.position_ids",
    classes={"base": "DistilBertModel", "head": "DistilBertForMaskedLM"},
)
_MODERNBERT = Names(
    prefix="model.",
    body=(
        *_plain("embeddings.tok_embeddings.weight", "embeddings/tokens"),
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
        *_dense("head.dense", "head/dense"),
        *_norm("head.norm", "head/norm"),
        *_plain("decoder.weight", "head/decoder/matrix"),
        *_plain("decoder.bias", "head/decoder/bias"),
    ),
    head_marks=("head.", "decoder."),
    embedding="embeddings.tok_embeddings.weight",
    tied_copy="decoder.weight",
    bias_copy=None,
    ignored=r".*rotary_emb\.inv_freq",
    classes={"base": "ModernBertModel", "head": "ModernBertForMaskedLM"},
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
        *_plain("wte.weight", "embeddings/tokens"),
        *_plain("wpe.weight", "embeddings/positions"),
        *_GPT_LAYER,
        *_norm("ln_f", "final_norm"),
    ),
    heads=_plain("lm_head.weight", "head/decoder/matrix"),
    head_marks=("lm_head.",),
    embedding="wte.weight",
    tied_copy="lm_head.weight",
    bias_copy=None,
    ignored=r"h\.\d+\.attn\.(masked_)?bias",
    classes={"base": "GPT2Model", "head": "GPT2LMHeadModel"},
)
_GPT = _GPT2._replace(
    body=(
        *_plain("tokens_embed.weight", "embeddings/tokens"),
        *_plain("positions_embed.weight", "embeddings/positions"),
        *_GPT_LAYER,
    ),
    embedding="tokens_embed.weight",
    ignored=r"h\.\d+\.attn\.bias|position_ids",
    classes={"base": "OpenAIGPTModel", "head": "OpenAIGPTLMHeadModel"},
)


def names_of(architecture: Architecture) -> Names:
    """The table of one architecture."""
    match architecture:
        case "bert":
            return _BERT
        case "roberta":
            return _ROBERTA
        case "xlm-roberta":
            return _ROBERTA._replace(classes={"base": "XLMRobertaModel", "head": "XLMRobertaForMaskedLM"})
        case "distilbert":
            return _DISTILBERT
        case "modernbert":
            return _MODERNBERT
        case "gpt2":
            return _GPT2
        case "openai-gpt":
            return _GPT


def bare(names: Names, name: str) -> str:
    """A file's name without its prefix and with today's norm names.

    bert.embeddings.LayerNorm.gamma -> embeddings.LayerNorm.weight
    """
    name = name.removeprefix(names.prefix)
    return re.sub(r"(LayerNorm)\.(gamma|beta)$", lambda old: f"LayerNorm.{_TODAY[old[2]]}", name)


_TODAY = {"gamma": "weight", "beta": "bias"}


def expand(entries: tuple[Entry, ...], layers: int, present: set[str]) -> list[Entry]:
    """The entries of a model of `layers` layers whose parameters are `present`: `{l}` filled in, absent ones gone."""
    result = []
    for entry in entries:
        for layer in range(layers) if "{l}" in entry.name else range(1):
            paths = tuple(path.format(l=layer) for path in entry.paths)
            if all(path in present for path in paths):
                result.append(Entry(entry.name.format(l=layer), paths, entry.transposed))
    return result
