"""What the laws do not say of losses of tokens and frames."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from kdjax.losses import align_layers
from tests.losses.programs import losses


@pytest.fixture(scope="module")
def both():
    return np.random.default_rng(0).normal(size=(2, 6, 50)).astype(np.float32) * 3


def best(teacher, k):
    return jax.jit(lambda t: jax.lax.top_k(jax.nn.log_softmax(t), k))(teacher)


def test_more_stored_classes_come_nearer_to_the_full_divergence(both):
    student, teacher = both
    full = losses.soft_target_kl(student, teacher)
    values = [losses.top_k_kl(student, *best(teacher, k)) for k in (1, 5, 20, 50)]
    for few, more in zip(values, [*values[1:], full], strict=True):
        assert np.all(few <= more + 1e-5)  # merging classes never adds divergence
    np.testing.assert_allclose(values[-1], full, rtol=1e-5)


def test_the_order_of_what_is_stored_does_not_count(both):
    student, teacher = both
    log_probs, ids = best(teacher, 5)
    turned = losses.top_k_kl(student, log_probs[:, ::-1], ids[:, ::-1])
    expected = losses.top_k_kl(student, log_probs, ids)
    np.testing.assert_allclose(turned, expected, rtol=1e-5)


def test_without_a_tail_other_classes_cost_nothing():
    student = jnp.array([[0.0, 0.0, 50.0]])  # all on a class that is not stored
    log_probs, ids = jnp.log(jnp.array([[0.5, 0.5]])), jnp.array([[0, 1]])
    with_tail = losses.top_k_kl(student, log_probs, ids)
    np.testing.assert_allclose(with_tail, 50 - np.log(2), rtol=1e-5)
    student = jnp.array([[0.0, 1.0, 1.0]])
    log_probs = jnp.log(jnp.array([[0.1, 0.2]]))
    assert losses.top_k_kl(student, log_probs, ids, tail=False)[0] < 0
    assert losses.top_k_kl(student, log_probs, ids)[0] > 0


def test_a_teacher_that_is_sure_has_no_tail():
    student, ids = jnp.array([[2.0, 0.0, -3.0]]), jnp.array([[0, 1]])
    log_probs = jnp.array([[0.0, -jnp.inf]])

    def loss(student, log_probs):
        return losses.top_k_kl(student, log_probs, ids)[0]

    graded = jax.jit(jax.value_and_grad(loss, (0, 1)))
    value, gradients = graded(student, log_probs)
    np.testing.assert_allclose(value, -jax.nn.log_softmax(student)[0, 0], rtol=1e-5)
    expected = jax.nn.softmax(student) - jnp.array([[1.0, 0.0, 0.0]])
    np.testing.assert_allclose(gradients[0], expected, atol=1e-6)
    assert np.all(np.isfinite(gradients[1]))


@pytest.mark.parametrize(
    ("log_probs", "ids"),
    [
        (np.zeros((6, 3), np.float32), np.zeros((6, 2), np.int32)),
        (np.zeros((6, 60), np.float32), np.zeros((6, 60), np.int32)),
        (np.zeros((6, 0), np.float32), np.zeros((6, 0), np.int32)),
        (np.zeros((6, 3), np.float32), np.zeros((6, 3), np.float32)),
        (np.zeros((3,), np.float32), np.zeros((3,), np.int32)),
    ],
)
def test_what_is_stored_is_checked(both, log_probs, ids):
    with pytest.raises(ValueError, match=r"^top_k_kl: "):
        losses.top_k_kl(both[0], log_probs, ids)


@jax.jit
def _stored(student, log_probs, ids):
    def loss(student, log_probs):
        values = losses.top_k_kl(student, log_probs, ids)
        return values.sum(), values

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(student, log_probs)


NUMBERS = st.sampled_from([0.0, -1.0, 1e4, -1e4, 3e38, -3e38, -1e-30, 1e-7])


@hypothesis.given(
    st.lists(NUMBERS, min_size=4, max_size=4), st.lists(NUMBERS, min_size=2, max_size=2)
)
@hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)
def test_finite_for_whatever_is_stored(student, log_probs):
    (_, values), gradients = _stored(
        np.float32([student]), np.float32([log_probs]), np.int32([[2, 0]])
    )
    assert np.all(np.isfinite(values))
    assert all(np.all(np.isfinite(g)) for g in gradients)


def test_masked_frames_are_nothing_whatever_they_hold():
    rng = np.random.default_rng(1)
    student, teacher = rng.normal(size=(2, 2, 4, 3)).astype(np.float32)
    where = np.array([[True, True, False, False], [True, True, True, False]])
    spoiled = [np.where(where[..., None], a, np.nan) for a in (student, teacher)]

    def loss(student, teacher):
        values = losses.ctc_frames(student, teacher, where=where)
        return values.sum(), values

    graded = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    (_, values), gradients = graded(*spoiled)
    full = losses.ctc_frames(student, teacher)
    np.testing.assert_allclose(values, np.where(where, full, 0.0), rtol=1e-6)
    for gradient in gradients:
        assert np.all(np.isfinite(gradient))
        assert np.all(np.asarray(gradient)[~where] == 0)


def test_a_teacher_of_twice_the_rate_counts_in_pairs():
    rng = np.random.default_rng(2)
    student = rng.normal(size=(2, 3, 4)).astype(np.float32)
    teacher = rng.normal(size=(2, 6, 4)).astype(np.float32)
    expected = losses.soft_target_kl(student, (teacher[:, ::2] + teacher[:, 1::2]) / 2)
    found = losses.ctc_frames(student, teacher)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1), (2, 4), (3,)])
def test_a_mask_of_another_shape_is_refused(shape):
    frames = jnp.zeros((2, 4, 3)) if shape != (2, 4) else jnp.zeros((2, 3, 3))
    with pytest.raises(ValueError, match=r"^ctc_frames: where must"):
        losses.ctc_frames(frames, frames, where=np.ones(shape, bool))


def test_layers_are_spread_evenly_and_the_last_follows_the_last():
    assert align_layers(4, 12) == [(0, 2), (1, 5), (2, 8), (3, 11)]
    assert align_layers(3, 3) == [(0, 0), (1, 1), (2, 2)]
    assert align_layers(1, 24) == [(0, 23)]
    for students in range(1, 9):
        for teachers in range(1, 9):
            pairs = align_layers(students, teachers)
            assert [student for student, _ in pairs] == list(range(students))
            followed = [teacher for _, teacher in pairs]
            assert followed == sorted(followed)
            assert followed[-1] == teachers - 1
            gaps = np.diff([-1, *followed])
            assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("count", [0, -2, 1.5, "3"])
def test_a_number_of_layers_is_a_number(count):
    for pair in ((count, 4), (4, count)):
        with pytest.raises(ValueError, match=r"^align_layers: n_"):
            align_layers(*pair)


def test_empty_places_are_not_stored(both):
    student, teacher = both
    log_probs, ids = best(teacher, 5)
    expected = losses.top_k_kl(student, log_probs[:, :4], ids[:, :4])
    for empty in (-1, 50, 10**6):
        found = losses.top_k_kl(student, log_probs, ids.at[:, 4].set(empty))
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_padding_of_a_teacher_of_another_rate_reaches_no_kept_frame():
    rng = np.random.default_rng(3)
    student = rng.normal(size=(1, 3, 4)).astype(np.float32)
    teacher = rng.normal(size=(1, 6, 4)).astype(np.float32)
    where = np.array([[True, True, False]])
    spoiled = teacher.copy()
    spoiled[:, 4:] = np.nan

    def loss(teacher):
        values = losses.ctc_frames(student, teacher, where=where)
        return values.sum(), values

    graded = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, values), gradient = graded(spoiled)
    expected = losses.ctc_frames(student, teacher, where=where)
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert np.all(np.asarray(gradient)[:, 4:] == 0)
