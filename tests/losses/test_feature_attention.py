"""What is true of losses of attention: masks of tokens, and what they do not see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.losses.programs import losses

RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=(3, 5, 4)).astype(np.float32)
OTHER_VALUES = RNG.normal(size=(3, 5, 6)).astype(np.float32)
SCORES, OTHER_SCORES = RNG.normal(size=(2, 3, 2, 5, 5)).astype(np.float32)
KEEP = np.array([[1, 0, 1, 1, 0], [0, 1, 1, 0, 1], [0, 0, 1, 1, 1]], bool)
close = np.testing.assert_allclose


def _relation(student, teacher, where=None):
    return losses.value_relation(student, teacher, heads=2, where=where)


ATTENTION = [
    pytest.param(losses.attention_map_kl, SCORES, OTHER_SCORES, id="map"),
    pytest.param(_relation, VALUES, OTHER_VALUES, id="relation"),
]


def _kept(array):
    """Which entries of `[batch, tokens, d]` or `[batch, h, queries, keys]` are kept."""
    if array.ndim == 3:
        return np.broadcast_to(KEEP[:, :, None], array.shape)
    return np.broadcast_to((KEEP[:, :, None] & KEEP[:, None])[:, None], array.shape)


def _dropped(array):
    """The kept entries alone: every example keeps three tokens."""
    shape = [3 if size == 5 else size for size in array.shape]
    return array[_kept(array)].reshape(shape)


@pytest.mark.parametrize("junk", [0.0, 3e4, -3e38, np.inf, -np.inf, np.nan])
@pytest.mark.parametrize(("loss", "student", "teacher"), ATTENTION)
def test_masking_tokens_is_dropping_them(loss, student, teacher, junk):
    def graded(*args, where=None):
        values, pull = jax.vjp(lambda *a: loss(*a, where=where), *args)
        return values, pull(jnp.float32([1.0, 2.0, 3.0]))

    graded = jax.jit(graded)
    values, gradients = graded(_dropped(student), _dropped(teacher))
    spoiled = [np.where(_kept(a), a, np.float32(junk)) for a in (student, teacher)]
    masked, full = graded(*spoiled, where=KEEP)
    close(masked, values, rtol=1e-5)
    for gradient, wide in zip(gradients, map(np.asarray, full), strict=True):
        close(_dropped(wide), gradient, rtol=1e-4, atol=1e-6)
        assert np.all(wide[~_kept(wide)] == 0)


@pytest.mark.parametrize(("loss", "student", "teacher"), ATTENTION)
def test_an_example_of_padding_is_nothing(loss, student, teacher):
    where = np.ones((3, 5), bool)
    where[1] = False

    def masked(*args):
        values = loss(*args, where=where)
        return values.sum(), values

    graded = jax.jit(jax.grad(masked, (0, 1), has_aux=True))
    gradients, values = graded(student, teacher)
    assert values[1] == 0
    close(values[::2], loss(student, teacher)[::2], rtol=1e-6)
    for gradient in gradients:
        assert np.all(gradient[1] == 0)
        assert np.any(gradient[0] != 0)


@pytest.mark.parametrize(("loss", "student", "teacher"), ATTENTION)
def test_where_of_attention_is_checked(loss, student, teacher):
    for where in (KEEP[:, :4], KEEP[:2], KEEP[0], KEEP[..., None]):
        with pytest.raises(ValueError, match=r"where .*\[3, 5\]"):
            loss(student, teacher, where=where)
    with pytest.raises(ValueError, match="where must be boolean"):
        loss(student, teacher, where=KEEP.astype(np.float32))


def test_where_of_attention_needs_as_many_queries_as_keys():
    with pytest.raises(ValueError, match="3 queries and 5 keys"):
        losses.attention_map_kl(SCORES[:, :, :3], OTHER_SCORES[:, :, :3], where=KEEP)
    with pytest.raises(ValueError, match="batch, heads, queries, keys"):
        losses.attention_map_kl(SCORES[0], OTHER_SCORES[0])


def test_attention_map_kl_of_causal_attention():
    """Scores of −inf hide keys; the mean is over all queries."""
    hidden = np.where(np.tri(5, dtype=bool), 0.0, -np.inf).astype(np.float32)
    value = losses.attention_map_kl(SCORES + hidden, OTHER_SCORES + hidden)
    expected = losses.soft_target_kl(SCORES, OTHER_SCORES, where=np.tri(5, dtype=bool))
    close(value, expected.mean(axis=(1, 2)), rtol=1e-6)


def test_attention_map_kl_does_not_see_a_shift_of_a_query():
    shift = RNG.normal(size=(3, 2, 5, 1)).astype(np.float32)
    close(losses.attention_map_kl(SCORES + shift, SCORES), 0.0, atol=1e-11)


def test_value_relation_does_not_see_a_rotation():
    rotation, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(4, 4)))
    turned = (VALUES @ rotation).astype(np.float32)
    close(losses.value_relation(VALUES, turned, heads=1), 0.0, atol=1e-10)
    # twice the dimensions divide by √2 more: a wider teacher can say the same
    wider = np.concatenate([VALUES, 0 * VALUES], axis=-1) * np.float32(2**0.25)
    close(losses.value_relation(VALUES, wider, heads=1), 0.0, atol=1e-10)


@pytest.mark.parametrize("heads", [0, -2, 3, 4])
def test_value_relation_needs_heads_that_divide(heads):
    with pytest.raises(ValueError, match=rf"got {heads}: student \[3, 5, 4\]"):
        losses.value_relation(VALUES, OTHER_VALUES, heads=heads)
