import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from kdjax import models, units

INPUTS = jax.random.normal(jax.random.key(1), (3, 4, 2))
MODEL = models.GRU(classes=3, width=5, depth=2)


def moved(variables):
    """Return variables of which none is 0, so that no bias goes untested."""
    return jax.tree.map(lambda x: np.asarray(x) + 0.1 * np.cos(x + 1), variables)


def without(variables, layers, gone):
    """Return the variables with units silenced, and without them; `gone` by layer."""
    arrays = traverse_util.flatten_dict(variables, sep="/")
    silent = {path: np.array(array) for path, array in arrays.items()}
    cuts = collections.defaultdict(list)
    for name, numbers in gone.items():
        for place in layers[name].places:
            runs = np.arange(place.repeats)[:, None] * layers[name].size
            index = (place.start + runs + np.array(numbers)).ravel()
            cuts[place.path, place.axis].extend(index)
            if place in layers[name].silenced:
                np.moveaxis(silent[place.path], place.axis, 0)[index] = 0
    left = dict(arrays)
    for (path, axis), index in cuts.items():
        left[path] = np.delete(left[path], index, axis)
    return tuple(traverse_util.unflatten_dict(x, sep="/") for x in (silent, left))


@pytest.fixture(scope="module")
def variables():
    return moved(jax.jit(MODEL.init)(jax.random.key(0), INPUTS))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def layer(p, x):
    """Return the states of a layer, in NumPy float64, one step after the other."""
    width = p["candidate_bias"].size
    h, states = np.zeros((x.shape[0], width)), []
    for now in np.moveaxis(x, 1, 0):
        both = np.concatenate([h, now], axis=1)
        r = sigmoid(both @ p["gates_kernel"][:, :width] + p["gates_bias"][:width])
        z = sigmoid(both @ p["gates_kernel"][:, width:] + p["gates_bias"][width:])
        reset = np.concatenate([r * h, now], axis=1)
        h = z * h + (1 - z) * np.tanh(
            reset @ p["candidate_kernel"] + p["candidate_bias"]
        )
        states.append(h)
    return np.stack(states, axis=1)


def test_outputs_equal_a_numpy_reference(variables):
    eager, jitted = MODEL.apply(variables, INPUTS), jax.jit(MODEL.apply)
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    first = layer(p["layer1"], np.asarray(INPUTS, np.float64))
    second = layer(p["layer2"], first)
    logits = second[:, -1] @ p["head"]["kernel"] + p["head"]["bias"]
    for outputs in (eager, jitted(variables, INPUTS)):
        assert list(outputs.features) == ["hidden1", "hidden2", "last"]
        np.testing.assert_allclose(outputs.logits, logits, atol=1e-5)
        np.testing.assert_allclose(outputs.features["hidden1"], first, atol=1e-5)
        np.testing.assert_allclose(outputs.features["hidden2"], second, atol=1e-5)
        np.testing.assert_array_equal(
            outputs.features["last"], outputs.features["hidden2"][:, -1]
        )


def test_rows_of_the_state_start_orthogonal_for_each_gate():
    wide = jnp.ones((1, 1, 400))
    params = jax.jit(MODEL.init)(jax.random.key(0), wide)["params"]["layer1"]
    assert params["gates_kernel"].shape == (5 + 400, 10)
    assert params["candidate_kernel"].shape == (5 + 400, 5)
    gates = np.split(params["gates_kernel"], 2, axis=1)
    for kernel in (*gates, np.asarray(params["candidate_kernel"])):
        np.testing.assert_allclose(kernel[:5] @ kernel[:5].T, np.eye(5), atol=1e-5)
        np.testing.assert_allclose(kernel[5:].std(), 400**-0.5, rtol=0.1)
    assert not np.allclose(gates[0][:5], gates[1][:5])
    assert not params["gates_bias"].any()
    assert not params["candidate_bias"].any()


def test_units_can_be_silenced_and_removed(variables):
    layers = MODEL.units()
    units.check("test", variables, layers)
    assert {name: layer.size for name, layer in layers.items()} == {
        "hidden1": 5,
        "hidden2": 5,
    }
    gone = {"hidden1": [0, 3], "hidden2": [1, 2, 4]}
    silent, left = without(variables, layers, gone)
    small = MODEL.narrowed({"hidden1": 3, "hidden2": 2})
    units.check("test", left, small.units())

    expected = MODEL.apply(silent, INPUTS)
    outputs = small.apply(left, INPUTS)
    np.testing.assert_allclose(outputs.logits, expected.logits, atol=1e-5)
    for name, numbers in gone.items():
        states = np.asarray(expected.features[name])
        assert not states[..., numbers].any()
        np.testing.assert_allclose(
            outputs.features[name], np.delete(states, numbers, -1), atol=1e-5
        )
    with pytest.raises(ValueError, match="no units are called 'hidden3'"):
        MODEL.narrowed({"hidden3": 1})


@pytest.mark.parametrize("name", ["classes", "width", "depth"])
def test_wrong_arguments_are_refused_at_construction(name):
    with pytest.raises(ValueError, match=f"GRU: {name} must be > 0, got 0"):
        models.GRU(**{"classes": 3, "width": 5, name: 0})


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        (jnp.ones((2, 3, 4), jnp.int32), "GRU: inputs must be floating"),
        (jnp.ones((2, 3)), r"\[batch, time, features\], got \[2, 3\]"),
    ],
)
def test_wrong_inputs_are_refused(inputs, match):
    with pytest.raises(ValueError, match=match):
        MODEL.init(jax.random.key(0), inputs)


def test_batch_of_none_and_half_precision(variables):
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), variables)
    for params, inputs, kind in (
        (variables, INPUTS[:0], jnp.float32),
        (half, INPUTS.astype(jnp.bfloat16), jnp.bfloat16),
        (variables, INPUTS.astype(jnp.bfloat16), jnp.float32),
    ):
        outputs = jax.eval_shape(MODEL.apply, params, inputs)
        assert outputs.logits.shape == (len(inputs), 3)
        assert outputs.features["last"].dtype == kind
