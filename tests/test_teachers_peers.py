"""Networks that teach each other, know different classes, or answer together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses, teachers
from tests.test_teachers_rules import BATCH, LOGITS, STUDENT, K, softmax


def test_each_other_is_the_mean_over_the_others_without_their_gradient():
    z = jnp.float32(LOGITS)
    found = jax.jit(lambda z: teachers.each_other(z, losses.soft_target_kl))(z)
    p = softmax(LOGITS)
    for i in range(K):
        kl = [(p[j] * np.log(p[j] / p[i])).sum(-1) for j in range(K) if j != i]
        np.testing.assert_allclose(found[i], np.mean(kl, axis=0), rtol=1e-4)

    def one(z):
        return teachers.each_other(z, losses.soft_target_kl)[0].sum()

    gradient = jax.jit(jax.grad(one))(z)
    assert np.abs(gradient[0]).max() > 0
    assert (gradient[1:] == 0).all()
    assert (teachers.each_other(z[:1], losses.soft_target_kl) == 0).all()

    def far(z):  # has no slope at equality, which no student is compared at
        return teachers.each_other(
            z, lambda s, t: jnp.sqrt(((s - t) ** 2).sum(-1))
        ).sum()

    assert np.isfinite(jax.jit(jax.grad(far))(z)).all()


def test_own_classes_sees_no_other_classes():
    own = ((0, 1), (1, 3, 2))
    student = jnp.float32(STUDENT)
    known = jnp.float32(LOGITS[0, :, :2]), jnp.float32(LOGITS[1, :, :3])
    kl = losses.soft_target_kl
    expected = (kl(student[:, :2], known[0]) + kl(student[:, [1, 3, 2]], known[1])) / 2
    found = teachers.own_classes(student, known, own, kl)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    broken = known[0].at[0, 0].set(jnp.nan), known[1]
    alone = kl(student[:, [1, 3, 2]], known[1])
    np.testing.assert_allclose(
        teachers.own_classes(student, broken, own, kl), alone, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("known", "own", "match"),
    [
        ((2,), ((0, 1), (2,)), "1 teachers and 2 lists"),
        ((), (), "0 teachers"),
        ((2,), ((0, 0),), "must be different"),
        ((2,), ((0, 4),), r"in \[0, 4\)"),
        ((3,), ((0, 1),), r"must be \[5, 2\].*got \[5, 3\]"),
    ],
)
def test_own_classes_that_do_not_fit_are_refused(known, own, match):
    logits = [jnp.ones((BATCH, size)) for size in known]
    with pytest.raises(ValueError, match=match):
        teachers.own_classes(jnp.float32(STUDENT), logits, own, losses.soft_target_kl)


def test_a_cascade_asks_where_the_student_is_not_sure():
    teacher = jnp.float32(LOGITS[0])
    sure = softmax(STUDENT).max(-1)
    for threshold in (0.0, float(np.median(sure)) + 1e-4, 1.0):
        logits, asked = teachers.cascade(jnp.float32(STUDENT), teacher, threshold)
        np.testing.assert_array_equal(asked, sure < threshold)
        expected = np.where(asked[:, None], teacher, jnp.float32(STUDENT))
        np.testing.assert_array_equal(logits, expected)
    lost = jnp.float32(STUDENT).at[0].set(jnp.nan)
    logits, asked = teachers.cascade(lost, teacher, 0.0)
    assert asked.tolist() == [True, False, False, False, False]
    assert np.isfinite(logits).all()
    with pytest.raises(ValueError, match="threshold must be in"):
        teachers.cascade(teacher, teacher, 1.5)
