"""The keys of Hugging Face's `config.json` as data: which key is which field of `Transformer`."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ctx_jax.encoders.transformer.huggingface_names import Architecture

# The values of config.json's activation keys -> our names, and back.
READ = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python": "gelu",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
WRITTEN = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu", "silu": "silu"}
# GPT has names of its own, and its "gelu" means the tanh formula.
GPT_READ = {"gelu": "gelu_tanh", "gelu_new": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}
GPT_WRITTEN = {"gelu_tanh": "gelu", "relu": "relu", "silu": "silu"}


class Keys(NamedTuple):
    """The keys of one architecture, and the fields that it fixes."""

    required: Mapping[str, tuple[str, ...]]  # key -> the fields that have its value
    activations: Mapping[str, str]  # key of an activation -> field
    fixed: Mapping[str, Any] = {}  # fields that are the same in every model of the architecture
    constant: Mapping[str, Any] = {}  # optional keys that must have this value if present
    defaults: Mapping[str, Any] = {}  # keys of `required` that may be absent, as files older than the key are
    aliases: Mapping[str, str] = {}  # transformers' second name of a key -> that key
    same: Mapping[str, str] = {}  # keys that must be there and equal another one
    further: tuple[str, ...] = ()  # keys that are read one by one, by `huggingface_config` and `huggingface_modern`
    neutral: tuple[str, ...] = ()  # and those of them that must have the value without effect


# Features that none of our models has, whatever the architecture.
EVERYWHERE: Mapping[str, Any] = {
    "pruned_heads": {},
    "is_encoder_decoder": False,
    "per_layer_config": None,  # other sizes layer by layer
    "quantization_config": None,  # weights that need a library of their own
    "tie_last_hidden_states": True,  # False: the last hidden state without the final norm
}
# null means the default for these; transformers refuses it for others.
NULLABLE = (*EVERYWHERE, "position_embedding_type", "is_causal", "head_dim")

_SIZES = {
    "vocab_size": ("vocabulary",),
    "hidden_size": ("dim",),
    "num_hidden_layers": ("depth",),
    "num_attention_heads": ("heads",),
    "intermediate_size": ("feed_forward",),
    "max_position_embeddings": ("max_positions",),
}
_BERT = Keys(
    required={
        **_SIZES,
        "type_vocab_size": ("token_types",),
        "layer_norm_eps": ("norm_epsilon",),
        "pad_token_id": ("pad_id",),
        "hidden_dropout_prob": ("embedding_dropout", "attention_output_dropout", "feed_forward_dropout"),
        "attention_probs_dropout_prob": ("attention_dropout",),
    },
    activations={"hidden_act": "activation"},
    constant={
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
        "is_causal": False,
    },
    defaults={"layer_norm_eps": 1e-12, "pad_token_id": None},
)
_ROBERTA = _BERT._replace(fixed={"positions_after_padding": True}, defaults={"layer_norm_eps": 1e-12})
_ELECTRA = _BERT._replace(same={"embedding_size": "hidden_size"})  # else a projection follows the embeddings
_DISTILBERT = Keys(
    required={
        "vocab_size": ("vocabulary",),
        "dim": ("dim",),
        "n_layers": ("depth",),
        "n_heads": ("heads",),
        "hidden_dim": ("feed_forward",),
        "max_position_embeddings": ("max_positions",),
        "pad_token_id": ("pad_id",),
        "dropout": ("embedding_dropout", "feed_forward_dropout"),
        "attention_dropout": ("attention_dropout",),
    },
    activations={"activation": "activation"},
    fixed={"token_types": 0, "norm_epsilon": 1e-12, "attention_output_dropout": 0.0},
    constant={"is_causal": False},
    defaults={"pad_token_id": None},
    aliases={"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"},
)
_MODERNBERT = Keys(
    required={
        **_SIZES,
        "norm_eps": ("norm_epsilon",),
        "norm_bias": ("norm_bias",),
        "attention_bias": ("attention_bias",),
        "mlp_bias": ("feed_forward_bias",),
        "pad_token_id": ("pad_id",),
        "embedding_dropout": ("embedding_dropout",),
        "attention_dropout": ("attention_dropout", "attention_output_dropout"),
        "mlp_dropout": ("feed_forward_inner_dropout",),
    },
    activations={"hidden_activation": "activation"},
    fixed={
        "gated": True,
        "norm": "pre",
        "first_attention_norm": False,
        "positions": "rotary",
        "token_types": 0,
        "feed_forward_dropout": 0.0,
        "depth_scaled": True,
    },
    constant={"is_causal": False},
    further=(
        *("layer_types", "global_attn_every_n_layers", "local_attention", "sliding_window"),
        *("rope_parameters", "global_rope_theta", "local_rope_theta"),
        *("classifier_activation", "classifier_bias", "decoder_bias"),
    ),
    neutral=("head_dim", "rope_scaling"),
)
_GPT2 = Keys(
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
_GPT = _GPT2._replace(
    activations={"afn": "activation"},
    fixed={"causal": True, "embedding_norm": False, "token_types": 0},
    constant={"is_causal": True},
    further=(),
)


KEYS: Mapping[Architecture, Keys] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": _ELECTRA,
    "distilbert": _DISTILBERT,
    "modernbert": _MODERNBERT,
    "gpt2": _GPT2,
    "openai-gpt": _GPT,
}

_READ_EVERYWHERE = ("model_type", "pad_token_id", "initializer_range", "tie_word_embeddings", "tokenizer_class")
# Keys that change no number that is read: `tests/test_config_keys.py` compares with transformers.
_HARMLESS = {
    # About the file itself.
    *("architectures", "transformers_version", "name_or_path", "_name_or_path", "dtype", "torch_dtype"),
    # What transformers returns.
    *("output_attentions", "output_hidden_states", "return_dict", "use_return_dict", "use_cache"),
    # Of labels: `huggingface_labels` reads what they are, and the tensors say how many; no layer depends on them.
    *("id2label", "label2id", "num_labels", "problem_type", "classifier_dropout", "classifier_pooling"),
    # Of heads of multiple choice, which are left out with a notice.
    *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"),
    *("summary_first_dropout", "summary_last_dropout"),
    # Of tokens: the tokenizer's files decide.
    *("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"),
    # Dropout of heads, initial values, how a program runs, the form of a loss; attention chunks are no layer type here.
    *("chunk_size_feed_forward", "gradient_checkpointing", "reorder_and_upcast_attn", "initializer_cutoff_factor"),
    *("sinusoidal_pos_embds", "qa_dropout", "seq_classif_dropout", "hidden_dropout", "deterministic_flash_attn"),
    *("sparse_prediction", "sparse_pred_ignore_index", "attention_chunk_size", "rope_theta"),
    # How a config of layers of several sizes is used; per_layer_config itself is refused.
    *("allow_global_per_layer_attribute_access", "serialize_explicit_per_layer_config"),
}
# Without windows and rotary positions these ask for nothing.
_HARMLESS_ELSEWHERE = {"sliding_window", "rope_scaling"}


def decided_keys(architecture: Architecture, names: Iterable[str]) -> dict[str, list[str]]:
    """The names of keys of a config.json by what becomes of them.

    "read": the model or a head depends on it; "neutral": any other value than the one without effect is refused;
    "harmless": known to change no number that is read; "unknown": in no table, left unread.
    """
    keys = KEYS[architecture]
    tables = {
        "read": {*keys.required, *keys.activations, *keys.aliases, *keys.same, *keys.further, *_READ_EVERYWHERE},
        "neutral": {*keys.constant, *keys.neutral, *EVERYWHERE, "auto_map"},
        "harmless": _HARMLESS | _HARMLESS_ELSEWHERE,
    }
    result: dict[str, list[str]] = {name: [] for name in (*tables, "unknown")}
    for key in sorted(names):
        result[next((name for name, table in tables.items() if key in table), "unknown")].append(key)
    return result
