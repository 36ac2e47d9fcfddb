"""What is true of single losses of maps, beyond the shared laws."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.losses.law import one_per_program
from tests.losses.programs import losses
from tests.losses.references import feature_structure as reference
from tests.losses.rows import feature_structure as rows

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(2, 4, 3, 5, 2)).astype(np.float32)
close = np.testing.assert_allclose


@pytest.mark.parametrize("law", one_per_program(rows.ROWS), ids=str)
def test_the_extremes_of_float32_are_finite(law):
    """The largest numbers and denormal ones, on one side and on both."""
    rng = np.random.default_rng(1)
    info = np.finfo(np.float32)
    ends = np.float32([info.max, -info.max, info.tiny, 1e-45, 0.0, 1.0])

    @jax.jit
    def graded(*args):
        def loss(*moving):
            values = law.fn(*moving, **law.hyper, **law.static)
            return values.sum(), values

        return jax.grad(loss, law.floats, has_aux=True)(*args)

    args = law.draw()
    for _ in range(3):
        wild = [rng.choice(ends, a.shape) for a in args]
        for case in (wild, [wild[0], *args[1:]], [*args[:-1], wild[-1]]):
            gradients, values = graded(*case)
            assert np.all(np.isfinite(values))
            assert all(np.all(np.isfinite(g)) for g in gradients)


def test_hierarchical_context_has_levels_below_the_shorter_side_only():
    thin, other = STUDENT[:, :1], TEACHER[:, :1]
    mse = ((thin - other) ** 2).mean(axis=(1, 2, 3))
    close(losses.hierarchical_context(thin, other), mse, rtol=1e-6)
    constant = np.full((1, 5, 5, 1), 3.0, np.float32)
    close(losses.hierarchical_context(constant, 0 * constant), [9.0], rtol=1e-6)


def test_hierarchical_context_by_hand():
    """Levels 2 and 1 of a line of four: 1/2 and 1/4, over 7/4."""
    line = np.float32([[[1.0], [1.0], [-1.0], [-3.0]]])
    expected = (12 / 4 + (1 + 4) / 2 / 2 + 0.5**2 / 4) / 1.75
    close(losses.hierarchical_context(line, 0 * line), [expected], rtol=1e-6)


def test_class_activation_does_not_see_the_scale_of_a_class():
    scaled = STUDENT * np.float32([1e-3, 40.0])
    assert np.all(losses.class_activation(STUDENT, scaled) < 1e-12)
    flipped = losses.class_activation(STUDENT, -STUDENT)
    close(flipped, np.full(4, 4 / 4), rtol=1e-5)  # ‖2ŝ‖² over 2 × 2 places


def test_class_activation_enlarges_by_repeating():
    large = STUDENT.repeat(2, axis=1)[:, :6].repeat(2, axis=2)
    close(losses.class_activation(STUDENT, large, size=30), 0.0, atol=1e-12)
    with pytest.raises(ValueError, match="class_activation: size must be an int of at"):
        losses.class_activation(STUDENT, TEACHER, size=0)


def test_channel_wise_kl_is_the_kl_of_places():
    flat = [m.reshape(4, -1, 2).swapaxes(1, 2) for m in (STUDENT, TEACHER)]
    expected = losses.soft_target_kl(*flat, temperature=4.0).mean(axis=-1)
    close(losses.channel_wise_kl(STUDENT, TEACHER), expected, rtol=1e-6)
    shift = np.float32([5.0, -3.0])
    close(losses.channel_wise_kl(STUDENT, STUDENT + shift), 0.0, atol=1e-10)


def test_channel_correlation_of_a_zero_channel():
    """Its row and column are 0: one row of norm 1 is missing, one is shorter."""
    student = np.float32([[[3.0, 0.0], [4.0, 0.0]]])
    teacher = np.float32([[[1.0, 0.0], [0.0, 1.0]]])
    close(losses.channel_correlation(student, teacher), [(0 + 1) / 2], rtol=1e-6)
    close(losses.channel_correlation(0 * student, teacher), [(1 + 1) / 2], rtol=1e-6)


def test_a_tiny_channel_beside_huge_ones_has_a_finite_gradient():
    """Where the gradient of its products is 1e48."""
    channels = np.float32([[0, -1e-30, 0], [0, 1e20, 3e38], [0, -1e20, 1]])
    graded = jax.value_and_grad(
        lambda s: losses.channel_correlation(s, np.eye(3, dtype=np.float32)[None])[0]
    )
    value, gradient = jax.jit(graded)(channels.T[None])
    assert value > 0
    assert np.all(np.isfinite(gradient))


def test_channel_correlation_does_not_see_places():
    order = np.random.default_rng(1).permutation(15)
    moved = STUDENT.reshape(4, 15, 2)[:, order].reshape(STUDENT.shape)
    close(losses.channel_correlation(STUDENT, moved), 0.0, atol=1e-11)
    sizes = np.float32([1e20, 1e-20])  # a channel may be much smaller than another
    value = losses.channel_correlation(STUDENT * sizes, TEACHER)
    wide = (STUDENT.astype(np.float64) * sizes, TEACHER.astype(np.float64))
    close(value, reference.channel_correlation(*wide), rtol=1e-5)


def test_pearson_features_is_one_minus_the_correlation():
    n = STUDENT[..., 0].size
    flat = [m.reshape(n, 2).T for m in (STUDENT, TEACHER)]
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(*flat, strict=True)]
    value = losses.pearson_features(STUDENT, TEACHER).mean()
    close(value, (n - 1) / n * (1 - np.mean(r)), rtol=1e-5)
    close(losses.pearson_features(STUDENT, 3 * STUDENT + 7), 0.0, atol=1e-10)


@given(mean=st.floats(-1e4, 1e4), log_std=st.floats(-3, 3))
@settings(max_examples=25, deadline=None)
def test_pearson_features_keeps_small_variation_of_a_large_mean(mean, log_std):
    student = (mean + 10**log_std * STUDENT).astype(np.float32)
    wide = (student.astype(np.float64), TEACHER.astype(np.float64))
    expected = reference.pearson_features(*wide)
    close(losses.pearson_features(student, TEACHER), expected, rtol=1e-5)


def test_pearson_features_of_constant_channels():
    student = STUDENT.copy()
    student[..., 0] = 0.1
    loss = jax.grad(lambda s: losses.pearson_features(s, TEACHER).mean())
    gradient = jax.jit(loss)(student)
    assert np.all(gradient[..., 0] == 0)
    assert np.any(gradient[..., 1] != 0)
    close(losses.pearson_features(np.ones((1, 1, 1)), np.zeros((1, 1, 1))), [0.0])


def test_semantic_calibration_of_one_pair_is_a_weighted_hint():
    weights = np.float32([1.0, 0.0, 0.5, 2.0]).reshape(4, 1, 1)
    expected = weights[:, 0, 0] * ((STUDENT - TEACHER) ** 2).mean(axis=(1, 2, 3))
    close(
        losses.semantic_calibration(weights, [[STUDENT]], [[TEACHER]]),
        expected,
        rtol=1e-6,
    )


def test_semantic_calibration_takes_pairs_of_any_sizes():
    weights = np.full((4, 1, 2), 0.5, np.float32)
    maps = [[STUDENT, STUDENT[:, :2, :, :1]]], [[TEACHER, TEACHER[:, :, :4, 1:]]]
    first, second = (
        losses.semantic_calibration(weights[:, :, :1], [[s]], [[t]])
        for s, t in zip(maps[0][0], maps[1][0], strict=True)
    )
    close(losses.semantic_calibration(weights, *maps), first + second, rtol=1e-6)


def test_semantic_calibration_says_which_maps_are_missing():
    weights = np.ones((4, 2, 1), np.float32)
    good = [[STUDENT], [STUDENT]]
    message = r"^semantic_calibration: teacher_maps .* \[4, 2, 1\].* lengths \[1\]"
    with pytest.raises(ValueError, match=message):
        losses.semantic_calibration(weights, good, good[:1])
    with pytest.raises(ValueError, match=r"student_maps .* lengths \[1, 2\]"):
        losses.semantic_calibration(weights, [[STUDENT], [STUDENT] * 2], good)
    with pytest.raises(ValueError, match=r"weights \[3, 2, 1\], maps \[4, 3, 5, 2\]"):
        losses.semantic_calibration(weights[1:], good, good)
    with pytest.raises(ValueError, match="weights must be"):
        losses.semantic_calibration(weights[0], good, good)


LAYERS = [RNG.normal(size=(2, *s)) for s in ((4, 3), (3, 2, 4), (5, 2))]
OTHER_LAYERS = [RNG.normal(size=(2, *s)) for s in ((4, 3), (2, 3, 4), (6, 2))]


def _singular(student, teacher):
    return jax.jit(losses.singular_value)(student, teacher)


def test_singular_value_of_layers_of_any_sizes():
    expected = reference.singular_value(LAYERS, OTHER_LAYERS, rank=1)
    close(_singular(LAYERS, OTHER_LAYERS), expected, rtol=1e-4, atol=1e-8)


def test_singular_value_does_not_see_signs_and_places():
    value = _singular(LAYERS, OTHER_LAYERS)
    turned = [-1.0, 2.0, -3.0]
    close(
        _singular(
            [x * m[:, ::-1] for x, m in zip(turned, LAYERS, strict=True)],
            [-x * m for x, m in zip(turned, OTHER_LAYERS, strict=True)],
        ),
        _singular([m[:, ::-1] for m in LAYERS], OTHER_LAYERS),
        rtol=1e-4,
    )
    flipped = [m[:, ::-1] for m in OTHER_LAYERS]
    close(_singular([m[:, ::-1] for m in LAYERS], flipped), value, rtol=1e-4)


def test_singular_value_where_vectors_are_not_unique():
    """Equal singular values, none at all, and a vector that has no direction."""
    even = np.tile(np.eye(3, dtype=np.float32), (2, 2, 1))
    line = np.ones((2, 6, 3), np.float32)

    @jax.jit
    def graded(s, t):
        def loss(s, t):
            values = losses.singular_value(s, t, rank=3)
            return values.sum(), values

        return jax.grad(loss, (0, 1), has_aux=True)(s, t)

    kinds = (even, line, 0 * line, 1e-30 * even, 1e30 * even)
    for student in kinds:
        for teacher in kinds:
            gradients, values = graded([student, line], [teacher, even])
            assert np.all(np.isfinite(values))
            assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(gradients))
        gradients, values = graded([student, even], [student, even])
        assert np.all(values == 0)
        assert all(np.all(g == 0) for g in jax.tree.leaves(gradients))


def test_singular_values_on_two_threads_do_not_wait_for_each_other():
    """Each call of LAPACK holds one and waits: two at once would wait forever."""
    program = """
import jax, numpy
from kdjax import losses
maps = numpy.random.default_rng(0).normal(size=(2, 8, 64, 30, 16)).astype("f4")
loss = jax.jit(lambda s, t: losses.singular_value([*s], [*t]))
for _ in range(10):
    loss(*maps).block_until_ready()
"""
    two = {**os.environ, "NPROC": "2", "JAX_NUM_CPU_DEVICES": "1"}
    subprocess.run([sys.executable, "-c", program], env=two, check=True, timeout=60)


def test_singular_value_checks_layers_and_rank():
    with pytest.raises(ValueError, match=r"singular_value: .* got 1 and 1 maps"):
        losses.singular_value(LAYERS[:1], OTHER_LAYERS[:1])
    with pytest.raises(ValueError, match=r"singular_value: .* got 2 and 3 maps"):
        losses.singular_value(LAYERS[:2], OTHER_LAYERS)
    with pytest.raises(ValueError, match="one batch size"):
        other = [LAYERS[0], LAYERS[1][:1]]
        losses.singular_value(other, other)
    for rank in (0, 3):
        with pytest.raises(ValueError, match=f"rank must be from 1 to 2, got {rank}"):
            losses.singular_value(LAYERS, OTHER_LAYERS, rank=rank)
