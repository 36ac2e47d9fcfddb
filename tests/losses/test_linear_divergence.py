"""What the laws do not say of losses from hidden states and output kernels."""

import hypothesis
import hypothesis.extra.numpy as arrays
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from kdjax.losses.sequence._chunks import chunk_size
from tests.losses.programs import assert_close, losses

TOKENS = 10
PLAIN = {
    "forward_kl": losses.soft_target_kl,
    "reverse_kl": losses.reverse_kl,
    "jensen_shannon": losses.jensen_shannon,
}


@pytest.fixture(scope="module")
def heads():
    """Hidden states and kernels of two networks of different width."""
    rng = np.random.default_rng(0)
    shapes = (TOKENS, 4), (4, 7), (TOKENS, 3), (3, 7)
    return tuple(rng.normal(size=shape).astype(np.float32) for shape in shapes)


def plain(divergence):
    """Return the loss of logits that are held."""

    def values(s, ks, t, kt, temperature=1.0, beta=0.5):
        more = {"beta": beta} if divergence == "jensen_shannon" else {}
        return PLAIN[divergence](s @ ks, t @ kt, temperature=temperature, **more)

    return values


def per_token(divergence, chunk=None):
    def values(*heads, temperature=1.0, beta=0.5):
        more = {"divergence": divergence, "temperature": temperature, "beta": beta}
        return losses.linear_divergence(*heads, **more, chunk=chunk)

    return values


def graded(values):
    """Return the value and all gradients of a weighted sum of the values."""

    def loss(heads, weights, temperature, beta):
        found = values(*heads, temperature=temperature, beta=beta)
        return (weights * found).sum()

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)))


def summed(divergence, chunk=None):
    def loss(heads, weights, temperature, beta):
        more = {"temperature": temperature, "beta": beta, "chunk": chunk}
        return losses.sum_linear_divergence(
            *heads, weights=weights, divergence=divergence, **more
        )[0]

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)))


@pytest.mark.parametrize(
    ("divergence", "chunk"),
    [("forward_kl", None), ("forward_kl", 1), ("reverse_kl", 4), ("jensen_shannon", 4)],
)
def test_equals_the_plain_loss_in_value_and_all_gradients(heads, divergence, chunk):
    weights = np.linspace(-1.1, 2.0, TOKENS, dtype=np.float32)
    args = heads, weights, np.float32(3.0), np.float32(0.3)
    expected = jax.tree.leaves(graded(plain(divergence))(*args))
    for ours in (graded(per_token(divergence, chunk)), summed(divergence, chunk)):
        for found, wanted in zip(jax.tree.leaves(ours(*args)), expected, strict=True):
            assert_close(np.asarray(found), np.asarray(wanted), rtol=1e-5)


@jax.jit
def _weighted(heads, weights):
    def loss(heads, weights):
        total, count = losses.sum_linear_divergence(*heads, weights=weights, chunk=4)
        return total, count

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(heads, weights)


@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf, 3e38])
def test_padding_leaves_no_trace(heads, junk):
    keep = np.arange(TOKENS) % 3 != 1
    weights = np.where(keep, np.arange(1.0, TOKENS + 1), 0.0).astype(np.float32)
    spoiled = tuple(
        np.where(keep[:, None], a, junk).astype(np.float32) if i % 2 == 0 else a
        for i, a in enumerate(heads)
    )
    dropped = tuple(a[keep] if i % 2 == 0 else a for i, a in enumerate(heads))
    (total, count), (by_heads, by_weights) = _weighted(spoiled, weights)
    (value, _), (expected, slopes) = _weighted(dropped, weights[keep])
    np.testing.assert_allclose(total, value, rtol=1e-6)
    assert count == weights.sum()
    for number, (found, wanted) in enumerate(zip(by_heads, expected, strict=True)):
        kept = keep if number % 2 == 0 else slice(None)
        assert_close(found[kept], wanted, rtol=1e-5)
        assert number % 2 or np.all(np.asarray(found)[~keep] == 0)
    assert_close(by_weights[keep], slopes, rtol=1e-6)
    assert np.all(np.asarray(by_weights)[~keep] == 0)


def test_weights_may_be_a_mask(heads):
    keep = np.arange(TOKENS) < 7
    total, count = losses.sum_linear_divergence(*heads, weights=keep)
    kept = losses.linear_divergence(*heads)[:7]
    np.testing.assert_allclose(total, kept.sum(), rtol=1e-6)
    assert count == 7


@pytest.fixture(scope="module")
def values(heads):
    return np.asarray(losses.linear_divergence(*heads))


WEIGHTS = st.sampled_from([0.0, -2.0, 0.5, 1e4])


@hypothesis.given(weights=arrays.arrays(np.float32, TOKENS, elements=WEIGHTS))
@hypothesis.settings(max_examples=30, deadline=None, derandomize=True, database=None)
def test_the_sum_is_that_of_the_weighted_values(heads, values, weights):
    (total, count), (_, by_weights) = _weighted(heads, weights)
    wide = weights.astype(np.float64)
    np.testing.assert_allclose(total, (wide * values).sum(), rtol=1e-5, atol=1e-2)
    np.testing.assert_allclose(count, wide.sum(), rtol=1e-6)
    np.testing.assert_allclose(by_weights, np.where(wide == 0, 0, values), rtol=1e-5)


def test_sums_over_chunks_are_in_float32():
    rng = np.random.default_rng(2)
    shapes = (512, 4), (4, 5), (512, 4), (4, 5)
    low = [jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in shapes]
    low[0] = jnp.abs(low[0])  # so that the sums grow

    def gradient(heads, chunk):
        def loss(kernel):
            full = heads[0], kernel, *heads[2:]
            total, count = losses.sum_linear_divergence(*full, chunk=chunk)
            return total / count

        return jax.jit(jax.grad(loss))(heads[1])

    found = gradient(low, chunk=1)
    assert found.dtype == jnp.bfloat16
    wide = gradient([a.astype(jnp.float32) for a in low], chunk=512)
    assert_close(found.astype(np.float32), np.asarray(wide), rtol=2.0**-8)


@pytest.mark.parametrize("of", [per_token, summed])
def test_second_derivatives(heads, of):
    """Also where both are equal: the Fisher matrix, not 0."""
    equal = *heads[:2], *heads[:2]
    for both in (heads, equal):

        def loss(kernel, values, both=both):
            return values(both[0], kernel, *both[2:]).sum()

        def ours(kernel, both=both):
            full = both[0], kernel, *both[2:]
            if of is summed:
                return losses.sum_linear_divergence(*full, chunk=4)[0]
            return losses.linear_divergence(*full, chunk=4).sum()

        found = jax.jit(jax.hessian(ours))(both[1])
        wanted = jax.jit(jax.hessian(lambda k: loss(k, plain("forward_kl"))))(both[1])
        assert_close(np.asarray(found), np.asarray(wanted), rtol=1e-4)


def test_inside_of_other_transformations(heads):
    def total(kernel, chunk=3):
        full = heads[0], kernel, *heads[2:]
        return losses.sum_linear_divergence(*full, chunk=chunk)[0]

    def halves(kernel):
        @jax.checkpoint
        def half(carry, rows):
            full = rows[0], kernel, rows[1], heads[3]
            return carry + losses.sum_linear_divergence(*full, chunk=3)[0], None

        rows = heads[0].reshape(2, 5, -1), heads[2].reshape(2, 5, -1)
        return jax.lax.scan(half, 0.0, rows)[0]

    expected = np.asarray(jax.jit(jax.grad(total))(heads[1]))
    assert_close(np.asarray(jax.jit(jax.grad(halves))(heads[1])), expected, rtol=1e-5)


def test_no_tokens(heads):
    none = tuple(a[:0] if i % 2 == 0 else a for i, a in enumerate(heads))
    assert losses.linear_divergence(*none).shape == (0,)
    assert losses.sum_linear_divergence(*none) == (0.0, 0.0)


def test_chunks_are_chosen_by_the_number_of_logits():
    assert chunk_size(2048, 32_000) == 256
    assert chunk_size(2048, 250_000) == 128
    assert chunk_size(2100, 32_000) == 234  # 9 chunks of one size, not 8 and a bit
    assert chunk_size(100, 32_000) == 100
    assert chunk_size(0, 10) == 1


REFUSED = [
    ({"divergence": "kl"}, "'forward_kl', 'reverse_kl', 'jensen_shannon', got 'kl'"),
    ({"chunk": 0}, "chunk must be a positive int, got 0"),
    ({"chunk": 2.5}, "chunk must be a positive int, got 2.5"),
    ({"temperature": 0.0}, "temperature must be > 0"),
    ({"beta": 1.5}, "beta must be in"),
]


@pytest.mark.parametrize("name", ["linear_divergence", "sum_linear_divergence"])
@pytest.mark.parametrize(("settings", "said"), REFUSED)
def test_settings_that_cannot_be(heads, name, settings, said):
    with pytest.raises(ValueError, match=rf"^{name}: .*{said}"):
        getattr(losses, name)(*heads, **settings)


@pytest.mark.parametrize("name", ["linear_divergence", "sum_linear_divergence"])
def test_shapes_that_do_not_fit(heads, name):
    s, ks, t, kt = heads
    for wrong, both in (
        ((s[:9], ks, t, kt), r"tokens .*\[9, 4\], .*\[10, 3\]"),
        ((s, ks[:, :6], t, kt), r"vocabulary .*\[4, 6\], .*\[3, 7\]"),
        ((s, ks, t, ks), r"teacher_hidden .*\[10, 3\] and \[4, 7\]"),
        ((s[None], ks, t, kt), r"student_hidden .*\[1, 10, 4\] and \[4, 7\]"),
        ((s, ks[:, :0], t, kt), r"student_hidden .*\[10, 4\] and \[4, 0\]"),
    ):
        with pytest.raises(ValueError, match=rf"^{name}: {both}"):
            getattr(losses, name)(*wrong)


@pytest.mark.parametrize("weights", [np.ones(9, bool), np.ones((10, 1), np.float32)])
def test_weights_that_do_not_fit(heads, weights):
    with pytest.raises(ValueError, match=r"^sum_linear_divergence: weights must"):
        losses.sum_linear_divergence(*heads, weights=weights)
