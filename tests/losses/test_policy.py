"""What is true of single policy losses, beyond the shared laws."""

import functools

import jax
import numpy as np
import pytest
from scipy import integrate, stats

from tests.losses.edges import EDGES
from tests.losses.programs import losses
from tests.losses.references import policy as reference

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(2, 8, 5)).astype(np.float32)
close = np.testing.assert_allclose


@functools.cache
def _program(name, arrays):
    def loss(*args):
        values = getattr(losses, name)(*args)
        return values.sum(), values

    return jax.jit(jax.value_and_grad(loss, tuple(range(arrays)), has_aux=True))


def test_policy_kl_at_the_published_temperature():
    q = np.float32(0.03) * TEACHER  # actions are worth nearly the same
    wide = STUDENT.astype(np.float64), q.astype(np.float64)
    expected = reference.policy_kl(*wide, temperature=0.01)
    close(losses.policy_kl(STUDENT, q), expected, rtol=1e-5)


@pytest.mark.parametrize("edge", EDGES)
def test_policy_kl_is_finite_at_the_published_temperature(edge):
    rng, change = np.random.default_rng(0), EDGES[edge]
    q = change(rng, TEACHER).astype(np.float32)
    (_, values), gradients = _program("policy_kl", 2)(STUDENT, q)
    assert np.all(np.isfinite(values))
    assert np.all(np.asarray(values) >= 0)
    assert all(np.all(np.isfinite(g)) for g in gradients)


def test_a_sharp_teacher_is_its_best_action():
    nll = losses.policy_nll(STUDENT, TEACHER.argmax(axis=1))
    close(losses.policy_kl(STUDENT, 50 * TEACHER, temperature=0.01), nll, rtol=1e-6)


def test_policy_nll_of_no_action_is_nothing():
    values = losses.policy_nll(STUDENT[:2], np.int32([-1, 5]))
    assert np.all(np.asarray(values) == 0)


def test_q_regression_sums_over_actions():
    assert losses.q_regression(np.float32([[1, 2]]), np.float32([[0, 4]]))[0] == 5


def test_gaussian_kl_is_the_integral():
    student, teacher = stats.norm(0.3, 0.8), stats.norm(-0.5, 1.7)

    def density(x):
        return teacher.pdf(x) * (teacher.logpdf(x) - student.logpdf(x))

    expected, _ = integrate.quad(density, -20, 20)
    mean, log_std = np.float32([[0.3, -0.5]]), np.log(np.float32([[0.8, 1.7]]))
    value = losses.gaussian_policy_kl(
        mean[:, :1], log_std[:, :1], mean[:, 1:], log_std[:, 1:]
    )
    close(value, [expected], rtol=1e-5)


def test_gaussian_kl_of_nearly_equal_deviations_keeps_its_digits():
    zero = np.zeros((4, 1), np.float32)
    log_std = np.float32([[1e-5], [-1e-4], [1e-3], [-1e-2]])
    (_, values), _ = _program("gaussian_policy_kl", 4)(zero, log_std, zero, zero)
    exact = log_std.astype(np.float64)[:, 0]
    expected = 0.5 * (np.expm1(-2 * exact) + 2 * exact)
    close(values, expected, rtol=2e-3)  # of the expected one, in float64, at 1e-5
    assert np.all(np.asarray(values) > 0)


def test_gaussian_kl_of_impossible_deviations_is_finite():
    log_std = np.float32([[1e4], [-1e4], [3e38], [-3e38]])
    for s_log in log_std:
        for t_log in log_std:
            for gap in (0.0, 1e-30, 1.0, 3e38):
                arrays = (np.float32([[gap]]), s_log[None], -np.float32([[gap]]))
                (_, values), gradients = _program("gaussian_policy_kl", 4)(
                    *arrays, t_log[None]
                )
                assert np.all(np.isfinite(values))
                assert np.all(np.asarray(values) >= 0)
                assert all(np.all(np.isfinite(g)) for g in gradients)
