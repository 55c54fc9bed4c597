"""ALBERT in Hugging Face's files (Lan et al. 2020): all layers share their parameters, and tables are narrower."""

from ctx_jax.encoders.transformer.huggingface.keys import BERT
from ctx_jax.encoders.transformer.huggingface.names import BERT as BERT_NAMES
from ctx_jax.encoders.transformer.huggingface.names import EMBEDDINGS, LINEAR, Entry, classes, dense, norm

_LAYER = "encoder.albert_layer_groups.0.albert_layers.0"
NAMES = BERT_NAMES._replace(
    prefix="albert.",
    body=(
        *EMBEDDINGS,
        *dense("encoder.embedding_hidden_mapping_in", "embeddings/projection"),
        *dense(f"{_LAYER}.attention.query", "layer_0/query"),
        *dense(f"{_LAYER}.attention.key", "layer_0/key"),
        *dense(f"{_LAYER}.attention.value", "layer_0/value"),
        *dense(f"{_LAYER}.attention.dense", "layer_0/output"),
        *norm(f"{_LAYER}.attention.LayerNorm", "layer_0/attention_norm"),
        *dense(f"{_LAYER}.ffn", "layer_0/up"),
        *dense(f"{_LAYER}.ffn_output", "layer_0/down"),
        *norm(f"{_LAYER}.full_layer_layer_norm", "layer_0/feed_forward_norm"),
        *dense("pooler", "pooler"),
    ),
    heads=(
        *dense("predictions.dense", "masked_lm/dense"),
        *norm("predictions.LayerNorm", "masked_lm/norm"),
        Entry("predictions.decoder.weight", ("masked_lm/decoder/matrix",)),
        Entry("predictions.bias", ("masked_lm/decoder/bias",)),
        *dense("sop_classifier.classifier", "sentence_order"),
    ),
    head_prefixes={
        "masked_lm": ("predictions.",),
        "pooler": ("pooler.",),
        "sentence_order": ("sop_classifier.",),
    },
    tied_copy="predictions.decoder.weight",
    bias_copy=("predictions.bias", "predictions.decoder.bias"),
    labels=LINEAR,
    classes={
        **classes("Albert", "pooler", "classifier"),
        frozenset({"masked_lm", "pooler", "sentence_order"}): "AlbertForPreTraining",
    },
)
KEYS = BERT._replace(
    required={
        **BERT.required,
        "embedding_size": ("embedding_dim",),
        "hidden_dropout_prob": ("embedding_dropout", "attention_output_dropout"),
    },
    fixed={"shared_layers": True, "feed_forward_dropout": 0.0},
    constant={"num_hidden_groups": 1, "inner_group_num": 1, "is_causal": False},
)
