"""Buckets of distances are those of transformers, and disentangled scores follow the paper's sums."""

import jax.numpy as jnp
import numpy as np
import pytest

from ctx_jax.ops.relative import disentangled_bias, distance_buckets, distances, log_buckets


@pytest.mark.parametrize(("buckets", "furthest"), [(32, 128), (8, 6), (64, 1000), (4, 20)])
def test_t5s_buckets(buckets: int, furthest: int) -> None:
    torch = pytest.importorskip("torch")
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    away = distances(700)
    theirs = t5.T5Attention._relative_position_bucket(torch.tensor(-away), True, buckets, furthest)
    np.testing.assert_array_equal(distance_buckets(away, buckets, furthest), theirs)


@pytest.mark.parametrize(("buckets", "furthest"), [(256, 512), (4, 16), (32, 100)])
def test_debertas_buckets(buckets: int, furthest: int) -> None:
    torch = pytest.importorskip("torch")
    deberta = pytest.importorskip("transformers.models.deberta_v2.modeling_deberta_v2")
    away = distances(700)
    theirs = deberta.make_log_bucket_position(torch.tensor(away), buckets, furthest)
    np.testing.assert_array_equal(log_buckets(away, buckets, furthest), theirs)


@pytest.mark.slow
def test_disentangled_scores_are_sums_over_pairs_of_tokens() -> None:
    """Equation 4 of He et al. 2021, one pair at a time."""
    length, heads, width, span = 5, 2, 3, 2
    random = np.random.default_rng(0)
    query, key = random.normal(size=(2, 1, length, heads, width)).astype(np.float32)
    of_query, of_key = random.normal(size=(2, 2 * span, heads, width)).astype(np.float32)
    found = disentangled_bias(
        *map(jnp.asarray, (query, key, of_query, of_key)), 9, terms=("c2p", "p2c"), compute="float32"
    )
    expected = np.zeros((1, heads, length, length))
    for i in range(length):
        for j in range(length):
            row = int(np.clip(log_buckets(np.array(i - j), span, 9) + span, 0, 2 * span - 1))
            expected[0, :, i, j] = (query[0, i] * of_key[row]).sum(-1) + (key[0, j] * of_query[row]).sum(-1)
    np.testing.assert_allclose(found, expected, atol=1e-5)
