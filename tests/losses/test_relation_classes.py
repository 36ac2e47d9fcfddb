"""What is true of single relations of classes, orders and graphs, beyond the laws."""

import functools
import itertools
import math

import hypothesis
import hypothesis.extra.numpy as arrays
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy.special import softmax

from tests.losses.programs import losses
from tests.losses.references import relation_classes as reference

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(2, 8, 5)).astype(np.float32)
close = np.testing.assert_allclose
CORRELATIONS = ["inter_class_correlation", "intra_class_correlation"]
GRAMS = ["class_gram", "batch_gram"]


@functools.cache
def _program(name):
    """Return `(student, teacher, **hyper) -> values, gradients`."""

    def loss(student, teacher, hyper):
        values = getattr(losses, name)(student, teacher, **hyper)
        return values.sum(), values

    graded = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))

    def call(student, teacher, **hyper):
        (_, values), gradients = graded(student, teacher, hyper)
        return np.asarray(values), [np.asarray(g) for g in gradients]

    return call


def test_correlation_of_equal_sides_is_the_formula():
    T = 2.0
    p = softmax(STUDENT.astype(np.float64) / T, axis=1)
    for axis, name in ((1, CORRELATIONS[0]), (0, CORRELATIONS[1])):
        square = np.square(p - p.mean(axis, keepdims=True)).sum(axis)
        expected = T**2 * 1e-8 / (square + 1e-8)
        values, _ = _program(name)(STUDENT, STUDENT, temperature=T)
        close(values, expected, rtol=1e-4)


def test_two_classes_are_alike_or_opposite():
    student = np.float32([[1.0, 0.0], [4.0, 0.0]])
    for sign, expected in ((1.0, 0.0), (-1.0, 2 * 3.0**2)):
        values, _ = _program(CORRELATIONS[0])(student, sign * student, temperature=3.0)
        close(values, [expected] * 2, atol=1e-4)


@pytest.mark.parametrize("name", CORRELATIONS)
def test_what_is_constant_has_no_correlation_and_no_gradient(name):
    constant = np.full_like(STUDENT, 3.7)
    if name == "intra_class_correlation":
        constant[:] = STUDENT[:1]  # no class, but every example is the same
    for pair in ((constant, TEACHER), (TEACHER, constant)):
        values, gradients = _program(name)(*pair, temperature=2.0)
        assert np.all(values == 4.0)
        assert all(np.all(g == 0) for g in gradients)


@pytest.mark.parametrize("name", [*CORRELATIONS, *GRAMS])
def test_high_temperature_keeps_the_digits(name):
    """At T = 1000 all probabilities are 0.2 in their first four digits."""
    wide = STUDENT.astype(np.float64), TEACHER.astype(np.float64)
    expected = getattr(reference, name)(*wide, temperature=1000.0)
    values, _ = _program(name)(STUDENT, TEACHER, temperature=1000.0)
    close(values, expected, rtol=1e-5)


def test_many_classes_keep_the_digits():
    many = RNG.normal(size=(2, 3, 5_000)).astype(np.float32) * 3
    expected = reference.inter_class_correlation(*many.astype(float), temperature=1.0)
    values, _ = _program(CORRELATIONS[0])(*many, temperature=1.0)
    close(values, expected, rtol=1e-5)


def test_grams_agree_on_all_that_is_summed():
    """`‖PᵀP‖² = ‖PPᵀ‖²`, so against a teacher of one class both sums are known."""
    onehot = np.zeros_like(STUDENT)
    onehot[:, 0] = 1e4
    p = softmax(STUDENT.astype(np.float64), axis=1)
    norm = np.square(p.T @ p).sum()
    expected = norm - 2 * 8 * (p.T @ p)[0, 0] + 8**2
    values, _ = _program("class_gram")(STUDENT, onehot, temperature=1.0)
    close(values.sum(), expected, rtol=1e-6)
    expected = norm - 2 * (p @ p.T).sum() + 8**2
    values, _ = _program("batch_gram")(STUDENT, onehot, temperature=1.0)
    close(values.sum(), expected, rtol=1e-6)


def test_contrastive_without_information_is_chance():
    values, _ = _program("contrastive")(STUDENT, np.ones_like(TEACHER))
    close(values, [math.log(8)] * 8, rtol=1e-6)
    extra = np.ones((8, 5), np.float32)
    values, _ = _program("contrastive")(STUDENT, extra, negatives=extra)
    close(values, [math.log(16)] * 8, rtol=1e-6)


def test_negatives_are_columns_like_the_others():
    whole, _ = _program("contrastive")(STUDENT, TEACHER)
    half, _ = _program("contrastive")(STUDENT[:4], TEACHER[:4], negatives=TEACHER[4:])
    close(half, whole[:4], rtol=1e-5)


def test_contrastive_refuses_other_dims():
    with pytest.raises(ValueError, match=r"^contrastive: .*\[8, 5\].*\[8, 4\]"):
        losses.contrastive(STUDENT, TEACHER[:, :4])
    with pytest.raises(ValueError, match=r"^contrastive: negatives .*\[8, 4\]"):
        losses.contrastive(STUDENT, TEACHER, negatives=TEACHER[:, :4])


@functools.cache
def _rank_order(length):
    fn = functools.partial(losses.rank_order, alpha=0.7, beta=1.5, length=length)
    return jax.jit(fn)


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_all_orders_together_are_certain(length):
    """The probabilities of all orders of each choice of `length` of four sum to 1."""
    orders = np.array(list(itertools.permutations(range(1, 5))), np.float32)
    teachers = np.concatenate([np.zeros((24, 1)), orders], axis=1)[..., None]
    values = jax.vmap(_rank_order(length), (None, 0))(STUDENT[:5], teachers)
    repeats = math.factorial(4 - length)  # orders that share their first places
    total = np.exp(-np.asarray(values)).sum() / repeats
    close(total, math.comb(4, length), rtol=1e-5)


def test_equal_distances_go_by_the_order_of_examples():
    teacher = np.float32([[0.0], [1.0], [-1.0], [1.0]])
    values = _rank_order(3)(STUDENT[:4], teacher)
    broken = teacher * np.float32([[0], [1], [1.001], [1.002]])
    assert values == _rank_order(3)(STUDENT[:4], broken)


def test_the_query_is_the_first_that_is_kept():
    where = np.arange(8) > 2
    masked = _rank_order(4)(STUDENT, TEACHER, where=where)
    close(masked, _rank_order(4)(STUDENT[3:], TEACHER[3:]), rtol=1e-5)


def test_an_order_has_no_gradient():
    by_teacher = jax.jit(jax.grad(lambda t: losses.rank_order(STUDENT, t).sum()))
    assert np.all(np.asarray(by_teacher(TEACHER)) == 0)


def test_rank_order_refuses_no_length():
    with pytest.raises(ValueError, match=r"^rank_order: length"):
        losses.rank_order(STUDENT, TEACHER, length=0)


def test_relation_graph_by_hand():
    line, bent = np.float32([[0], [1], [2]]), np.float32([[0], [2], [2]])
    vertex, edge, change = losses.relation_graph([line], [bent])
    close(vertex, [0, 1, 0])
    # squared distances over 4: line 0 ¼ 1, ¼ 0 ¼, 1 ¼ 0; bent 0 1 1, 1 0 0, 1 0 0
    close(edge, np.array([0.75**2, 0.75**2 + 0.25**2, 0.25**2]) / 3, rtol=1e-6)
    close(change, [0, 0, 0])
    _, _, change = losses.relation_graph([line, 2 * line], [line, line + bent])
    close(change, [0, 0.75**2, 0], rtol=1e-6)  # steps over 4: 0 ¼ 1 and 0 1 1
    last = slice(2, 3)  # alone, where only the teacher moves
    alone = losses.relation_graph([line[last]] * 2, [line[last], 2 * line[last]])
    close(alone, [[4], [0], [0]])


def test_relation_graph_compares_layers_of_one_width():
    wide, narrow = STUDENT, STUDENT[:, :3]
    others = [TEACHER[:, :2], TEACHER, TEACHER, TEACHER]
    both = losses.relation_graph([narrow, narrow, wide, 2 * wide], others)
    pair = losses.relation_graph([wide, 2 * wide], others[2:])
    close(both[2], pair[2], rtol=1e-6)
    with pytest.raises(ValueError, match=r"^relation_graph: no two consecutive"):
        losses.relation_graph([narrow, wide], [TEACHER, TEACHER])
    with pytest.raises(ValueError, match=r"^relation_graph: the last layers"):
        losses.relation_graph([wide, narrow], [TEACHER, TEACHER])
    with pytest.raises(ValueError, match=r"^relation_graph: there must be"):
        losses.relation_graph([wide], [TEACHER, TEACHER])
    with pytest.raises(
        ValueError, match=r"^relation_graph: layers must have one batch"
    ):
        losses.relation_graph([wide[:4], wide], [TEACHER[:4], TEACHER])


VALUES = [0.0, 1.0, -1.0, 1e-30, 1e4, -1e4, 3e38, -3e38]
NUMBERS = st.sampled_from(VALUES) | st.floats(-100, 100, width=32)
ANY = arrays.arrays(np.float32, (4, 3), elements=NUMBERS)


@pytest.mark.parametrize("name", [*CORRELATIONS, *GRAMS, "contrastive", "rank_order"])
@hypothesis.given(ANY, ANY, arrays.arrays(bool, 4))
@hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)
def test_finite_and_nonnegative_under_any_mask(name, student, teacher, where):
    values, gradients = _program(name)(student, teacher, where=where)
    assert np.all(np.isfinite(values))
    assert np.all(values >= 0)
    for gradient in gradients:
        assert np.all(np.isfinite(gradient))
        assert np.all(gradient[~where] == 0)


@jax.jit
def _graph(student, teacher, where):
    def loss(student, teacher):
        terms = losses.relation_graph(
            (student, -student), (teacher, student), where=where
        )
        return sum(term.sum() for term in terms), terms

    (_, terms), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(
        student, teacher
    )
    return jnp.stack(terms), jnp.stack(gradients)


@hypothesis.given(ANY, ANY, arrays.arrays(bool, 4))
@hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)
def test_graph_is_finite_under_any_mask(student, teacher, where):
    terms, gradients = map(np.asarray, _graph(student, teacher, where))
    assert np.all(np.isfinite(terms))
    assert np.all(terms >= 0)
    assert np.all(terms[:, ~where] == 0)
    assert np.all(np.isfinite(gradients))


@pytest.mark.parametrize(
    "teacher",
    [
        np.float32([[1e4, 0, 1], [-1e4, 1e4, 1], [1, 1, -1e4], [1, 0, -1e4]]),
        np.float32([[20, 0, 1], [0, 20, 2], [20, 1, 0], [0, 20, 3]]),
    ],
)
def test_classes_that_nobody_has_are_constant(teacher):
    """In float32, where rounding is all that their column holds."""
    student = np.float32([[-1e4, -1e4, 1], [0, -1e4, -1e4], [1e4, 1, -1e4], [0, 1, 0]])
    for pair in ((student, teacher), (teacher, teacher), (teacher, student)):
        expected = reference.intra_class_correlation(
            *(np.float64(a) for a in pair), temperature=1.0
        )
        found = losses.intra_class_correlation(*pair)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-25, 1e20])
def test_the_order_does_not_depend_on_the_teachers_scale(scale):
    scaled = _rank_order(4)(STUDENT, np.float32(scale) * TEACHER)
    close(scaled, _rank_order(4)(STUDENT, TEACHER), rtol=1e-5)
