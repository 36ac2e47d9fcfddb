"""How several teachers' outputs combine: every rule against its formula in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

from kdjax import losses, teachers

KEY = jax.random.key(3)
K, BATCH, CLASSES = 3, 5, 4
LOGITS = np.asarray(jax.random.normal(KEY, (K, BATCH, CLASSES)), np.float64) * 3
STUDENT = np.asarray(jax.random.normal(jax.random.key(4), (BATCH, CLASSES)), np.float64)
LABELS = np.array([0, 3, 1, 2, 2])
NAN = LOGITS.copy()
NAN[1, 2, 0] = np.nan


def softmax(z, axis=-1):
    return special.softmax(np.asarray(z, np.float64), axis)


def cross_entropy(z):
    return -np.log(softmax(z))[:, np.arange(BATCH), LABELS]


def inverted(error):
    return (1 - softmax(error, 0)) / (len(error) - 1)


def one_hot_of_least(error):
    return (np.arange(len(error))[:, None] == error.argmin(0)).astype(float)


def entropy(z):
    return -(softmax(z) * np.log(softmax(z))).sum(-1)


def least_norm(z, most):
    gradients = (softmax(STUDENT / 4) - softmax(z / 4)) * 4
    flat = gradients.reshape(len(z), -1)
    found = optimize.minimize(
        lambda a: ((a @ flat) ** 2).sum(),
        np.full(len(z), 1 / len(z)),
        bounds=[(0, max(most, 1 / len(z)))] * len(z),
        constraints={"type": "eq", "fun": lambda a: a.sum() - 1},
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    return found.x


WEIGHTS = {
    "entropy": (teachers.entropy_weights, lambda z: inverted(entropy(z))),
    "confidence": (
        functools.partial(teachers.confidence_weights, labels=LABELS),
        lambda z: inverted(cross_entropy(z)),
    ),
    "best": (
        functools.partial(teachers.best_weights, labels=LABELS),
        lambda z: one_hot_of_least(cross_entropy(z)),
    ),
    "gradient": (
        lambda z: teachers.gradient_weights(jnp.float32(STUDENT), z),
        lambda z: least_norm(z, 0.6),
    ),
    "gradient, free": (
        lambda z: teachers.gradient_weights(jnp.float32(STUDENT), z, most=1.0),
        lambda z: least_norm(z, 1.0),
    ),
}
EVERY = pytest.mark.parametrize("name", WEIGHTS)


@pytest.fixture(scope="module")
def programs():
    return {name: jax.jit(rule) for name, (rule, _) in WEIGHTS.items()}


@EVERY
def test_weights_are_their_formula(name, programs):
    found = programs[name](jnp.float32(LOGITS))
    np.testing.assert_allclose(found, WEIGHTS[name][1](LOGITS), atol=2e-4)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-6)


@EVERY
def test_a_teacher_of_nan_weighs_nothing_and_changes_no_other(name, programs):
    found = programs[name](jnp.float32(NAN))
    expected = WEIGHTS[name][1](LOGITS[[0, 2]])
    np.testing.assert_allclose(found[jnp.array([0, 2])], expected, atol=2e-4)
    assert (found[1] == 0).all()


@EVERY
def test_a_single_teacher_has_the_weight_one(name):
    np.testing.assert_array_equal(WEIGHTS[name][0](jnp.float32(LOGITS[:1])), 1)


@EVERY
def test_weights_are_finite_at_the_edges(name, programs):
    edge = np.zeros_like(LOGITS, np.float32)
    edge[0, :, 1:] = -np.inf  # a sure teacher, mostly wrong
    edge[1, :, 0] = 1e4
    edge[2] = 3e38
    found = programs[name](edge)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-6)


def test_gradient_weights_are_at_least_as_short_as_any_on_a_grid():
    rng = np.random.default_rng(0)
    rule = jax.jit(lambda z: teachers.gradient_weights(STUDENT[:1], z, most=1.0))
    grid = np.array([(a, b, 1 - a - b) for a in np.linspace(0, 1, 41)
                     for b in np.linspace(0, 1 - a, 41)])  # fmt: skip
    for scale in (0.1, 1, 10, 100):
        z = rng.normal(size=(3, 1, CLASSES)) * scale
        g = (softmax(STUDENT[:1] / 4) - softmax(z / 4)).reshape(3, -1)
        least = ((grid @ g) ** 2).sum(-1).min()
        found = np.asarray(rule(jnp.float32(z)), np.float64)
        assert ((found @ g) ** 2).sum() <= least + 1e-6
        assert found.min() >= 0


def test_random_weights_draw_every_teacher():
    draw = jax.jit(jax.vmap(teachers.random_weights, (0, None)))
    keys = jax.random.split(KEY, 300)
    drawn = np.asarray(draw(keys, jnp.float32(LOGITS)))
    np.testing.assert_array_equal(drawn.sum(1), 1)
    assert (drawn.sum(0) > 60).all()
    drawn = np.asarray(draw(keys, jnp.float32(NAN)))
    assert (drawn.sum(0)[[0, 2]] > 100).all()
    assert (drawn[:, 1] == 0).all()


def test_a_label_that_is_no_class_weighs_teachers_alike_and_stops_no_gradient():
    labels = jnp.array([0, -100])

    def loss(student):
        weights = teachers.confidence_weights(jnp.float32(LOGITS[:, :2]), labels)
        joined = teachers.mean_probabilities(jnp.float32(LOGITS[:, :2]), weights)
        each = losses.soft_target_kl(student, joined)
        return jnp.where(labels >= 0, each, 0).sum(), weights

    gradient, weights = jax.jit(jax.grad(loss, has_aux=True))(jnp.float32(STUDENT[:2]))
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(weights[:, 1], 1 / 3, rtol=1e-6)


def test_weights_of_zero_have_their_slope():
    z, by = (
        jnp.float32(LOGITS[:2]),
        jax.grad(lambda w: teachers.mean_logits(z, w).sum()),
    )
    np.testing.assert_allclose(by(jnp.array([1.0, 0.0])), by(jnp.array([1.0, 1e-6])),
                               rtol=1e-4, atol=1e-4)  # fmt: skip


PER_TEACHER = np.array([1.0, 2.0, 5.0])
PER_EXAMPLE = np.abs(LOGITS[..., 0]) + 0.1


@pytest.mark.parametrize("weights", [None, PER_TEACHER, PER_EXAMPLE])
def test_means_are_weighted(weights):
    share = np.ones(K) if weights is None else weights
    share = (share / share.sum(0)).reshape(K, -1, 1)
    given = None if weights is None else jnp.float32(weights)
    mean = teachers.mean_logits(jnp.float32(LOGITS), given)
    np.testing.assert_allclose(mean, (share * LOGITS).sum(0), atol=1e-5)
    for temperature in (1.0, 4.0):
        joined = teachers.mean_probabilities(
            jnp.float32(LOGITS), given, temperature=temperature
        )
        expected = (share * softmax(LOGITS / temperature)).sum(0)
        np.testing.assert_allclose(softmax(joined / temperature), expected, atol=1e-6)


def test_the_gradient_of_weighted_losses_is_that_of_the_weighted_mean():
    """CA-MKD weighs losses; given the mean, one loss has the same gradient."""
    logits, student = jnp.float32(LOGITS), jnp.float32(STUDENT)
    weights = teachers.confidence_weights(logits, LABELS)

    def of_mean(student):
        joined = teachers.mean_probabilities(logits, weights, temperature=4.0)
        return losses.soft_target_kl(student, joined, temperature=4.0).sum()

    def of_each(student):
        several = jnp.broadcast_to(student, logits.shape)
        each = losses.soft_target_kl(several, logits, temperature=4.0)
        return (weights * each).sum()

    one, other = (jax.jit(jax.grad(loss))(student) for loss in (of_mean, of_each))
    np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("mean", [teachers.mean_logits, teachers.mean_probabilities])
def test_means_drop_what_is_no_number_and_its_gradient(mean):
    logits = jnp.float32(NAN)
    np.testing.assert_allclose(
        mean(logits), mean(jnp.float32(LOGITS[[0, 2]])), atol=1e-6
    )
    gradient = jax.grad(lambda z: mean(z).sum())(logits)
    assert np.isfinite(gradient).all()
    assert teachers.dropped(logits) == 1
    assert teachers.usable(logits).tolist() == [True, False, True]
    assert np.isnan(mean(jnp.full((2, 1, 3), jnp.nan))).all()  # the step skips it
    never = jnp.float32(LOGITS).at[:, :, 0].set(-jnp.inf)
    assert teachers.dropped(never) == 0
    assert teachers.dropped(never.at[0, 0].set(-jnp.inf)) == 1


def test_a_sequence_is_as_good_as_an_array():
    stacked = jnp.float32(LOGITS)
    for rule in (teachers.mean_logits, teachers.entropy_weights, teachers.usable):
        np.testing.assert_array_equal(rule(list(stacked)), rule(stacked))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda z: teachers.mean_logits(z, jnp.ones(2)), r"weights \[2\], logits \[3"),
        (lambda z: teachers.mean_probabilities(z, temperature=0), "temperature"),
        (lambda z: teachers.confidence_weights(z, LABELS[:2]), "labels"),
        (lambda z: teachers.gradient_weights(z[0, 0], z), "gradient_weights"),
        (lambda z: teachers.entropy_weights(z[0, 0]), "at least one teacher"),
        (lambda z: teachers.entropy_weights(()), "at least one teacher"),
        (lambda z: teachers.random_weights(KEY, z[:0]), "at least one teacher"),
        (lambda z: teachers.mean_logits(z, jnp.array([2.0, -1, 0])), "must be >= 0"),
        (lambda z: teachers.gradient_weights(z[0], z, most=5.0), r"most must be in"),
    ],
)
def test_wrong_arguments_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call(jnp.float32(LOGITS))
