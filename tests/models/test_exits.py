"""Exits of a network, and the gate of several."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.models import projectors

KEY = jax.random.key(0)


def made(module, inputs, **settings):
    variables = jax.jit(module.init)(KEY, inputs)
    return variables, module.apply(variables, inputs, **settings)


def test_a_bottleneck_of_a_vector_is_a_linear_layer_and_relu():
    inputs = jax.random.normal(KEY, (5, 4))
    variables, found = made(projectors.Bottleneck(3), inputs)
    dense = jax.tree.map(np.asarray, variables["params"]["dense"])
    expected = np.maximum(np.asarray(inputs) @ dense["kernel"] + dense["bias"], 0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_bottleneck_of_a_map_is_a_mean_over_its_places():
    inputs = jax.random.normal(KEY, (2, 4, 4, 3))
    variables, found = made(projectors.Bottleneck(6), inputs)
    assert found.shape == (2, 6)
    assert (found >= 0).all()
    assert variables["params"]["conv"]["conv"]["kernel"].shape == (3, 3, 3, 6)
    assert set(variables) == {"params", "batch_stats"}
    same = projectors.Bottleneck(6).apply(variables, jnp.flip(inputs, 0))
    np.testing.assert_allclose(same, found[::-1], rtol=1e-5)


def test_a_gate_weighs_networks_by_what_all_of_them_see():
    features = jax.random.normal(KEY, (3, 5, 2, 2))
    variables, weights = made(projectors.Gate(), features)
    assert weights.shape == (3, 5)
    np.testing.assert_allclose(weights.sum(0), 1, rtol=1e-6)
    assert variables["params"]["dense"]["kernel"].shape == (12, 3)
    seen = np.asarray(features).transpose(1, 0, 2, 3).reshape(5, 12)
    dense = jax.tree.map(np.asarray, variables["params"]["dense"])
    expected = jax.nn.softmax(seen @ dense["kernel"] + dense["bias"], -1).T
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("module", "inputs", "match"),
    [
        (projectors.Bottleneck(0), jnp.ones((2, 3)), "features must be > 0"),
        (projectors.Bottleneck(3), jnp.ones(3), r"\[batch, \.\.\., channels\]"),
        (projectors.Bottleneck(3), jnp.ones((2, 3), int), "must be floating"),
        (projectors.Gate(), jnp.ones((2, 3)), r"\[networks, batch, \.\.\.\]"),
    ],
)
def test_wrong_inputs_are_refused(module, inputs, match):
    with pytest.raises(ValueError, match=match):
        module.init(KEY, inputs)
