"""The keys of Hugging Face's `config.json` as data: which key is which field of `Transformer`."""

from collections.abc import Mapping
from typing import Any, NamedTuple

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


MOST_LAYERS = 10_000
"""More than any published model has; each layer is named in lists before its tensors are looked for."""


class Keys(NamedTuple):
    """The keys of one architecture, and the fields that it fixes."""

    required: Mapping[str, tuple[str, ...]]  # key -> the fields that have its value
    activations: Mapping[str, str]  # key of an activation -> field
    fixed: Mapping[str, Any] = {}  # fields that are the same in every model of the architecture
    constant: Mapping[str, Any] = {}  # optional keys that must have this value if present
    defaults: Mapping[str, Any] = {}  # keys of `required` that may be absent, as files older than the key are
    aliases: Mapping[str, str] = {}  # transformers' second name of a key -> that key
    further: tuple[str, ...] = ()  # keys that the architecture's own functions read
    neutral: tuple[str, ...] = ()  # and those of them that must have the value without effect
    harmless: tuple[str, ...] = ()  # keys that change no number of this architecture
    tied: bool = True  # whether decoders are tied where nothing is said
    readable: Mapping[str, str] = READ  # the values of its activation keys -> our names
    written: Mapping[str, str] = WRITTEN  # and back
    code: str = ""  # regular expression of programs in auto_map that compute what is computed here


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

SIZES = {
    "vocab_size": ("vocabulary",),
    "hidden_size": ("dim",),
    "num_hidden_layers": ("depth",),
    "num_attention_heads": ("heads",),
    "intermediate_size": ("feed_forward",),
    "max_position_embeddings": ("max_positions",),
}
BERT = Keys(
    required={
        **SIZES,
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
ROBERTA = BERT._replace(fixed={"positions_after_padding": True}, defaults={"layer_norm_eps": 1e-12})
XLM_ROBERTA_XL = ROBERTA._replace(
    fixed={**ROBERTA.fixed, "norm": "pre", "embedding_norm": False}, defaults={"layer_norm_eps": 1e-5}
)
ELECTRA = BERT._replace(required={**BERT.required, "embedding_size": ("embedding_dim",)})
DISTILBERT = Keys(
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

READ_EVERYWHERE = ("model_type", "pad_token_id", "initializer_range", "tie_word_embeddings", "tokenizer_class")
# Keys that change no number that is read: `tests/test_config_keys.py` compares with transformers.
HARMLESS = {
    # About the file itself.
    *("architectures", "transformers_version", "name_or_path", "_name_or_path", "dtype", "torch_dtype"),
    # What transformers returns.
    *("output_attentions", "output_hidden_states", "return_dict", "use_return_dict", "use_cache"),
    # Of labels: `labels` reads what they are, and the tensors say how many; no layer depends on them.
    *("id2label", "label2id", "num_labels", "problem_type", "classifier_dropout", "classifier_pooling"),
    "classifier_dropout_prob",
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
HARMLESS_ELSEWHERE = {"sliding_window", "rope_scaling"}
