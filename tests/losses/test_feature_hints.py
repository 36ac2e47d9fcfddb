"""What is true of single losses of features, beyond the shared laws."""

import functools
import math

import beartype
import hypothesis
import hypothesis.extra.numpy as arrays
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy.stats import norm

from kdjax.losses import flow_of_solution
from tests.losses.programs import losses
from tests.losses.references import feature_hints as reference

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(2, 4, 5, 4, 3)).astype(np.float32)
close = np.testing.assert_allclose
EVERYWHERE = ("hint", "cosine_hint", "factor_transfer", "activation_boundary")
SPATIAL = ("attention_transfer", "neuron_selectivity", "flow_matrix")


@pytest.mark.parametrize("name", EVERYWHERE)
def test_a_vector_is_a_map_of_one_place(name):
    loss = getattr(losses, name)
    vectors, maps = (
        loss(*(a.reshape(4, *shape, 60) for a in (STUDENT, TEACHER)))
        for shape in ((), (1, 1))
    )
    close(vectors, maps, rtol=1e-6)


@pytest.mark.parametrize("name", SPATIAL)
def test_a_vector_has_no_space(name):
    vectors = STUDENT.reshape(4, 60)
    with pytest.raises(ValueError, match=f"^{name}: feature maps must be"):
        getattr(losses, name)(vectors, vectors)
    with pytest.raises(ValueError, match=r"^flow_of_solution: feature maps must be"):
        losses.flow_of_solution((vectors, vectors), (vectors, vectors))


@pytest.mark.parametrize("name", [*EVERYWHERE, *SPATIAL])
def test_maps_are_pooled_axis_by_axis(name):
    """2×2 bins of 5 are 0–2 and 2–4; each side has an axis on which it is larger."""
    loss = getattr(losses, name)
    student, teacher = STUDENT[:, :, :2], TEACHER[:, :2]
    small = np.stack([student[:, :3].mean(1), student[:, 2:].mean(1)], axis=1)
    narrow = teacher.reshape(4, 2, 2, 2, 3).mean(3)
    close(loss(student, teacher), loss(small, narrow), rtol=1e-5)


@pytest.mark.parametrize("name", EVERYWHERE)
def test_projection_is_asked_for(name):
    with pytest.raises(ValueError, match=f"^{name}: numbers of channels must be equal"):
        getattr(losses, name)(STUDENT[..., :2], TEACHER)


def test_numbers_by_hand():
    student, teacher = np.float32([[1.0, 2.0]]), np.float32([[3.0, -2.0]])
    close(losses.hint(student, teacher), [(4 + 16) / 2])
    cosine = (3 - 4) / math.sqrt(5 * 13)
    close(losses.cosine_hint(student, teacher), [1 - cosine], rtol=1e-6)
    gap = abs(1 / 5**0.5 - 3 / 13**0.5) + abs(2 / 5**0.5 + 2 / 13**0.5)
    close(losses.factor_transfer(student, teacher), [gap / 2], rtol=1e-6)
    boundary = losses.activation_boundary(student, teacher, margin=1.5)
    close(boundary, [(0.5**2 + 3.5**2) / 2])
    margin = np.float32([-1.0, -1.0])
    close(losses.margin_relu_l2(student, teacher, margin), [4 + 9])


def test_a_teacher_at_zero_is_inactive():
    student, teacher = np.float32([[-0.5, 2.0]]), np.float32([[0.0, 0.0]])
    close(losses.activation_boundary(student, teacher), [(0.5**2 + 3.0**2) / 2])
    margin = np.float32([-1.0, -1.0])
    close(losses.margin_relu_l2(student, teacher, margin), [2.0**2])


def test_attention_by_hand():
    """Places of size 3 and 4 in one channel, 5 and 0 in the other."""
    student, teacher = np.float32([[[3.0, -4.0], [0.0, 0.0]], [[4.0, 3.0], [5.0, 0.0]]])
    expected = ((1 - 0.5**0.5) ** 2 + 0.5) / 2
    close(
        losses.attention_transfer(student[None], teacher[None]), [expected], rtol=1e-6
    )
    large = losses.attention_transfer(7e37 * student[None], teacher[None])
    close(large, [expected], rtol=1e-6)
    a = np.float32([7.0, 0.0]) / 7 - np.float32([7.0, 5.0]) / 74**0.5
    first = losses.attention_transfer(student[None], teacher[None], power=1)
    close(first, [np.mean(a**2)], rtol=1e-6)


@pytest.mark.parametrize("name", ["cosine_hint", "factor_transfer", *SPATIAL[:2]])
def test_zeros_stay_zeros_when_normalised(name):
    student, teacher = STUDENT.copy(), TEACHER.copy()
    student[0], student[1, 2], student[2, ..., 1] = 0.0, 0.0, 0.0
    teacher[0], teacher[1, :3], teacher[3] = 0.0, 0.0, 0.0
    hyper = {"power": 2.0} if name == "attention_transfer" else {}
    expected = getattr(reference, name)(*np.float64([student, teacher]), **hyper)
    close(getattr(losses, name)(student, teacher), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["attention_transfer", "neuron_selectivity"])
def test_the_order_of_channels_does_not_matter(name):
    loss = getattr(losses, name)
    for maps in (TEACHER, TEACHER[:, :1, :2]):  # more and fewer places than channels
        values = loss(maps[..., [2, 0, 1]], maps)
        close(values, 0.0, atol=1e-7)
        assert np.all(np.asarray(values) >= 0)
        twice = np.concatenate([maps, maps], axis=-1)
        close(loss(twice, maps), 0.0, atol=1e-7)


@pytest.mark.parametrize("side", [5, 1])
def test_neuron_selectivity_keeps_its_digits_near_zero(side):
    teacher = TEACHER[:, :side, :2]
    student = teacher + np.float32(1e-4) * STUDENT[:, :side, :2]
    expected = reference.neuron_selectivity(*np.float64([student, teacher]))
    values = losses.neuron_selectivity(student, teacher)
    assert np.max(expected) < 1e-6  # float32 rounds the three means by about as much
    close(values, expected, rtol=1e-2)


def test_neuron_selectivity_has_second_derivatives():
    student, teacher = np.float64([STUDENT[:1, :, :2], TEACHER[:1, :, :2]])
    with jax.enable_x64(True):
        pair = jnp.asarray(student), jnp.asarray(teacher)

        @jax.jit
        def slope(s):
            return jax.grad(lambda x: losses.neuron_selectivity(x, pair[1])[0])(s)

        turn = jnp.asarray(TEACHER[:1, :, 2:], jnp.float64)
        _, bend = jax.jvp(slope, pair[:1], (turn,))
        step = 1e-5
        ahead, behind = slope(pair[0] + step * turn), slope(pair[0] - step * turn)
        close(bend, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-8)


def test_a_flow_sees_how_channels_go_together():
    first = np.float32([[1.0, 0.0], [2.0, 1.0]])[None]
    second = np.float32([[1.0, 1.0, 1.0], [0.0, 2.0, -1.0]])[None]
    expected = [[0.5, 2.5, -0.5], [0.0, 1.0, -0.5]]
    close(losses.flow_matrix(first, second), [expected])
    value = losses.flow_of_solution((first, second), (first, 2 * second))
    close(value, [np.mean(np.square(expected))])


PAIR = STUDENT[..., :2], TEACHER


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        (PAIR, PAIR[:1]),
        ((*PAIR, TEACHER), PAIR),
        (PAIR, (PAIR[0][1:], PAIR[1][1:])),
        (PAIR, PAIR[::-1]),
        (PAIR, (PAIR[0], PAIR[1][:, 0])),
    ],
)
def test_flows_of_other_shapes_are_refused(student, teacher):
    with pytest.raises(ValueError, match=r"^flow_of_solution: .*\d.*\d"):
        losses.flow_of_solution(student, teacher)


def test_annotations_of_pairs_are_true():
    typed = jaxtyping.jaxtyped(flow_of_solution, typechecker=beartype.beartype)
    pair = tuple(jnp.asarray(a) for a in PAIR)
    typed(pair, (pair[0][:, 1:], pair[1][:, 2:]))
    with pytest.raises(jaxtyping.TypeCheckError):
        typed(pair, pair[::-1])


def test_variance_that_fits_is_the_best():
    """Where softplus(ρ) is the mean squared error, no other ρ is better."""
    error = np.mean(np.square(STUDENT - TEACHER), axis=(0, 1, 2))
    best = jnp.log(jnp.expm1(error - 1e-5))

    def loss(scale):
        return losses.variational_information(STUDENT, scale, TEACHER).mean()

    value, slope = jax.jit(jax.value_and_grad(loss))(best)
    close(slope, 0.0, atol=1e-6)
    close(value, np.mean(0.5 * (1 + np.log(error))), rtol=1e-5)


def test_a_large_batch_of_large_errors_over_small_variances_is_finite():
    mean, teacher = (
        np.full((1024, 1), 3e13, np.float32),
        np.zeros((1024, 1), np.float32),
    )

    def loss(scale):
        return losses.variational_information(mean, scale, teacher).sum()

    value, slope = jax.jit(jax.value_and_grad(loss))(np.float32([-14.0]))
    assert np.isfinite(value)
    assert np.all(np.isfinite(slope))


def test_a_float64_parameter_makes_the_result_float64():
    with jax.enable_x64(True):
        number = np.zeros(3)
        for args in (
            ("variational_information", STUDENT, number, TEACHER),
            ("margin_relu_l2", STUDENT, TEACHER, number),
        ):
            assert getattr(losses, args[0])(*args[1:]).dtype == jnp.float64


@pytest.mark.parametrize("bias", [-5.0, -1.0, 0.0, 2.0, 3.0])
def test_the_margin_is_a_mean_of_the_negative(bias):
    """Integrated: the mean of x under N(b, s²) where x < 0."""
    x = np.linspace(-40, 0, 400_001)
    density = norm.pdf(x, bias, 2.0)
    expected = np.trapezoid(x * density, x) / np.trapezoid(density, x)
    for scale in np.float32([2.0, -2.0]):
        margin = losses.margin_from_batch_norm(scale[None], np.float32([bias]))
        close(margin, [expected], rtol=1e-4)


def test_the_margin_of_a_channel_that_is_hardly_negative():
    scale, bias = np.float32([1.0, -2.0, 1.0]), np.float32([3.0903, 6.1805, 3.0902])
    first, second, third = losses.margin_from_batch_norm(scale, bias)
    close([first, second], [-3.0, -6.0])
    assert -0.4 < third < 0  # where Φ is above 1e-3, just


@jax.jit
def _margin(scale, bias):
    def margin(scale, bias):
        return losses.margin_from_batch_norm(scale[None], bias[None])[0]

    return jax.value_and_grad(margin, (0, 1))(scale, bias)


@pytest.mark.parametrize("scale", [0.0, 1e-38, 1e-30, 3e38])
@pytest.mark.parametrize("bias", [-3e38, -1e4, -1e-30, 0.0, 1e-30, 1e4, 3e38])
def test_the_margin_at_its_limits(scale, bias):
    value, slopes = _margin(*np.float32([scale, bias]))
    assert np.isfinite(value)
    assert value <= 0
    assert np.all(np.abs(slopes) < 4)
    if scale < 1e-30 and abs(bias) < 1e38:
        close(value, min(bias, 0.0), rtol=1e-6, atol=1e-30)


VALUES = [0.0, 1.0, -1.0, 1e-30, 1e4, -1e4, 3e38, -3e38]
MAPS = arrays.arrays(
    np.float32,
    (2, 3, 2),
    elements=st.sampled_from(VALUES) | st.floats(-100, 100, width=32),
)
BOUNDED = {"cosine_hint": 2.0, "attention_transfer": 2 / 3, "neuron_selectivity": 2.0}


@functools.cache
def _program(name):
    def loss(student, teacher):
        out = getattr(losses, name)(student, teacher)
        return out.sum(), out

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))


@pytest.mark.parametrize("name", [*BOUNDED, "factor_transfer", "activation_boundary"])
@hypothesis.given(MAPS, MAPS)
@hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)
def test_finite_nonnegative_and_bounded(name, student, teacher):
    (_, values), gradients = _program(name)(student, teacher)
    assert np.all(np.isfinite(values))
    assert np.all(np.asarray(values) >= 0)
    assert np.all(np.asarray(values) <= BOUNDED.get(name, np.inf) * (1 + 1e-5))
    assert all(np.all(np.isfinite(g)) for g in gradients)
