"""What is true of the relation losses on embeddings, beyond the shared laws."""

import functools
import math

import hypothesis
import hypothesis.extra.numpy as arrays
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from kdjax.losses.relation._columns import rows
from kdjax.losses.relation.distances import pair_distances, unit_points
from tests.losses.programs import AS_USERS, losses
from tests.losses.references import relation_geometry as reference

RNG = np.random.default_rng(0)
STUDENT = RNG.normal(size=(8, 6)).astype(np.float32)
TEACHER = RNG.normal(size=(8, 5)).astype(np.float32)
ROTATION = np.linalg.qr(RNG.normal(size=(6, 6)))[0].astype(np.float32)
NAMES = [
    *("rkd_distance", "rkd_angle", "similarity_preserving"),
    *("probabilistic_transfer", "correlation_congruence"),
]
close = np.testing.assert_allclose
every_loss = pytest.mark.parametrize("name", NAMES)


@functools.cache
def program(name):
    """Return `(student, teacher, where) -> values, gradients` of unequal weights."""

    def loss(student, teacher, where):
        values = getattr(losses, name)(student, teacher, where=where)
        return (values * jnp.arange(1.0, len(values) + 1)).sum(), values

    graded = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))

    def call(student, teacher, where=None):
        (_, values), gradients = graded(student, teacher, where)
        return np.asarray(values), [np.asarray(g) for g in gradients]

    return call


def test_distances_by_hand():
    """A line of three and a right triangle: 1, 1, 2 of 4/3 and 1, 1, √2 of their."""
    line = np.float32([[0.0], [1.0], [2.0]])
    corner = np.float32([[0.0, 0.0], [3.0, 0.0], [3.0, 3.0]])
    mean = (2 + math.sqrt(2)) / 3
    leg = 0.5 * (3 / 4 - 1 / mean) ** 2
    long = 0.5 * (3 / 2 - math.sqrt(2) / mean) ** 2
    expected = [(leg + long) / 3, 2 * leg / 3, (leg + long) / 3]
    close(losses.rkd_distance(line, corner), expected, rtol=1e-5)


def test_angles_by_hand():
    """The angle in the middle is 180° and 90°, those at the ends 0° and 45°."""
    line = np.float32([[0.0], [1.0], [2.0]])
    corner = np.float32([[0.0, 0.0], [3.0, 0.0], [3.0, 3.0]])
    end = 2 * 0.5 * (1 - math.sqrt(0.5)) ** 2 / 9
    close(losses.rkd_angle(line, corner), [end, 2 * 0.5 / 9, end], rtol=1e-5)


def test_similarities_by_hand():
    orthogonal = np.float32([[1.0, 0.0], [0.0, 2.0]])
    parallel = np.float32([[1.0], [1.0]])
    half = math.sqrt(0.5)
    expected = ((1 - half) ** 2 + half**2) / 2
    close(losses.similarity_preserving(orthogonal, parallel), [expected] * 2, rtol=1e-5)
    expected = (0.5 * math.log(0.5 / (2 / 3)) + 0.5 * math.log(0.5 / (1 / 3))) / 2
    values = losses.probabilistic_transfer(orthogonal, parallel)
    close(values, [expected] * 2, rtol=1e-5)
    expected = (math.exp(-0.8) * (0.8 + 0.8**2 / 2)) ** 2 / 2
    values = losses.correlation_congruence(orthogonal, parallel)
    close(values, [expected] * 2, rtol=1e-5)


@every_loss
def test_what_the_relations_do_not_see(name):
    """Rotating and scaling for all; moving the origin for distances and angles."""
    seen = 3.0 * STUDENT @ ROTATION
    if name.startswith("rkd"):
        seen = seen + np.float32(1.5)
    values, gradients = program(name)(STUDENT, seen)
    close(values, 0.0, atol=1e-11)
    close(gradients[0], 0.0, atol=1e-5)


def test_two_examples_have_one_distance_and_no_angle():
    for name in ("rkd_distance", "rkd_angle"):
        values, gradients = program(name)(STUDENT[:2], TEACHER[:2])
        close(values, 0.0, atol=1e-12)
        assert all(np.all(np.abs(g) < 1e-6) for g in gradients)


def test_a_kernel_of_high_order_is_the_gaussian():
    def gaussian(x):
        u = x / np.linalg.norm(x, axis=1, keepdims=True)
        return np.exp(-0.4 * ((u[:, None] - u[None]) ** 2).sum(-1))

    expected = np.mean((gaussian(STUDENT) - gaussian(TEACHER)) ** 2, axis=1)
    close(losses.correlation_congruence(STUDENT, TEACHER, order=12), expected, 1e-5)
    assert np.all(losses.correlation_congruence(STUDENT, TEACHER, order=0) == 0)


@pytest.mark.parametrize(
    "bad", [{"order": -1}, {"order": 1.0}, {"order": True}, {"gamma": 0}]
)
def test_settings_out_of_range_are_refused(bad):
    [hyper] = bad
    with pytest.raises(ValueError, match=f"^correlation_congruence: {hyper} must be"):
        losses.correlation_congruence(STUDENT, TEACHER, **bad)


@jax.jit
def distances(points):
    points, others, _ = unit_points(rows(None, None, points), 0)
    return pair_distances(points, others)


@pytest.mark.parametrize("dim", [4, 6])
def test_equal_rows_are_exactly_no_distance_apart(dim):
    """Not 1e-8: their difference may be fused with the quotients it is one of."""
    points = np.random.default_rng(0).normal(size=(8, dim)).astype(np.float32)
    points[1::2] = points[0]
    assert np.all(np.asarray(distances(points))[1::2, 1::2] == 0)


def test_equal_rows_count_as_one_point():
    student, teacher = STUDENT.copy(), TEACHER.copy()
    student[1::2], teacher[1::2] = student[0], teacher[2]
    for name in ("rkd_distance", "rkd_angle"):
        values, gradients = program(name)(student, teacher)
        close(values, getattr(reference, name)(student, teacher), rtol=1e-5)
        assert all(np.all(np.abs(g) < 10) for g in gradients)
        for twins in (3, 5, 7):
            close(values[twins], values[1], rtol=1e-5)


@pytest.mark.parametrize("near", [1e-2, 1e-4, 1e-6])
def test_rows_may_be_nearly_equal(near):
    """Where a Gram matrix of distances, or the law of cosines, has no digits left."""
    student, teacher = STUDENT.copy(), TEACHER.copy()
    student[4:] = student[:4] + np.float32(near) * student[4:]
    teacher[2:4] = teacher[:2] + np.float32(near) * teacher[2:4]
    for name in ("rkd_distance", "rkd_angle"):
        values, gradients = program(name)(student, teacher)
        close(values, getattr(reference, name)(student, teacher), rtol=2e-6)
        with jax.enable_x64(True):
            wide = student.astype(np.float64), teacher.astype(np.float64)
            _, expected = program(name)(*wide)
        for gradient, exact in zip(gradients, expected, strict=True):
            close(gradient, exact, rtol=0, atol=2e-6 * np.abs(exact).max())


def test_opposite_rows_are_told_from_nearly_opposite_ones():
    """`(cos + 1)/2` and the loss's 1e-7 are both near float32's rounding."""
    student = STUDENT.copy()
    student[4:] = -3 * student[:4] + np.float32(1e-4) * (np.arange(4) > 1)[:, None]
    values, gradients = program("probabilistic_transfer")(student, TEACHER)
    expected = reference.probabilistic_transfer(student, TEACHER)
    close(values, expected, rtol=5e-6)
    assert all(np.all(np.isfinite(g)) for g in gradients)


def test_neighbours_keep_their_digits_near_the_teacher():
    student, teacher = STUDENT + np.float32(1e-4) * STUDENT[::-1], STUDENT
    values, _ = program("probabilistic_transfer")(student, teacher)
    expected = reference.probabilistic_transfer(student, teacher)
    assert 0 < max(expected) < 1e-8
    close(values, expected, rtol=1e-2, atol=1e-15)


@every_loss
def test_one_example_has_no_relation_though_it_is_zero(name):
    values, gradients = program(name)(0 * STUDENT[:1], TEACHER[:1])
    assert all(np.all(array == 0) for array in (values, *gradients))


@every_loss
def test_nobody_kept_is_nothing(name):
    values, gradients = program(name)(STUDENT, TEACHER, np.zeros(8, bool))
    assert all(np.all(array == 0) for array in (values, *gradients))


@every_loss
@pytest.mark.parametrize("kept", [[3], [1, 2, 6]])
def test_kept_rows_do_not_see_the_others(name, kept):
    where = np.isin(np.arange(8), kept)
    values, _ = program(name)(STUDENT, TEACHER, where)
    expected = getattr(losses, name)(STUDENT[kept], TEACHER[kept])
    close(values[kept], expected, rtol=1e-5, atol=1e-9)
    assert np.all(values[~where] == 0)


@pytest.mark.parametrize(("name", "limit"), [("rkd_distance", 16), ("rkd_angle", 64)])
def test_no_array_of_all_triples_is_held(name, limit):
    """Where the differences of all pairs alone would take 512 MiB."""
    array = jax.ShapeDtypeStruct((512, 512), jnp.float32)

    def loss(student, teacher):
        return getattr(losses, name)(student, teacher).mean()

    for sides in (0, (0, 1)):
        graded = jax.jit(jax.value_and_grad(loss, sides))
        analysis = graded.lower(array, array).compile(AS_USERS).memory_analysis()
        assert analysis.temp_size_in_bytes < limit * 2**20


def test_a_tiny_example_beside_huge_ones_has_a_finite_gradient():
    """Where the gradient of its similarities is 1e48."""
    student = np.float32([[0, -1e-30, 0], [0, 1e20, 3e38], [0, -1e20, 1]])
    graded = jax.value_and_grad(
        lambda s: losses.similarity_preserving(s, TEACHER[:3])[0]
    )
    value, gradient = jax.jit(graded)(student)
    assert value > 0
    assert np.all(np.isfinite(gradient))


VALUES = [0.0, 1.0, -1.0, 1e-30, 1e-12, 1e4, -1e4, 3e38, -3e38]
NUMBERS = st.sampled_from(VALUES) | st.floats(-100, 100, width=32)
SHAPE = (4, 3)  # one, so that little is compiled


@every_loss
@hypothesis.given(
    arrays.arrays(np.float32, SHAPE, elements=NUMBERS),
    arrays.arrays(np.float32, SHAPE, elements=NUMBERS),
    arrays.arrays(bool, 4),
)
@hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)
def test_finite_and_masked_whatever_is_given(name, student, teacher, where):
    values, gradients = program(name)(student, teacher, where)
    assert np.all(np.isfinite(values))
    assert np.all(values >= -1e-9)
    assert np.all(values[~where] == 0)
    for gradient in gradients:
        assert np.all(np.isfinite(gradient))
        assert np.all(gradient[~where] == 0)
    equal, _ = program(name)(student, student, where)
    close(equal, 0.0, atol=1e-11)
