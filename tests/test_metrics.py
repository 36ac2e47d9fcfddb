"""Quality against plain NumPy, cost against counts made by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from kdjax import metrics, models, networks
from kdjax.base import Outputs


@pytest.fixture(scope="module")
def predictions():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(200, 5)) * 3
    return logits, rng.integers(5, size=200), rng.normal(size=(200, 5))


def test_quality_equals_numpy(predictions):
    logits, labels, teacher = predictions
    batch = {"label": jnp.asarray(labels)}
    student = Outputs(jnp.asarray(logits, jnp.float32))
    taught = Outputs(jnp.asarray(teacher, jnp.float32))
    found = metrics.classification(student, taught, batch)
    assert {name: values.shape for name, values in found.items()} == {
        "accuracy": (200,),
        "agreement": (200,),
        "negative_log_likelihood": (200,),
        "calibration_gap": (200, 15),
    }
    predicted = logits.argmax(-1)
    nll = -log_softmax(logits, -1)[np.arange(200), labels]
    assert found["accuracy"].mean() == pytest.approx((predicted == labels).mean())
    agree = (predicted == teacher.argmax(-1)).mean()
    assert found["agreement"].mean() == pytest.approx(agree)
    np.testing.assert_allclose(found["negative_log_likelihood"], nll, rtol=1e-4)
    assert "agreement" not in metrics.classification(student, None, batch)


def test_calibration_error_equals_numpy(predictions):
    logits, labels, _ = predictions
    confidence = softmax(logits, -1).max(-1)
    right = logits.argmax(-1) == labels
    error, edges = 0.0, np.linspace(0, 1, 16)
    for low, high in itertools.pairwise(edges):
        held = (confidence > low) & (confidence <= high)
        if held.any():
            error += held.mean() * abs(confidence[held].mean() - right[held].mean())
    gap = metrics.calibration_gap(jnp.asarray(logits), jnp.asarray(labels))
    assert metrics.calibration_error(gap.mean(0)) == pytest.approx(error, rel=1e-4)


def test_calibration_of_the_extremes():
    sure = jnp.array([[1e4, -1e4], [1e4, -1e4]])
    assert metrics.calibration_error(
        metrics.calibration_gap(sure, jnp.array([0, 0])).mean(0)
    ) == pytest.approx(0)
    assert metrics.calibration_error(
        metrics.calibration_gap(sure, jnp.array([1, 1])).mean(0)
    ) == pytest.approx(1)


def test_wrong_shapes_raise():
    with pytest.raises(ValueError, match=r"accuracy: labels.*\[3\], logits \[4, 2\]"):
        metrics.accuracy(jnp.ones((4, 2)), jnp.ones(3, int))
    with pytest.raises(ValueError, match="agreement: shapes must be equal"):
        metrics.agreement(jnp.ones((4, 2)), jnp.ones((4, 3)))


def test_size_and_flops_of_an_mlp_equal_the_formula():
    network = networks.from_linen(models.MLP(10, 32, 1))
    inputs = jnp.ones((1, 64))
    variables = network.init(jax.random.key(0), inputs)
    parameters = 64 * 32 + 32 + 32 * 10 + 10
    size = metrics.size(variables)
    assert size == {"parameters": parameters, "bytes": 4 * parameters}
    products = 2 * (64 * 32 + 32 * 10)
    flops = metrics.flops(network.apply, variables, inputs)
    assert products <= flops <= products + 3 * (32 + 10)


def test_flops_count_every_step_of_a_scan_also_of_one_inside_another():
    def apply(kernel, inputs):
        def inner(x, _):
            return x @ kernel, None

        def outer(x, _):
            return jax.lax.scan(inner, x @ kernel, None, length=3)

        x, _ = jax.lax.scan(outer, inputs, None, length=5)
        return Outputs(x, {}), None

    counted = metrics.flops(apply, jnp.ones((8, 8)), jnp.ones((1, 8)))
    products = 5 * (1 + 3) * 2 * 8 * 8
    assert products <= counted <= products + 5 * (1 + 3)  # a loop's counter


def test_operations_are_those_of_any_function():
    def learn(kernel, inputs):
        return jax.grad(lambda k: ((inputs @ k) ** 2).sum())(kernel)

    counted = metrics.operations(learn, jnp.ones((8, 4)), jnp.ones((16, 8)))
    forward = 2 * 16 * 8 * 4
    assert 2 * forward <= counted <= 2 * forward + 10 * 16 * 4


def test_size_counts_batch_statistics_as_bytes_only():
    variables = {"params": jnp.ones(3), "batch_stats": jnp.ones(5)}
    assert metrics.size(variables) == {"parameters": 3, "bytes": 32}


def test_latency_calls_in_turn_and_returns_seconds():
    calls = []

    def call(name):
        calls.append(name)
        return jnp.ones(())

    found = metrics.latency(
        {name: lambda name=name: call(name) for name in "ab"}, repeats=2, rounds=2
    )
    assert "".join(calls) == "ab" + "aabb" * 2
    assert set(found) == {"a", "b"}
    assert all(seconds > 0 for seconds in found.values())
