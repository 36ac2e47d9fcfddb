"""What is true of single response losses, beyond the shared laws."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from tests.losses.programs import losses
from tests.losses.references import response as reference

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(2, 8, 5)).astype(np.float32) * 3
LABELS = RNG.integers(0, 5, 8).astype(np.int32)
close = np.testing.assert_allclose


def test_two_classes_by_hand():
    student, teacher = np.log([[0.25, 0.75]]), np.log([[0.5, 0.5]])
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    close(losses.soft_target_kl(student, teacher), [expected], rtol=1e-6)
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    close(losses.reverse_kl(student, teacher), [expected], rtol=1e-6)
    close(losses.total_variation(student, teacher), [0.25], rtol=1e-6)
    close(losses.probability_mse(student, teacher), [0.125], rtol=1e-6)


def test_cross_entropy_is_kl_plus_entropy():
    T = 3.0
    p = softmax(TEACHER.astype(np.float64) / T, axis=-1)
    entropy = -(p * np.log(p)).sum(-1)
    kl = losses.soft_target_kl(STUDENT, TEACHER, temperature=T)
    ce = losses.soft_target_cross_entropy(STUDENT, TEACHER, temperature=T)
    close(ce, kl + T**2 * entropy, rtol=1e-5)


def test_decoupled_kl_recombines_to_kl():
    """KD = TCKD + (1 − p_y) NCKD, equation 5 of the DKD paper."""
    T = 4.0
    p_y = softmax(TEACHER / T, axis=-1)[np.arange(8), LABELS]

    def dkd(alpha, beta):
        weights = {"alpha": alpha, "beta": beta, "temperature": T}
        return losses.decoupled_kl(STUDENT, TEACHER, LABELS, **weights)

    recombined = dkd(1.0, 0.0) + (1 - p_y) * dkd(0.0, 1.0)
    whole = losses.soft_target_kl(STUDENT, TEACHER, temperature=T)
    close(recombined, whole, rtol=1e-5)


def test_decoupled_kl_second_term_is_nothing_for_two_classes():
    def second(s, t):
        out = losses.decoupled_kl(s, t, LABELS % 2, alpha=0.0, beta=8.0)
        return out.sum(), out

    program = jax.jit(jax.grad(second, (0, 1), has_aux=True))
    gradients, values = program(1e4 * STUDENT[:, :2], TEACHER[:, :2])
    assert np.all(np.asarray(values) == 0)
    assert all(np.all(np.asarray(g) == 0) for g in gradients)


def test_decoupled_kl_keeps_the_rest_of_a_sure_teacher():
    """A fixed offset for the target class would fail here: |z|/T is 2,500."""
    teacher = np.float32([[1e4, 1.0, 3.0]])
    student = np.float32([[1e4, 3.0, 1.0]])
    value = losses.decoupled_kl(student, teacher, np.array([0]), alpha=0.0, beta=1.0)
    pair = losses.soft_target_kl(student[:, 1:], teacher[:, 1:], temperature=4.0)
    close(value, pair, rtol=1e-6)


LABELLED = ["decoupled_kl", "normalized_kd", "weighted_soft_labels"]


@pytest.mark.parametrize("name", LABELLED)
def test_one_class_is_nothing(name):
    def loss(s, t):
        return getattr(losses, name)(s, t, np.zeros(8, np.int32)).sum()

    program = jax.jit(jax.value_and_grad(loss, (0, 1)))
    value, gradients = program(STUDENT[:, :1], TEACHER[:, :1])
    assert value == 0
    assert all(np.all(np.asarray(g) == 0) for g in gradients)


@pytest.mark.parametrize("name", LABELLED)
def test_a_label_outside_the_classes_is_finite(name):
    def loss(s, t):
        return getattr(losses, name)(s, t, np.int32([-1, 5, 99, 0, 1, 2, 3, 4])).sum()

    value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(STUDENT, TEACHER)
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(g)) for g in gradients)


def test_weighted_soft_labels_has_no_gradient_in_its_weight():
    weights = reference.soft_label_weights(STUDENT, TEACHER, LABELS)

    def weighted(s, t):
        return losses.weighted_soft_labels(s, t, LABELS).sum()

    def fixed(s, t):
        soft = losses.soft_target_cross_entropy(s, t, temperature=2.0)
        return (jnp.asarray(weights, jnp.float32) * soft).sum()

    ours = jax.jit(jax.grad(weighted, (0, 1)))(STUDENT, TEACHER)
    theirs = jax.jit(jax.grad(fixed, (0, 1)))(STUDENT, TEACHER)
    for a, b in zip(ours, theirs, strict=True):
        close(a, b, rtol=1e-4, atol=1e-5)


def test_skews_without_skew_are_the_plain_divergences():
    pair = STUDENT, TEACHER
    forward = losses.soft_target_kl(*pair, temperature=2.0)
    close(losses.skew_kl(*pair, skew=0.0, temperature=2.0), forward, rtol=1e-6)
    reverse = losses.reverse_kl(*pair, temperature=2.0)
    close(losses.skew_reverse_kl(*pair, skew=0.0, temperature=2.0), reverse, rtol=1e-6)


def test_jensen_shannon_is_continuous_at_both_ends():
    """JS/β → forward KL and JS/(1−β) → reverse KL: no jump in value or gradient."""
    share = 2**-17  # of the other side; exact in float32
    for limit, beta in ((losses.soft_target_kl, share), (losses.reverse_kl, 1 - share)):

        def js(s, t, b=beta, w=share):
            value = losses.jensen_shannon(s, t, beta=b)
            return value.sum() / w

        def plain(s, t, fn=limit):
            return fn(s, t).sum()

        pair = STUDENT / 3, TEACHER / 3
        a = jax.jit(jax.value_and_grad(js))(*pair)
        b = jax.jit(jax.value_and_grad(plain))(*pair)
        close(a[0], b[0], rtol=1e-3)
        close(a[1], b[1], rtol=1e-3, atol=1e-3)


def test_jensen_shannon_is_symmetric_and_bounded():
    far, near = np.float32([[500.0, 0, 0]]), np.float32([[0, 500.0, 0]])
    close(losses.jensen_shannon(far, near), [math.log(2)], rtol=1e-6)
    there = losses.jensen_shannon(STUDENT, TEACHER, beta=0.3)
    back = losses.jensen_shannon(TEACHER, STUDENT, beta=0.7)
    close(there, back, rtol=1e-6)


def test_transformed_teacher_matching_with_power_one_is_kl():
    value = losses.transformed_teacher_matching(STUDENT, TEACHER, power=1.0)
    close(value, losses.soft_target_kl(STUDENT, TEACHER), rtol=1e-6)


def test_total_variation_has_zero_gradient_at_its_kink():
    zero = jax.jit(jax.grad(lambda s, t: losses.total_variation(s, t).sum()))
    close(zero(TEACHER, TEACHER), 0.0, atol=1e-6)


def test_bounded_regression_asks_only_who_is_worse():
    student = np.float32([1.0, 3.0, 2.0, 2.0])
    teacher = np.float32([2.0, 2.0, 2.0, 2.0])
    targets = np.zeros(4, np.float32)

    def call(margin):
        return losses.bounded_regression(student, teacher, targets, margin=margin)

    assert call(0.0).tolist() == [0.0, 9.0, 0.0, 0.0]  # a tie is not worse
    assert call(1.0).tolist() == [0.0, 9.0, 4.0, 4.0]
    assert call(3.5).tolist() == [1.0, 9.0, 4.0, 4.0]


def test_regression_refuses_what_has_no_documented_meaning():
    for shape in ((), (2, 3, 4), (2, 0)):
        array = np.zeros(shape, np.float32)
        with pytest.raises(ValueError, match="regression_mse: student must be"):
            losses.regression_mse(array, array)


def test_standardized_logits_have_mean_zero_and_deviation_one():
    out = np.asarray(losses.standardize_logits(STUDENT))
    close(out.mean(-1), 0.0, atol=1e-6)
    close(out.std(-1, ddof=1), 1.0, rtol=1e-5)


def test_standardizing_keeps_small_differences_of_large_logits():
    small = np.float32([[0.0, 0.25, 0.5, -0.75], [1.0, 0.0, 0.0, 0.0]])
    out = losses.standardize_logits(small + np.float32(1e4))
    close(out, losses.standardize_logits(small), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("row", [[5.1] * 3, [0] * 3, [3e38] * 3, [0.1]])
def test_a_constant_row_standardizes_to_zero(row):
    def loss(z):
        return (losses.standardize_logits(z) * jnp.arange(1.0, len(row) + 1)).sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(np.float32(row))
    assert value == 0
    assert np.all(np.asarray(gradient) == 0)


def test_progressive_targets_go_from_labels_to_predictions():
    onehot = np.eye(5, dtype=np.float32)[LABELS]
    hard = losses.progressive_targets(STUDENT, LABELS, amount=0.0)
    soft = losses.progressive_targets(STUDENT, LABELS, amount=1.0)
    half = losses.progressive_targets(STUDENT, LABELS, amount=0.5)
    close(hard, onehot)
    close(soft, jax.nn.softmax(STUDENT), rtol=1e-6)
    close(half, (onehot + soft) / 2, rtol=1e-6)
    close(half.sum(-1), 1.0, rtol=1e-6)


@pytest.mark.parametrize("correct", [0.0, 0.5, 0.99, 1.0])
def test_virtual_teacher_is_a_distribution(correct):
    logits = losses.virtual_teacher(LABELS, 5, correct=correct)
    assert np.all(np.isfinite(logits))
    probs = np.exp(np.asarray(logits, np.float64))
    close(probs.sum(-1), 1.0, rtol=1e-6)
    close(probs[np.arange(8), LABELS], correct, rtol=1e-6)
    values = losses.soft_target_kl(STUDENT, logits)
    assert np.all(np.isfinite(values))


def test_virtual_teacher_of_no_or_one_class():
    with pytest.raises(ValueError, match="virtual_teacher: num_classes"):
        losses.virtual_teacher(LABELS, 0)
    one = losses.virtual_teacher(np.zeros(2, np.int32), 1, correct=1.0)
    assert one.tolist() == [[0.0], [0.0]]


PAIR = (STUDENT, TEACHER)
OUT_OF_RANGE = [
    *(
        (name, PAIR, {"temperature": bad})
        for name in ("soft_target_kl", "soft_target_cross_entropy", "reverse_kl")
        for bad in (0, 0.0, -1.0, math.nan, math.inf)
    ),
    *(
        (name, PAIR, {"temperature": -1.0})
        for name in (
            *("jensen_shannon", "skew_kl", "skew_reverse_kl"),
            *("total_variation", "probability_mse"),
        )
    ),
    *((name, (*PAIR, LABELS), {"temperature": 0.0}) for name in LABELLED),
    *(("jensen_shannon", PAIR, {"beta": bad}) for bad in (-0.1, 1.1, math.nan)),
    *(("skew_kl", PAIR, {"skew": bad}) for bad in (-0.1, 1.1)),
    *(("skew_reverse_kl", PAIR, {"skew": bad}) for bad in (-0.1, 1.1)),
    *(("transformed_teacher_matching", PAIR, {"power": bad}) for bad in (0.0, -1.0)),
    *(("progressive_targets", (STUDENT, LABELS), {"amount": b}) for b in (-0.1, 1.1)),
    *(("virtual_teacher", (LABELS, 5), {"correct": bad}) for bad in (-0.1, 1.1)),
]


@pytest.mark.parametrize(("name", "args", "bad"), OUT_OF_RANGE)
def test_plain_numbers_out_of_range_are_refused(name, args, bad):
    [hyper] = bad
    with pytest.raises(ValueError, match=f"^{name}: {hyper} must be"):
        getattr(losses, name)(*args, **bad)


def test_a_loss_runs_inside_scan():
    def value_and_grad(student, temperature):
        return jax.value_and_grad(
            lambda s: losses.soft_target_kl(s, TEACHER, temperature=temperature).mean()
        )(student)

    def body(student, temperature):
        value, gradient = value_and_grad(student, temperature)
        return student - gradient, value

    temperatures = np.float32([1.0, 2.0, 4.0])
    last, path = jax.lax.scan(body, jnp.asarray(STUDENT), temperatures)
    student, step = STUDENT, jax.jit(value_and_grad)
    for temperature, value in zip(temperatures, path, strict=True):
        expected, gradient = step(student, temperature)
        close(value, expected, rtol=1e-5)
        student = student - gradient
    close(last, student, rtol=1e-5, atol=1e-6)


def test_one_side_in_float64_makes_the_result_float64():
    with jax.enable_x64(True):
        out = losses.soft_target_kl(STUDENT, TEACHER.astype(np.float64))
        assert out.dtype == jnp.float64
    assert losses.soft_target_kl(STUDENT, TEACHER).dtype == jnp.float32
