"""GPT and GPT-2 in Hugging Face's files: names of tensors and keys of `config.json`."""

from collections.abc import Mapping
from typing import Any

from ctx_jax.encoders.transformer.huggingface.keys import Keys
from ctx_jax.encoders.transformer.huggingface.names import LINEAR, Entry, LabelHead, Names, dense, norm
from ctx_jax.encoders.transformer.huggingface.values import checked_number
from ctx_jax.encoders.transformer.model import Transformer
from ctx_jax.heads import VocabularyHead

# GPT has names of its own, and its "gelu" means the tanh formula.
GPT_READ = {"gelu": "gelu_tanh", "gelu_new": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}
GPT_WRITTEN = {"gelu_tanh": "gelu", "relu": "relu", "silu": "silu"}

_GPT_LAYER = (
    *dense("h.{l}.attn.c_attn", "layer_{l}/query", "layer_{l}/key", "layer_{l}/value", transposed=False),
    *dense("h.{l}.attn.c_proj", "layer_{l}/output", transposed=False),
    *norm("h.{l}.ln_1", "layer_{l}/attention_norm"),
    *dense("h.{l}.mlp.c_fc", "layer_{l}/up", transposed=False),
    *dense("h.{l}.mlp.c_proj", "layer_{l}/down", transposed=False),
    *norm("h.{l}.ln_2", "layer_{l}/feed_forward_norm"),
)
GPT2_NAMES = Names(
    prefix="transformer.",
    body=(
        Entry("wte.weight", ("embeddings/tokens",)),
        Entry("wpe.weight", ("embeddings/positions",)),
        *_GPT_LAYER,
        *norm("ln_f", "final_norm"),
    ),
    heads=(Entry("lm_head.weight", ("causal_lm/decoder/matrix",)),),
    head_prefixes={"causal_lm": ("lm_head.",)},
    embedding="wte.weight",
    tied_copy="lm_head.weight",
    ignored=r"h\.\d+\.attn\.(masked_)?bias",
    labels=(LabelHead("score", "score", bias=False), *LINEAR),
    classes={
        frozenset(): "GPT2Model",
        frozenset({"causal_lm"}): "GPT2LMHeadModel",
        frozenset({"score"}): "GPT2ForSequenceClassification",
        frozenset({"classifier"}): "GPT2ForTokenClassification",
        frozenset({"qa_outputs"}): "GPT2ForQuestionAnswering",
    },
)
GPT_NAMES = GPT2_NAMES._replace(
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

GPT2_KEYS = Keys(
    required={
        "vocab_size": ("vocabulary",),
        "n_embd": ("dim",),
        "n_layer": ("depth",),
        "n_head": ("heads",),
        "n_positions": ("max_positions",),
        "layer_norm_epsilon": ("norm_epsilon",),
        "embd_pdrop": ("embedding_dropout",),
        "attn_pdrop": ("attention_dropout",),
        "resid_pdrop": ("attention_output_dropout", "feed_forward_dropout"),
    },
    activations={"activation_function": "activation"},
    fixed={"causal": True, "norm": "pre", "embedding_norm": False, "token_types": 0, "depth_scaled": True},
    constant={
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
        "is_causal": True,
    },
    aliases={
        "hidden_size": "n_embd",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
        "max_position_embeddings": "n_positions",
    },
    further=("n_inner",),
)
GPT_KEYS = GPT2_KEYS._replace(
    activations={"afn": "activation"},
    fixed={"causal": True, "embedding_norm": False, "token_types": 0},
    constant={"is_causal": True},
    further=(),
    readable=GPT_READ,
    written=GPT_WRITTEN,
)


def gpt2_fields(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The inner width, four times D where nothing is said."""
    inner = config.get("n_inner")
    return {"feed_forward": checked_number("n_inner", 4 * values["dim"] if inner is None else inner, "feed_forward")}


def gpt_fields(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """GPT has no key of the inner width."""
    return {"feed_forward": checked_number("n_embd", 4 * values["dim"], "feed_forward")}


def gpt2_entries(model: Transformer, head: VocabularyHead | None) -> dict[str, Any]:
    """The entries of config.json that no table writes."""
    return {"pad_token_id": model.pad_id, "n_inner": model.feed_forward}


def gpt_entries(model: Transformer, head: VocabularyHead | None) -> dict[str, Any]:
    """The entries of config.json that no table writes."""
    return {"pad_token_id": model.pad_id}
