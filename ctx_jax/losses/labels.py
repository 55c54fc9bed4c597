"""The losses of labels: one of several, those of a whole sequence, several at once, a number.

Letters: B rows, T words, K labels.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ctx_jax.heads.crf import Transitions, sequence_nats, viterbi
from ctx_jax.typing import Mask, Terms


def label_loss(logits: jax.Array, labels: jax.Array, weights: jax.Array, class_weights: np.ndarray) -> Terms:
    """Cross-entropy in nats and accuracy of logits [..., K] for labels int [...].

        label      sum over examples of w(label) * -log softmax(logits)[label], and the sum of w(label)
        accuracy   hits, and the number of examples

    `weights` [...] are 0 at padding and 1 elsewhere; `class_weights` [K] are w, as in torch's `CrossEntropyLoss`.
    """
    nats = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)[..., 0]
    weighted = weights * jnp.asarray(class_weights, jnp.float32)[labels]
    hits = (jnp.argmax(logits, axis=-1).astype(labels.dtype) == labels).astype(jnp.float32)
    return {
        "label": (jnp.sum(nats * weighted), jnp.sum(weighted)),
        "accuracy": (jnp.sum(hits * weights), jnp.sum(weights)),
    }


def crf_loss(logits: jax.Array, mask: Mask, transitions: Transitions, labels: jax.Array, weights: jax.Array) -> Terms:
    """Loss in nats a word, and accuracy, of a linear-chain CRF over logits [B, T, K] for labels int [B, T].

        label      sum over sentences of -log p(labels), and the number of words
        accuracy   hits of the best sequence, and the number of words

    `mask` [B, T] is True at words, `weights` [B, T] are 1 at words whose label counts.
    """
    known = weights > 0
    nats = sequence_nats(logits, mask, transitions, labels, known)
    hits = jnp.where(viterbi(logits, mask, transitions).astype(labels.dtype) == labels, weights, 0.0)
    count = jnp.sum(weights)
    return {"label": (jnp.sum(nats), count), "accuracy": (jnp.sum(hits), count)}


def several_loss(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> Terms:
    """Binary cross-entropy in nats of logits [B, K] for labels [B, K], 1.0 where a row has the label and 0.0 elsewhere.

        label      sum over rows and labels of -log sigmoid(+-logit), and their number
        accuracy   rows of which every label is right, and the number of rows

    `weights` [B] are 0 at padding. The mean is that of torch's `BCEWithLogitsLoss`.
    """
    nats = jnp.sum(jax.nn.softplus(logits) - logits * labels, axis=-1)
    hits = jnp.all((logits > 0) == (labels > 0), axis=-1).astype(jnp.float32)
    count = jnp.sum(weights)
    return {
        "label": (jnp.sum(nats * weights), count * logits.shape[-1]),
        "accuracy": (jnp.sum(hits * weights), count),
    }


def number_loss(numbers: jax.Array, labels: jax.Array, weights: jax.Array) -> Terms:
    """The squared error of numbers [B] for labels float32 [B]: {"label": (its sum, the number of rows)}."""
    return {"label": (jnp.sum(jnp.square(numbers - labels) * weights), jnp.sum(weights))}


def balanced_weights(counts: np.ndarray) -> np.ndarray:
    """w(k) = N / (K * counts(k)) for N examples of K labels, so that every label weighs the same in sum (King and Zeng
    2001; scikit-learn's "balanced")."""
    return np.asarray(counts.sum() / (len(counts) * counts), np.float32)
