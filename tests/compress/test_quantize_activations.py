"""What layers see: calibrated on examples, rounded to a few bits, trained through."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from kdjax import models, networks, train
from kdjax.compress import quantize
from tests.small import equal
from tests.twins import INPUTS, LinenNet

KEY = jax.random.key(3)
RNG = np.random.default_rng(8)
BATCHES = [{"image": RNG.normal(size=(6, 5)).astype(np.float32) * k} for k in (1, 2, 1)]
MLP = networks.from_linen(models.MLP(classes=3, width=7, depth=2))
NONE = quantize.Activations({}, bits=8)
LAYERS = ("dense1", "dense2", "head")


@pytest.fixture(scope="module")
def variables():
    variables = jax.jit(MLP.init)(KEY, BATCHES[0]["image"])
    draw = lambda leaf: leaf + 0.1 * RNG.normal(size=leaf.shape).astype(np.float32)  # noqa: E731
    return jax.tree.map(draw, variables)


def grid(values, low, high, bits, symmetric):
    """Return values in [low, high] as the grid has them, and where they are inside."""
    values = np.asarray(values, np.float64)
    if symmetric:
        most = 2 ** (bits - 1) - 1
        step = max(-low, high) / most
        ends = -most, most
    else:
        most = 2**bits - 1
        step = (high - low) / most
        zero = np.round(-low / step)
        ends = -zero, most - zero
    codes = np.clip(np.round(values / step), *ends)
    return codes * step, (values > ends[0] * step) & (values < ends[1] * step)


def forward(variables, inputs, change=lambda path, x: x):
    """Return what an MLP says, in float64, and what its layers see."""
    x, seen = np.asarray(inputs, np.float64), {}
    for name in LAYERS:
        seen[name], layer = x, variables["params"][name]
        x = change(name, x) @ np.asarray(layer["kernel"], np.float64)
        x = x + np.asarray(layer["bias"], np.float64)
        x = np.maximum(x, 0) if name != "head" else x
    return x, seen


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 8])
def test_rounded_values_and_their_gradients(bits, symmetric):
    values = RNG.normal(size=(4, 9)).astype(np.float32)
    values[0, :3] = [0.0, 50.0, -50.0]

    @jax.jit
    def program(values, low, high):
        call = lambda v: quantize.rounded(v, low, high, bits=bits, symmetric=symmetric)  # noqa: E731
        there, back = jax.vjp(call, values)
        return there, back(2 * jnp.ones_like(there))[0]

    for low, high in [(-1.3, 0.7), (0.0, 2.0), (-3.0, 0.0)]:
        found, gradient = program(values, low, high)
        expected, inside = grid(values, low, high, bits, symmetric)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        clear = values != 0  # an end of the grid is neither
        np.testing.assert_array_equal(gradient[clear], 2.0 * inside[clear])
        assert np.asarray(found)[0, 0] == 0
    assert program(values.astype(jnp.bfloat16), -1.0, 1.0)[0].dtype == jnp.bfloat16
    nothing, gradient = program(values, 0.0, 0.0)
    np.testing.assert_array_equal(np.isfinite(nothing) & np.isfinite(gradient), True)


def test_bounds_of_values_are_those_of_one_grid():
    values = RNG.standard_t(2, size=(3, 40)).astype(np.float32)
    low, high = quantize.find_bounds(values, bits=8)
    assert (low, high) == (values.min(), values.max())
    low, high = quantize.find_bounds(values, bits=8, bounds=quantize.percentile(90))
    np.testing.assert_allclose((low, high), np.percentile(values, [5, 95]), rtol=1e-5)
    ends = quantize.find_bounds(np.abs(values) + 1, bits=4)
    assert (float(ends[0]), ends[1].shape) == (0.0, ())
    # whatever the bounds are, the grid holds 0
    beyond = np.abs(values) + 1
    ends = lambda rows, rounded: (rows.min(1), rows.max(1))  # noqa: E731
    found = quantize.uniform(beyond, bits=8, symmetric=False, bounds=ends)
    assert not found.zero_point.any()
    np.testing.assert_allclose(found.scale[0], beyond.max(0) / 255, rtol=1e-5)
    for symmetric in (True, False):
        how = {"bits": 3, "symmetric": symmetric, "bounds": quantize.mse()}
        ends = quantize.find_bounds(values, **how)
        array = quantize.uniform(values, channel_axis=None, **how).dequantized()
        found = quantize.rounded(values, *ends, bits=3, symmetric=symmetric)
        np.testing.assert_allclose(found, array, atol=1e-6)


def test_ranges_are_the_ends_of_what_layers_see(variables):
    found = quantize.calibrated(MLP, variables, BATCHES, bits=5, symmetric=True)
    assert (found.bits, found.symmetric, sorted(found.ranges)) == (5, True, [*LAYERS])
    seen = [forward(variables, batch["image"])[1] for batch in BATCHES]
    for name in LAYERS:
        values = np.concatenate([one[name] for one in seen])
        ends = min(values.min(), 0), max(values.max(), 0)
        np.testing.assert_allclose(found.ranges[name], ends, rtol=1e-5)
        assert all(isinstance(end, float) for end in found.ranges[name])
    clipped = quantize.calibrated(
        MLP, variables, iter(BATCHES), bounds=quantize.percentile(80)
    )
    values = np.concatenate([one["dense1"] for one in seen])
    ends = np.percentile(values, [10, 90])
    np.testing.assert_allclose(clipped.ranges["dense1"], ends, rtol=1e-4)
    tried = quantize.calibrated(MLP, variables, BATCHES, bits=2, bounds=quantize.mse())
    for name in LAYERS:
        values = np.concatenate([one[name] for one in seen])
        errors = [
            np.square(grid(values, *a.ranges[name], 2, False)[0] - values).sum()
            for a in (tried, found)
        ]
        assert errors[0] < errors[1]
        assert tried.ranges[name][1] < found.ranges[name][1]


def test_convolutions_and_all_their_places_are_seen():
    module = models.ResNet(classes=3, depth=8)
    network, images = networks.from_linen(module), jax.random.normal(KEY, (2, 8, 8, 1))
    variables = jax.jit(network.init)(KEY, images)
    found = quantize.calibrated(network, variables, [{"x": images}], inputs="x").ranges
    outputs, _ = jax.jit(network.apply)(variables, images)
    readers = {
        "stage1_block0/conv1": "stem",
        "stage2_block0/conv1": "stage1",
        "stage2_block0/shortcut": "stage1",
        "stage3_block0/conv1": "stage2",
    }
    for reader, feature in readers.items():
        ends = 0.0, float(outputs.features[feature].max())
        np.testing.assert_allclose(found[reader], ends, rtol=1e-5)
    assert found["stem"] == (float(images.min()), float(images.max()))
    # the head reads the mean over space, and every place for the class maps
    most = outputs.features["stage3"].max()
    np.testing.assert_allclose(found["head"], (0.0, float(most)), rtol=1e-5)
    assert len(found) == 10


def test_a_layer_that_is_called_twice_has_one_range():
    network = networks.from_linen(LinenNet(), ("encoder", "shared"))
    variables = jax.jit(network.init)(KEY, INPUTS)
    found = quantize.calibrated(network, variables, [{"image": INPUTS}]).ranges
    assert sorted(found) == ["encoder/dense", "head", "shared"]
    features = jax.jit(network.apply)(variables, INPUTS)[0].features
    first = np.maximum(features["shared[0]"], 0)
    values = np.concatenate([np.ravel(features["encoder"]), np.ravel(first)])
    np.testing.assert_allclose(found["shared"], (values.min(), values.max()), rtol=1e-5)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_layers_see_what_the_grid_has(variables, bits, symmetric):
    found = quantize.calibrated(MLP, variables, BATCHES, bits=bits, symmetric=symmetric)
    coarse = quantize.with_activations(MLP, found)
    images = 1.5 * BATCHES[1]["image"]  # some of it is clipped

    def change(name, x):
        return grid(x, *found.ranges[name], bits, symmetric)[0]

    expected, _ = forward(variables, images, change)
    outputs, after = jax.jit(coarse.apply)(variables, images)
    np.testing.assert_allclose(outputs.logits, expected, atol=1e-4)
    assert sorted(outputs.features) == ["hidden1", "hidden2"]
    equal(after, variables)
    exact = forward(variables, images)[0]
    assert np.abs(expected - exact).max() > 1e-3
    equal(jax.jit(coarse.init)(KEY, images), jax.jit(MLP.init)(KEY, images))
    # those without a range see what is there
    one = quantize.Activations({"head": found.ranges["head"]}, bits, symmetric)
    partly = lambda name, x: change(name, x) if name == "head" else x  # noqa: E731
    outputs, _ = quantize.with_activations(MLP, one).apply(variables, images)
    expected, _ = forward(variables, images, partly)
    np.testing.assert_allclose(outputs.logits, expected, atol=1e-4)


def test_parts_that_read_the_teacher_are_handed_it():
    part = networks.Part(nn.Dense(2), teacher="logits")
    learner = networks.with_parts(MLP, {"target": part}, teacher=MLP)
    coarse = quantize.with_activations(learner, NONE)
    for network, hears in (
        (coarse, True),
        (quantize.with_activations(MLP, NONE), False),
    ):
        assert ("teacher" in inspect.signature(network.apply).parameters) is hears


def test_no_gradient_passes_what_is_clipped(variables):
    ranges = {"dense1": (-0.5, 0.5)}
    coarse = quantize.with_activations(MLP, quantize.Activations(ranges, bits=4))

    @jax.jit
    @jax.grad
    def gradient(images):
        return coarse.apply(variables, images)[0].logits.sum()

    images = RNG.uniform(-1, 1, (4, 5)).astype(np.float32)
    found = np.asarray(gradient(images))
    inside = grid(images, -0.5, 0.5, 4, False)[1]
    assert (found[~inside] == 0).all()
    assert np.isfinite(found).all()
    assert (found[inside] != 0).mean() > 0.9


def test_a_coarse_network_is_trained(variables):
    found = quantize.calibrated(MLP, variables, BATCHES, bits=3)
    coarse = quantize.with_activations(MLP, found)
    teacher = jax.tree.map(lambda leaf: 1.3 * leaf, variables)

    def objective(student, teacher, batch):
        return {"l2": jnp.square(student.logits - teacher.logits).mean()}

    tx = optax.adam(0.02)
    step = train.make_step(coarse.apply, MLP.apply, objective, tx)
    copy = jax.tree.map(jnp.copy, variables)
    state, seen = train.from_variables(copy, tx, KEY), []
    for _ in range(30):
        state, metrics = step(state, teacher, BATCHES[1])
        seen.append(float(metrics["loss"]))
    assert seen[-1] < 0.5 * seen[0]
    assert int(state.skipped) == 0


class Named(nn.Module):
    """Hands a layer its inputs by name."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="head")(inputs=x)


def test_layers_that_are_called_by_name_are_seen():
    network, x = networks.from_linen(Named()), jnp.array([[-1.0, 3.0]])
    params = network.init(KEY, x)
    found = quantize.calibrated(network, params, [{"image": x}], bits=2)
    assert found.ranges == {"head": (-1.0, 3.0)}
    coarse = quantize.with_activations(network, found)
    near = quantize.rounded(x, -1.0, 3.0, bits=2)
    said = [network.apply(params, y)[0].logits for y in (near, x)]
    np.testing.assert_array_equal(coarse.apply(params, x)[0].logits, said[0])
    assert (said[0] != said[1]).all()


class Loop(nn.Module):
    """Three layers in one loop."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, name="first")(x)
        layers = nn.scan(
            Relu, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        return layers(name="loop")(x, None)[0]


class Relu(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.relu(nn.Dense(4, name="dense")(x)), None


def test_what_cannot_be_calibrated_is_refused(variables):
    with pytest.raises(ValueError, match="no layer was seen; it needs at least one"):
        quantize.calibrated(MLP, variables, [])
    linear = networks.from_function(lambda params, x: x @ params)
    with pytest.raises(ValueError, match=r"a network made of Linen layers \(nn.Dense"):
        quantize.calibrated(linear, {"params": jnp.eye(5)}, BATCHES)
    with pytest.raises(
        ValueError, match="calibrated: bits must be an integer from 2 to 8"
    ):
        quantize.calibrated(MLP, variables, iter(()), bits=9)
    with pytest.raises(ValueError, match="the batch has no field 'text', only"):
        quantize.calibrated(MLP, variables, BATCHES, inputs="text")
    loop, x = networks.from_linen(Loop()), jnp.ones((2, 4))
    params = loop.init(KEY, x)
    with pytest.raises(ValueError, match=r"a layer inside of a loop .* cannot be seen"):
        quantize.calibrated(loop, params, [{"image": x}])
    # but it sees a range that is given
    ranges = {"first": (0.0, 1.0), "loop/dense": (0.0, 0.1)}
    coarse = quantize.with_activations(loop, quantize.Activations(ranges, bits=2))
    said = [jax.jit(n.apply)(params, x)[0].logits for n in (loop, coarse)]
    assert not np.allclose(*said)
