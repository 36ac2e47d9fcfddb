"""The shared numerics: accuracy where the plain formulas lose it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax as exact_log_softmax

from kdjax.losses._softmax import kl, kl_to_mixture, log_softmax
from tests.losses.programs import losses

F32 = np.float32


def _pair(classes=200, scale=1.0, batch=8, seed=0):
    rng = np.random.default_rng(seed)
    return (scale * rng.normal(size=(2, batch, classes))).astype(F32)


def _exact(student, teacher, temperature):
    """Return T²·KL and its gradients, in float64."""
    log_q = exact_log_softmax(student.astype(np.float64) / temperature, axis=-1)
    log_p = exact_log_softmax(teacher.astype(np.float64) / temperature, axis=-1)
    p, q, d = np.exp(log_p), np.exp(log_q), log_p - log_q
    value = np.sum(p * d, axis=-1, keepdims=True)
    by_student, by_teacher = temperature * (q - p), temperature * p * (d - value)
    return temperature**2 * value[:, 0], by_student, by_teacher


def _norm_error(actual, expected):
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


@jax.jit
def _soft_target_kl(student, teacher, temperature):
    def loss(s, t, T):
        return losses.soft_target_kl(s, t, temperature=T)

    values, pull = jax.vjp(loss, student, teacher, temperature)
    return values, *pull(jnp.ones_like(values))


@pytest.mark.parametrize("temperature", [1.0, 20.0, 100.0])
def test_kl_keeps_its_digits_at_any_temperature(temperature):
    student, teacher = _pair()
    actual = _soft_target_kl(student, teacher, temperature)
    expected = _exact(student, teacher, temperature)
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-6)
    assert _norm_error(actual[1], expected[1]) < 1e-6
    assert _norm_error(actual[2], expected[2]) < 1e-6


def test_kl_keeps_its_digits_near_equality():
    teacher, noise = _pair()
    student = (teacher + F32(1e-3) * noise).astype(F32)
    values, *_ = _soft_target_kl(student, teacher, 1.0)
    exact, *_ = _exact(student, teacher, 1.0)
    np.testing.assert_allclose(values, exact, rtol=2e-4)
    log_p, log_q = (exact_log_softmax(z, axis=-1) for z in (teacher, student))
    assert log_p.dtype == np.float32
    worst = np.abs(np.sum(np.exp(log_p) * (log_p - log_q), -1) / exact - 1).max()
    assert worst > 1e-2  # what the plain form makes of the same input


def test_kl_is_exactly_zero_at_equality():
    student, _ = _pair(classes=5, scale=30.0)
    for fn in (losses.soft_target_kl, losses.reverse_kl, losses.jensen_shannon):
        assert np.all(np.asarray(fn(student, student.copy())) == 0)


def test_kl_terms_are_continuous_where_the_form_changes():
    below, above = np.nextafter(F32(0.5), F32(0)), np.nextafter(F32(0.5), F32(1))
    for sign in (1, -1):
        values = []
        for ratio in (sign * below, sign * above):
            p = F32([0.3])
            values.append(float(kl(p, p * np.exp(-ratio), jnp.asarray([ratio]))))
        np.testing.assert_allclose(values[0], values[1], rtol=1e-5)


@jax.jit
@jax.vmap
def _mixture(p, q, weight):
    def loss(p, q, w):
        return kl_to_mixture(log_softmax(p), log_softmax(q), w)

    value, gradients = jax.value_and_grad(loss, (0, 1, 2))(p, q, weight)
    return value, *gradients


@pytest.mark.parametrize("weight", [0.0, 1e-30, 1e-6, 0.3, 1 - 1e-6, 1.0])
def test_mixture_in_all_limits(weight):
    q, p = _pair(classes=6, scale=3.0)
    q[0], p[0] = [0, 1e4, -1e4, 5, 0, 0], [1e4, 0, 0, 2, -1e4, 0]

    w32 = np.full(len(p), weight, F32)
    values, by_p, by_q, by_w = _mixture(p, q, w32)
    log_p = exact_log_softmax(p.astype(np.float64), axis=-1)
    log_q = exact_log_softmax(q.astype(np.float64), axis=-1)
    w = float(w32[0])
    with np.errstate(divide="ignore"):
        log_m = np.logaddexp(np.log(w) + log_p, np.log1p(-w) + log_q)
    expected = np.sum(np.exp(log_p) * (log_p - log_m), axis=-1)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-12)
    for gradient in (by_p, by_q, by_w):
        assert np.all(np.isfinite(gradient))


def test_log_softmax_of_all_kinds_of_rows():
    inf = np.inf
    rows = F32([[1, 2, 3], [-inf, 0, 0], [-inf] * 3, [3e38, -3e38, 0], [3e38] * 3])
    half = [0.0, 0.5, 0.5]
    third = [1 / 3] * 3
    exact = np.exp([1, 2, 3]) / np.exp([1, 2, 3]).sum()
    probs = log_softmax(rows).probs
    np.testing.assert_allclose(probs, [exact, half, third, [1, 0, 0], third], rtol=1e-6)
    nothing = log_softmax(rows, 1.0, np.zeros(3, bool))
    assert np.all(np.asarray(nothing.probs) == 0)
    assert np.all(np.isfinite(nothing.log_probs))


def test_nan_is_not_hidden():
    values = losses.soft_target_kl(F32([[np.nan, 0.0]]), F32([[0.0, 0.0]]))
    assert np.isnan(values[0])


@pytest.mark.parametrize("temperature", [1e-12, 1e-3, 1e4])
def test_extreme_temperatures_are_finite(temperature):
    student, teacher = _pair(scale=100.0)
    _, *gradients = _soft_target_kl(student, teacher, temperature)
    assert all(np.all(np.isfinite(g)) for g in gradients)
