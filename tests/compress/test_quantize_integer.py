"""Products of int8 by int8, made by qwix."""

import functools
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import qwix
from flax import linen as nn
from flax import nnx

from kdjax import compress, losses, models, networks, train, trees
from kdjax.compress import quantize

# qwix asks Flax for names that it has given up
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(flax|qwix).*")
KEY = jax.random.key(4)
VECTORS = jax.random.normal(KEY, (4, 6))
SEQUENCES = jax.random.normal(KEY, (4, 5, 3))
IMAGES = jax.random.normal(KEY, (4, 8, 8, 2))
TOKENS = jnp.array([[3, 1, 4, 1, 5], [2, 6, 0, 0, 0], [1, 1, 2, 3, 5]])
NETWORKS = {
    "MLP": (models.MLP(3, 8), VECTORS),
    "ResNet": (models.ResNet(3, 8), IMAGES),
    "GRU": (models.GRU(3, 8, depth=2), SEQUENCES),
    "Transformer": (models.Transformer(3, 9, 8, 2, 1, length=6), TOKENS),
}
EIGHT_BITS = functools.partial(quantize.uniform, bits=8)
INT8 = [qwix.QuantizationRule(weight_qtype="int8", act_qtype="int8")]


@functools.cache
def drawn(name):
    """Return the module, its variables, inputs and what it says of them."""
    module, inputs = NETWORKS[name]
    network = networks.from_linen(module)
    variables = jax.jit(network.init)(KEY, inputs)
    return module, variables, inputs, network.apply(variables, inputs)[0].logits


def products(network, variables, inputs):
    """Return operands and result of every product: `[("8x3xi8", ...), ...]`."""
    text = jax.jit(network.apply).lower(variables, inputs).as_text()
    lines = [
        line for line in text.splitlines() if re.search("dot_general|convol", line)
    ]
    found = [re.findall(r"tensor<([^>]*)>", line.rsplit(" : ", 1)[1]) for line in lines]
    assert all(len(kinds) == 3 for kinds in found)
    return found


def weights(params):
    """Return what qwix holds of weights, by path."""
    held = jax.tree.leaves_with_path(params, is_leaf=lambda x: hasattr(x, "how"))
    named = {trees.path_name(path): leaf for path, leaf in held}
    return {name: leaf.array for name, leaf in named.items() if hasattr(leaf, "how")}


@pytest.mark.parametrize(
    ("name", "ranges"),
    [
        *((name, "dynamic") for name in NETWORKS if name != "ResNet"),
        *((name, "static") for name in ("MLP", "ResNet")),
    ],
)
def test_every_product_is_of_int8_and_says_about_the_same(name, ranges):
    module, variables, inputs, expected = drawn(name)
    given = None
    if ranges == "static":
        network = networks.from_linen(module)
        given = quantize.calibrated(network, variables, [{"image": inputs}])
    small_module, small = quantize.integer(module, variables, inputs, activations=given)
    network = networks.from_linen(small_module)
    found = products(network, small, inputs)
    assert len(found) >= {"MLP": 3, "ResNet": 11, "GRU": 5, "Transformer": 9}[name]
    for one, other, result in found:
        assert one.endswith("xi8")
        assert other.endswith("xi8")
        assert result.endswith("xi32")
    outputs, after = jax.jit(network.apply)(small, inputs)
    error = jnp.abs(outputs.logits - expected).max() / jnp.abs(expected).max()
    assert 0 < error < 0.05
    assert sorted(outputs.features) == sorted(
        networks.shapes(networks.from_linen(module), inputs).features
    )
    assert trees.describe(after) == trees.describe(small)
    if name == "ResNet":
        assert small["batch_stats"] is variables["batch_stats"]


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_have_a_scale_for_each_output(name):
    module, variables, inputs, _ = drawn(name)
    _, small = quantize.integer(module, variables, inputs)
    held = weights(small["params"])
    given = trees.select(variables["params"], lambda path, _: path.endswith("kernel"))
    assert sorted(held) == sorted(given)
    for path, exact in given.items():
        shared = 0 if exact.ndim != 4 else (0, 1, 2)
        if path.endswith("out/kernel"):
            shared = (0, 1)
        exact = np.asarray(exact, np.float64)
        scale = np.abs(exact).max(shared, keepdims=True) / 127
        np.testing.assert_allclose(held[path].scale, scale, rtol=1e-5)
        assert held[path].qvalue.dtype == jnp.int8
        assert np.abs(held[path].qvalue - exact / scale).max() <= 0.5 + 1e-3
    others = trees.select(variables["params"], lambda path, _: path not in given)
    for path, exact in others.items():
        leaf = trees.select(small["params"], lambda name, _, path=path: name == path)
        np.testing.assert_array_equal(leaf[path], exact)


def test_a_product_is_that_of_the_integers():
    module, inputs = nn.Dense(3), jnp.array([[1.0, -0.5, 0.26], [-0.1, -2.0, 4.0]])
    variables = {
        "params": {
            "kernel": jnp.array([[0.3, 1.0, 0.0], [-1.27, 0.5, 0.0], [0.1, 0.2, 0.0]]),
            "bias": jnp.array([0.5, 0.0, -1.0]),
        }
    }
    small_module, small = quantize.integer(module, variables, inputs)
    found = small_module.apply(small, inputs)
    kernel, x = (
        np.asarray(a, np.float64) for a in (variables["params"]["kernel"], inputs)
    )
    scale = np.abs(kernel).max(0) / 127
    codes = np.round(kernel / np.where(scale, scale, 1))
    # qwix gives the largest activation all of the last step
    each = np.abs(x).max(1, keepdims=True) / 127.5
    expected = np.clip(np.round(x / each), -128, 127) @ codes * each * scale
    expected += np.asarray(variables["params"]["bias"])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_quantized_weights_are_used_as_they_were_saved(tmp_path):
    # its kernels have heads
    module, variables, inputs, expected = drawn("Transformer")
    method = functools.partial(EIGHT_BITS, bounds=quantize.mse(least=0.5))
    params = quantize.quantized(variables["params"], method)
    compress.save(tmp_path / "a", {**variables, "params": params})
    loaded, _ = compress.load(tmp_path / "a")
    small_module, small = quantize.integer(module, loaded, inputs)
    held = weights(small["params"])
    assert len(held) == 7
    for path, array in held.items():
        given = functools.reduce(lambda tree, key: tree[key], path.split("/"), params)
        codes = np.asarray(given.codes, int) - 127
        np.testing.assert_array_equal(array.qvalue, codes)
        scales = np.broadcast_to(given.scale, array.scale.shape)
        np.testing.assert_array_equal(array.scale, scales)
    said = networks.from_linen(small_module).apply(small, inputs)[0].logits
    assert jnp.abs(said - expected).max() < 0.05 * jnp.abs(expected).max()


@pytest.mark.parametrize(
    "method",
    [
        functools.partial(quantize.uniform, bits=4),
        functools.partial(quantize.uniform, bits=8, symmetric=False),
        functools.partial(quantize.uniform, bits=8, channel_axis=0),
        functools.partial(quantize.kmeans, bits=8),
    ],
)
def test_weights_on_other_grids_are_refused(method):
    module, variables, inputs, _ = drawn("MLP")
    params = quantize.quantized(variables["params"], method)
    with pytest.raises(
        ValueError, match=r"quantized by uniform\(bits=8\); other grids"
    ):
        quantize.integer(module, {"params": params}, inputs)


def test_what_it_cannot_do_is_refused(monkeypatch):
    module, variables, inputs, _ = drawn("MLP")
    activations = quantize.Activations({"dense1": (-1.0, 1.0)}, bits=4)
    with pytest.raises(ValueError, match=r"must have 8 bits, got 4; quantize.with_act"):
        quantize.integer(module, variables, inputs, activations=activations)
    monkeypatch.setitem(sys.modules, "qwix", None)
    with pytest.raises(ImportError, match=r"pip install 'kdjax\[compress\]'"):
        quantize.integer(module, variables, inputs)


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return jnp.tanh(nn.Dense(6, name="dense")(x)), None


class Loop(nn.Module):
    @nn.compact
    def __call__(self, x):
        layers = nn.scan(
            Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        return nn.Dense(2, name="head")(layers(name="loop")(x, None)[0])


def test_layers_of_a_loop_are_of_int8_too():
    variables = jax.jit(Loop().init)(KEY, VECTORS)
    module, small = quantize.integer(Loop(), variables, VECTORS)
    network = networks.from_linen(module)
    for kinds in products(network, small, VECTORS):
        assert [kind.rsplit("x", 1)[1] for kind in kinds] == ["i8", "i8", "i32"]
    expected = Loop().apply(variables, VECTORS)
    np.testing.assert_allclose(
        network.apply(small, VECTORS)[0].logits, expected, atol=0.02
    )


def test_what_is_beyond_a_static_range_is_clipped():
    module, variables, inputs, _ = drawn("MLP")
    given = quantize.Activations({"dense1": (-0.5, 0.25)}, bits=8)
    small_module, small = quantize.integer(module, variables, inputs, activations=given)
    said = networks.from_linen(small_module).apply(small, inputs)[0].logits
    clipped = jnp.clip(inputs, -0.5, 0.25)
    expected = networks.from_linen(module).apply(variables, clipped)[0].logits
    assert jnp.abs(said - expected).max() < 0.05 * jnp.abs(expected).max()


def test_static_ranges_of_one_point_and_symmetric_ones():
    """A range of one point is found while it computes, for it has no scale."""
    module, variables, inputs, expected = drawn("MLP")
    network = networks.from_linen(module)
    ends = quantize.calibrated(network, variables, [{"image": inputs}], symmetric=True)
    ranges = {**ends.ranges, "head": (0.0, 0.0)}
    given = quantize.Activations(ranges, 8, symmetric=True)
    small_module, small = quantize.integer(module, variables, inputs, activations=given)
    small_network = networks.from_linen(small_module)
    said = jax.jit(small_network.apply)(small, inputs)[0].logits
    assert jnp.abs(said - expected).max() < 0.05 * jnp.abs(expected).max()
    coarse = quantize.with_activations(network, given)
    eight = jax.jit(quantize.straight_through(EIGHT_BITS))(variables["params"])
    near = coarse.apply({"params": eight}, inputs)[0].features["hidden2"]
    found = jax.jit(small_network.apply)(small, inputs)[0].features["hidden2"]
    np.testing.assert_allclose(found, near, atol=1e-5)
    # without a zero point there is one product for each layer
    assert len(products(small_network, small, inputs)) == 3


class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(6, 8, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.hidden(x)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_nnx_by_the_recipe_of_the_docstring():
    model = Net(nnx.Rngs(0))
    expected = model(VECTORS)
    network = networks.from_nnx(
        qwix.quantize_model(model, qwix.PtqProvider(INT8), VECTORS)
    )
    variables = network.init(KEY, VECTORS)
    found = products(network, variables, VECTORS)
    assert len(found) == 2
    assert {kind.rsplit("x", 1)[1] for kinds in found for kind in kinds} == {
        "i8",
        "i32",
    }
    said = jax.jit(network.apply)(variables, VECTORS)[0].logits
    np.testing.assert_allclose(said, expected, atol=0.05)
    assert np.abs(said - expected).max() > 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("framework", ["linen", "nnx"])
def test_int8_products_are_trained_by_the_recipe_of_the_docstring(framework):
    provider = qwix.QtProvider(INT8)
    if framework == "linen":
        module = qwix.quantize_model(models.MLP(3, 8, depth=1), provider)
        student = networks.from_linen(module)
    else:
        model = qwix.quantize_model(Net(nnx.Rngs(0)), provider, VECTORS)
        student = networks.from_nnx(model)
    teacher, target, _, _ = drawn("MLP")
    tx, batch = optax.adam(0.05), {"image": jax.random.normal(KEY, (16, 6))}

    def objective(student, teacher, batch):
        kl = losses.soft_target_kl(student.logits, teacher.logits, temperature=2.0)
        return {"soft": kl.mean()}

    step = train.make_step(
        student.apply, networks.from_linen(teacher).apply, objective, tx
    )
    state, seen = train.init(student, tx, KEY, batch["image"]), []
    found = products(student, state.variables, batch["image"])
    assert all(kinds[2].endswith("xi32") for kinds in found)
    for _ in range(30):
        state, metrics = step(state, target, batch)
        seen.append(float(metrics["loss"]))
    assert seen[-1] < 0.3 * seen[0]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.params)} == {"float32"}
