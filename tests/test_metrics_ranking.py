"""Ranks and the figures of them, against lists that are sorted in plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import metrics


def listed(scores, labels, where):
    """Return the rank of each label by sorting: others first where scores tie."""
    found = []
    for row, label, kept in zip(scores, labels, where, strict=True):
        items = [i for i in range(len(row)) if kept[i] or i == label]
        items.sort(key=lambda i: (-row[i], i == label))
        found.append(1 + items.index(label))
    return found


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 30, (64, 40)).astype(np.float32)  # with many ties
    return scores, rng.integers(40, size=64), rng.random((64, 40)) < 0.8


def test_ranks_equal_a_sorted_list(case):
    scores, labels, where = case
    assert not where[np.arange(64), labels].all()  # it does not matter at the label
    everywhere = np.ones_like(where)
    for mask, kept in ((None, everywhere), (jnp.asarray(where), where)):
        found = metrics.ranks(jnp.asarray(scores), jnp.asarray(labels), where=mask)
        assert found.dtype == jnp.float32
        np.testing.assert_array_equal(found, listed(scores, labels, kept))
    one_mask = metrics.ranks(jnp.asarray(scores), jnp.asarray(labels), where=where[:1])
    again = np.broadcast_to(where[:1], where.shape)
    np.testing.assert_array_equal(one_mask, listed(scores, labels, again))


def test_figures_equal_numpy(case):
    scores, labels, where = case
    ranks = np.array(listed(scores, labels, where), np.float64)
    given = jnp.asarray(ranks, jnp.float32)
    for k in (1, 5, 10):
        # gains by place of a list with one relevant item, the ideal list's being 1
        gains = np.zeros((64, 40))
        gains[np.arange(64), ranks.astype(int) - 1] = 1
        discounted = (gains[:, :k] / np.log2(np.arange(2, k + 2))).sum(1)
        np.testing.assert_allclose(metrics.ndcg(given, k=k), discounted, rtol=1e-6)
        hits = gains[:, :k].sum(1)
        np.testing.assert_array_equal(metrics.hit_rate(given, k=k), hits)
    np.testing.assert_allclose(metrics.reciprocal_rank(given), 1 / ranks, rtol=1e-6)


def test_figures_are_bounded_and_fall_with_the_rank():
    ranks = jnp.arange(1.0, 30.0)
    for figure in (metrics.hit_rate, metrics.reciprocal_rank, metrics.ndcg):
        values = np.asarray(figure(ranks))
        assert values[0] == 1
        assert (np.diff(values) <= 0).all()
        assert (values >= 0).all()
    assert not metrics.ndcg(ranks)[10:].any()


@pytest.mark.parametrize("score", [0.0, np.nan, np.inf, -np.inf])
def test_scores_that_say_nothing_are_worth_nothing(score):
    same = jnp.full((2, 50), score)
    np.testing.assert_array_equal(metrics.ranks(same, jnp.array([0, 49])), [50, 50])


def test_a_score_that_is_nan_is_ahead():
    scores = jnp.array([[jnp.nan, 2.0, 1.0]])
    assert metrics.ranks(scores, jnp.array([1])) == 2
    alone = jnp.zeros((1, 3), bool)
    assert metrics.ranks(scores, jnp.array([1]), where=alone) == 1


def test_ranks_under_jit_and_of_a_batch_of_none(case):
    scores, labels, where = map(jnp.asarray, case)
    eager = metrics.ranks(scores, labels, where=where)
    jitted = jax.jit(metrics.ranks)(scores, labels, where=where)
    np.testing.assert_array_equal(eager, jitted)
    assert metrics.ranks(scores[:0], labels[:0]).shape == (0,)
    assert metrics.ranks(scores.astype(jnp.bfloat16), labels).dtype == jnp.float32


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda s, y: metrics.ranks(s, y[:3]),
            r"ranks: labels.*\[3\], logits \[4, 9\]",
        ),
        (lambda s, y: metrics.ranks(s > 0, y), "ranks: scores must be floating"),
        (lambda s, y: metrics.ranks(s, s[:, 0]), "labels must be integer"),
        (lambda s, y: metrics.ranks(s, y, where=s), "where must be boolean"),
        (
            lambda s, y: metrics.ranks(s, y, where=(s > 0)[:, :3]),
            "where must broadcast",
        ),
        (
            lambda s, y: metrics.ndcg(s[:, 0], k=0),
            "hit_rate: k must be an integer >= 1",
        ),
        (lambda s, y: metrics.hit_rate(y), "hit_rate: ranks must be floating"),
        (lambda s, y: metrics.reciprocal_rank(y), "reciprocal_rank: ranks must be"),
    ],
)
def test_what_cannot_be_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call(jnp.ones((4, 9)), jnp.zeros(4, int))
