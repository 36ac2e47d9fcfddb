"""What is particular to NNX: private copies, random state, paths, types."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util

from kdjax import networks, trees
from tests.twins import INPUTS, NnxEncoder, NnxNet

KEY = jax.random.key(7)


def arrays(model):
    """Return all state of a model, keys as their data, as NumPy arrays by path."""
    found = {}
    for path, leaf in nnx.to_flat_state(nnx.state(model)):
        value = leaf.get_value()
        if isinstance(leaf, nnx.RngKey):
            value = jax.random.key_data(value)
        found[path] = np.array(value)
    return found


def test_the_users_model_is_never_changed():
    model = NnxNet(nnx.Rngs(0))
    model.encoder.drop.deterministic = None  # neither mode
    classes = {path: type(m) for path, m in nnx.iter_modules(model)}
    methods = {kind: dict(vars(kind)) for kind in classes.values()}
    state = arrays(model)
    attributes = copy.copy(vars(model)), copy.copy(vars(model.encoder))
    graph = nnx.graphdef(model)

    network = networks.from_nnx(model, ("encoder", "encoder/hid", "own"))
    variables = network.init(KEY, INPUTS)
    for how in ({}, {"train": True, "rngs": KEY}):
        network.apply(variables, INPUTS, **how)
        jax.jit(functools.partial(network.apply, **how))(variables, INPUTS)

    after = arrays(model)
    assert list(after) == list(state)
    for path, value in state.items():
        assert value.tobytes() == after[path].tobytes(), path
    assert nnx.graphdef(model) == graph
    assert (vars(model), vars(model.encoder)) == attributes
    assert model.encoder.drop.deterministic is None
    assert {path: type(m) for path, m in nnx.iter_modules(model)} == classes
    assert {kind: dict(vars(kind)) for kind in methods} == methods


def test_classes_are_untouched_while_the_model_runs():
    seen = []

    class Inner(nnx.Module):
        def __call__(self, x):
            seen.append((Inner.__dict__["__call__"], type(self).__name__))
            return x

    class Net(nnx.Module):
        def __init__(self):
            self.inner = Inner()

        def __call__(self, x):
            return self.inner(x)

    original = Inner.__dict__["__call__"]
    network = networks.from_nnx(Net(), ("inner",))
    for _ in range(3):
        network.apply({}, INPUTS)
    assert set(seen) == {(original, "Inner")}
    assert len(Inner.__subclasses__()) == 1  # one for capturing, made once


def test_init_of_an_instance_returns_copies_of_its_present_values():
    model = NnxNet(nnx.Rngs(0))
    network = networks.from_nnx(model)
    model.head.bias[...] = jnp.full(3, 5.0)  # trained further after it was wrapped
    variables = network.init(KEY, INPUTS)
    np.testing.assert_array_equal(variables["params"]["head"]["bias"], 5)
    np.testing.assert_array_equal(
        variables["params"]["head"]["kernel"], model.head.kernel[...]
    )

    double = jax.jit(lambda tree: jax.tree.map(lambda x: 2 * x, tree), donate_argnums=0)
    double(variables)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(variables))
    assert not any(np.isnan(value).any() for value in arrays(model).values())


def test_init_of_a_factory_is_that_of_the_class():
    for factory in (
        NnxNet,
        functools.partial(NnxNet, rate=0.1),
        lambda rngs: NnxNet(rngs),
    ):
        variables = networks.from_nnx(factory).init(KEY, INPUTS)
        model = NnxNet(nnx.Rngs(KEY))
        expected = networks.from_nnx(model).init(None, INPUTS)
        jax.tree.map(np.testing.assert_array_equal, variables, expected)
    other = networks.from_nnx(NnxNet).init(jax.random.key(8), INPUTS)
    assert not np.allclose(other["params"]["head"]["kernel"], model.head.kernel[...])


class Listed(nnx.Module):
    """Lists, dicts with int keys, a plain array, an own type, a shared variable."""

    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(11)])
        self.tied = nnx.Linear(4, 4, rngs=rngs)
        self.tied.kernel = self.layers[3].kernel
        self.offset = jnp.ones((1, 4))
        self.calls = Calls(jnp.zeros((), jnp.int32))

    def __call__(self, x, *, deterministic):
        for layer in self.layers:
            x = layer(x)
        if not deterministic:
            self.calls[...] += 1
        return self.tied(x) + self.offset


class Calls(nnx.Variable):
    pass


def test_variables_survive_a_checkpoint_with_string_keys():
    network = networks.from_nnx(Listed, ("layers/10",))
    variables = network.init(KEY, INPUTS)
    assert sorted(variables) == ["Calls", "arrays", "params"]
    assert "kernel" in variables["params"]["layers"]["3"]
    assert list(variables["params"]["tied"]) == ["bias"]
    flat = traverse_util.flatten_dict(variables, sep="/")
    assert all(isinstance(part, str) for path in flat for part in path.split("/"))
    again = traverse_util.unflatten_dict(
        {k: np.asarray(v) for k, v in flat.items()}, sep="/"
    )
    assert trees.fingerprint(again) == trees.fingerprint(variables)

    one, after = network.apply(variables, INPUTS, train=True)
    two, _ = network.apply(again, INPUTS)
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert one.features["layers/10"].shape == (5, 4)
    assert after["Calls"]["calls"] == 1
    _, after = network.apply(after, INPUTS)
    assert after["Calls"]["calls"] == 1

    del again["params"]["layers"]["7"]["bias"]
    with pytest.raises(ValueError, match="variables lack params/layers/7/bias"):
        network.apply(again, INPUTS)


def test_a_tied_parameter_has_one_gradient():
    network = networks.from_nnx(Listed)
    variables = network.init(KEY, INPUTS)

    def loss(scale):
        kernel = variables["params"]["layers"]["3"]["kernel"]
        params = {**variables["params"]}
        params["layers"] = {**params["layers"], "3": {**params["layers"]["3"]}}
        params["layers"]["3"]["kernel"] = scale * kernel
        return network.apply({**variables, "params": params}, INPUTS)[0].logits.sum()

    base = loss(0.0)
    np.testing.assert_allclose(loss(2.0) - base, 4 * (loss(1.0) - base), rtol=1e-3)


class Noisy(nnx.Module):
    def __init__(self, rngs):
        self.one = nnx.Dropout(0.5, rngs=rngs)
        self.two = nnx.Dropout(0.5, rngs=rngs)
        self.rngs = rngs

    def __call__(self, x):
        return jnp.stack([self.one(x), self.two(x), self.rngs.noise.normal(x.shape)])


def test_random_state_is_derived_anew_in_every_call():
    network = networks.from_nnx(Noisy)
    assert network.init(KEY, INPUTS) == {}
    ones = jnp.ones((3, 40))

    jitted = jax.jit(network.apply, static_argnames="train")

    def call(**how):
        return np.asarray(jitted({}, ones, **how)[0].logits)

    training = call(train=True, rngs=KEY)
    np.testing.assert_array_equal(training, call(train=True, rngs=KEY))
    assert not np.array_equal(training[0], training[1])  # each has its own mask
    assert not np.array_equal(training, call(train=True, rngs=jax.random.key(8)))
    evaluated = call()
    np.testing.assert_array_equal(evaluated[:2], 1)
    np.testing.assert_array_equal(evaluated, call())
    keys = jax.random.split(KEY, 2)
    mapped = jax.jit(jax.vmap(lambda key: jitted({}, ones, train=True, rngs=key)))(keys)
    np.testing.assert_allclose(
        mapped[0].logits[1], call(train=True, rngs=keys[1]), rtol=1e-5
    )


def test_streams_are_named_by_their_tag():
    def factory(rngs):
        del rngs
        return Noisy(nnx.Rngs(dropout=1, noise=2))

    network = networks.from_nnx(factory)
    other = jax.random.key(8)

    def call(**rngs):
        return np.asarray(network.apply({}, INPUTS, train=True, rngs=rngs)[0].logits)

    one, two = call(dropout=KEY, noise=KEY), call(dropout=KEY, noise=other)
    np.testing.assert_array_equal(one[:2], two[:2])
    assert not np.array_equal(one[2], two[2])
    np.testing.assert_array_equal(call(default=KEY), one)
    np.testing.assert_array_equal(call(default=KEY, noise=other), two)
    with pytest.raises(
        ValueError, match=r"rngs has \['noise'\].* streams dropout, noise;"
    ):
        call(noise=KEY)
    with pytest.raises(ValueError, match=r"training needs rngs for .* dropout, noise"):
        network.apply({}, INPUTS, train=True)


class Base(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        return self.scale(self.linear(x))

    @staticmethod
    def scale(x):
        return 2 * x


class Inherits(Base, pytree=False):
    layer_type = nnx.Linear


class Plain(nnx.Module, pytree=False):
    def __init__(self, rngs):
        self.inner = Inherits(rngs)

    def __call__(self, x):
        return self.inner(x)


def test_inherited_calls_static_methods_and_class_attributes():
    network = networks.from_nnx(Plain, ("inner", "inner/linear"))
    variables = network.init(KEY, INPUTS)
    outputs, _ = network.apply(variables, INPUTS)
    inner, linear = outputs.features.values()
    np.testing.assert_array_equal(inner, 2 * linear)
    np.testing.assert_array_equal(inner, outputs.logits)


def test_layers_of_a_scan_have_their_own_keys():
    class Deep(nnx.Module):
        def __init__(self, rngs):
            @nnx.split_rngs(splits=3)
            @nnx.vmap
            def make(rngs):
                return nnx.Dropout(0.5, rngs=rngs)

            self.drop = make(rngs)

        def __call__(self, x):
            @nnx.scan
            def layer(x, drop):
                return x, drop(x)

            return layer(x, self.drop)[1]

    network = networks.from_nnx(Deep)
    ones = jnp.ones(50)
    masks = network.apply({}, ones, train=True, rngs=KEY)[0].logits
    assert len({mask.tobytes() for mask in np.asarray(masks)}) == 3
    np.testing.assert_array_equal(network.apply({}, ones)[0].logits, 1)


def test_encoder_with_a_user_set_mode_follows_the_call():
    model = NnxEncoder(0.5, nnx.Rngs(0))
    model.eval()
    network = networks.from_nnx(model)
    variables = network.init(KEY, INPUTS)
    _, after = network.apply(variables, INPUTS, train=True, rngs=KEY)
    assert not np.allclose(after["batch_stats"]["norm"]["mean"], 0)
    model.train()
    network = networks.from_nnx(model)
    one, _ = network.apply(variables, INPUTS)
    row, _ = network.apply(variables, INPUTS[:1])
    np.testing.assert_allclose(one.logits[:1], row.logits, atol=1e-6)
