import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from kdjax import networks, trees
from kdjax.base import Outputs
from tests.twins import INPUTS, LinenNet, build

KEY = jax.random.key(7)


def equal(one, two):
    jax.tree.map(np.testing.assert_array_equal, one, two)


def close(one, two):
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), one, two)


@pytest.fixture(scope="module")
def variables():
    """The variables of all twins, with statistics unlike the initial ones."""
    start = jax.jit(build("linen").init)(KEY, INPUTS)
    norm = {"mean": jnp.linspace(-1, 1, 6), "var": jnp.linspace(0.5, 2, 6)}
    return {**start, "batch_stats": {"encoder": {"norm": norm}}}


@pytest.fixture(params=["linen", "nnx"])
def network(request):
    return build(request.param)


def test_variables_are_plain_dicts_of_the_real_collections(network):
    variables = jax.jit(network.init)(KEY, INPUTS)
    assert sorted(variables) == ["batch_stats", "params"]
    assert sorted(trees.select(variables, lambda *_: True)) == [
        "batch_stats/encoder/norm/mean",
        "batch_stats/encoder/norm/var",
        *(f"params/encoder/dense/{leaf}" for leaf in ("bias", "kernel")),
        *(f"params/encoder/norm/{leaf}" for leaf in ("bias", "scale")),
        *(
            f"params/{m}/{leaf}"
            for m in ("head", "shared")
            for leaf in ("bias", "kernel")
        ),
    ]

    def check(tree):
        assert type(tree) is dict or isinstance(tree, jax.Array)
        for child in tree.values() if type(tree) is dict else ():
            check(child)

    check(variables)


def test_twins_agree(variables):
    capture = ("own", "encoder", "encoder/hid", "encoder/norm", "shared")
    linen, nnx = (build(name, capture, rate=0.0) for name in ("linen", "nnx"))
    for train in (False, True):
        one = linen.apply(variables, INPUTS, train=train, rngs=KEY)
        two = nnx.apply(variables, INPUTS, train=train, rngs=KEY)
        assert list(one[0].features) == list(two[0].features)
        close(one, two)


def test_evaluation_changes_nothing_and_needs_no_key(network, variables):
    outputs, after = network.apply(variables, INPUTS)
    assert after is variables
    again, _ = network.apply(variables, INPUTS, rngs=jax.random.key(3))
    equal(outputs, again)
    assert list(outputs.features) == ["own"]
    # The given statistics are used, not those of the batch: rows are independent.
    row, _ = network.apply(variables, INPUTS[:1])
    close(row.logits, outputs.logits[:1])


def test_training_updates_the_statistics_and_drops(network, variables):
    one, after = network.apply(variables, INPUTS, train=True, rngs=KEY)
    two, _ = network.apply(variables, INPUTS, train=True, rngs=KEY)
    other, _ = network.apply(variables, INPUTS, train=True, rngs=jax.random.key(8))
    equal(one, two)
    assert not np.allclose(one.logits, other.logits)
    assert after["params"] is variables["params"]
    assert jax.tree.structure(after) == jax.tree.structure(variables)

    p = variables["params"]["encoder"]["dense"]
    x = np.asarray(INPUTS) @ np.asarray(p["kernel"]) + np.asarray(p["bias"])
    before = variables["batch_stats"]["encoder"]["norm"]
    close(
        after["batch_stats"]["encoder"]["norm"],
        {
            "mean": 0.99 * before["mean"] + 0.01 * x.mean(0),
            "var": 0.99 * before["var"] + 0.01 * x.var(0),
        },
    )


@pytest.mark.parametrize("framework", ["linen", "nnx"])
def test_rngs_may_be_a_dict_or_an_old_key(framework, variables):
    network = build(framework)
    stream = "dropout" if framework == "linen" else "default"
    for key in (KEY, jax.random.PRNGKey(7)):
        for rngs in (key, {stream: key}):
            one, _ = network.apply(variables, INPUTS, train=True, rngs=rngs)
            two, _ = network.apply(variables, INPUTS, rngs=rngs)
            assert not np.allclose(one.logits, two.logits)


def test_jit_grad_vmap_and_no_retracing(network, variables):
    traces = []

    @functools.partial(jax.jit, static_argnames="train")
    def apply(variables, inputs, rngs, train=False):
        traces.append(train)
        return network.apply(variables, inputs, train=train, rngs=rngs)

    close(apply(variables, INPUTS, None), network.apply(variables, INPUTS))
    step = functools.partial(network.apply, train=True)
    outputs, after = apply(variables, INPUTS, KEY, train=True)
    close((outputs, after), step(variables, INPUTS, rngs=KEY))
    apply(after, INPUTS + 1, jax.random.key(1), train=True)  # what came out goes in
    apply(after, INPUTS, None)
    assert traces == [False, True]

    @jax.jit
    def loss(params):
        outputs, _ = step({**variables, "params": params}, INPUTS, rngs=KEY)
        return (outputs.logits**2).mean()

    gradient = jax.jit(jax.grad(loss))(variables["params"])
    assert jax.tree.structure(gradient) == jax.tree.structure(variables["params"])
    nonzero = jax.tree.map(lambda leaf: bool(np.abs(leaf).max() > 1e-6), gradient)
    nonzero["encoder"]["dense"].pop("bias")  # batch normalisation cancels it
    assert all(jax.tree.leaves(nonzero))

    other = jax.tree.map(lambda leaf: leaf * 1.1, variables)
    keys = jax.random.split(KEY)
    stacked = trees.stack([variables, other])
    mapped = jax.jit(jax.vmap(lambda v, key: step(v, INPUTS, rngs=key)))(stacked, keys)
    single = [
        step(v, INPUTS, rngs=k) for v, k in zip((variables, other), keys, strict=True)
    ]
    close(mapped, trees.stack(single))


# Linen alone


def mode_module(argument, default, seen):
    """Return a module that notes the mode it is given."""
    scope = {"seen": seen}
    exec(f"def call(self, x, {argument}{default}): seen.append({argument})", scope)
    return type("Mode", (nn.Module,), {"__call__": scope["call"]})()


@pytest.mark.parametrize("default", ["", "=None"])
@pytest.mark.parametrize(
    ("argument", "negated"),
    [
        ("train", False),
        ("training", False),
        ("is_training", False),
        ("deterministic", True),
        ("use_running_average", True),
    ],
)
def test_mode_reaches_the_argument_that_the_module_has(argument, negated, default):
    seen = []
    network = networks.from_linen(mode_module(argument, default, seen))
    assert network.init(KEY, INPUTS) == {}
    for train in (False, True):
        network.apply({}, INPUTS, train=train)
    assert seen == [negated, negated, not negated]


def test_module_without_a_mode_that_returns_plain_logits():
    network = networks.from_linen(nn.Dense(3))
    variables = network.init(KEY, INPUTS)
    for train in (False, True):
        outputs, after = network.apply(variables, INPUTS, train=train)
        assert isinstance(outputs, Outputs)
        assert outputs.logits.shape == (5, 3)
        assert outputs.features == {}
        equal(after, variables)


class ManyStreams(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        if not train:
            return x
        draw = lambda name: jax.random.uniform(self.make_rng(name))  # noqa: E731
        return jnp.stack(
            [draw(name) for name in ("dropout", "noise", "dropout", "mixup")]
        )


class DropLayer(nn.Module):
    @nn.compact
    def __call__(self, carry, _):
        ones = jnp.ones(64)
        return carry, nn.Dropout(0.5, deterministic=False)(ones)


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        if not train:
            return x
        layers = nn.scan(DropLayer, split_rngs={"dropout": True}, length=2)
        return layers()(x, None)[1]


def test_one_key_feeds_every_stream_differently():
    network = networks.from_linen(ManyStreams())
    draws, _ = network.apply({}, INPUTS, train=True, rngs=KEY)
    assert len(set(draws.logits.tolist())) == 4

    masks, _ = networks.from_linen(Scanned()).apply({}, INPUTS, train=True, rngs=KEY)
    assert not np.array_equal(masks.logits[0], masks.logits[1])


class Counter(nn.Module):
    @nn.compact
    def __call__(self, x):
        count = self.variable("cache", "count", lambda: jnp.zeros(()))
        if not self.is_initializing() and self.is_mutable_collection("cache"):
            count.value += 1
        self.sow("losses", "size", x.sum())
        return x * self.param("scale", nn.initializers.ones, (1, 4)) + count.value


def test_collections_of_the_variables_are_updated_and_no_others_appear():
    network = networks.from_linen(Counter())
    variables = network.init(KEY, INPUTS)
    variables = {name: variables[name] for name in ("params", "cache")}
    for expected in (1, 2):
        _, variables = network.apply(variables, INPUTS, train=True)
        assert variables["cache"]["count"] == expected
        assert sorted(variables) == ["cache", "params"]
    outputs, after = network.apply(variables, INPUTS)
    np.testing.assert_array_equal(outputs.logits, INPUTS + 2)
    assert after is variables


def test_frozen_dicts_and_left_over_intermediates_are_taken():
    network = build("linen", ("encoder/hid",))
    variables = LinenNet().init(KEY, INPUTS)
    expected, _ = network.apply(variables, INPUTS)
    left = {**variables, "intermediates": {"encoder": {"hid": (jnp.zeros(1),)}}}
    for given in (flax.core.freeze(variables), left):
        outputs, _ = network.apply(given, INPUTS)
        equal(outputs, expected)
        _, after = network.apply(given, INPUTS, train=True, rngs=KEY)
        assert sorted(after) == sorted(given)


# Plain functions


def test_from_function_passes_what_the_function_takes():
    def fn(params, inputs, *, train, rngs):
        return Outputs(inputs @ params, {"seen": (train, rngs)})

    network = networks.from_function(
        fn, lambda key, inputs: jnp.ones((inputs.shape[1], 2))
    )
    variables = network.init(KEY, INPUTS)
    assert variables["params"].shape == (4, 2)
    outputs, after = network.apply(variables, INPUTS, train=True, rngs=KEY)
    assert after is variables
    assert outputs.features["seen"] == (True, KEY)
    np.testing.assert_allclose(outputs.logits[:, 0], INPUTS.sum(1), rtol=1e-6)

    plain = networks.from_function(lambda params, inputs: inputs @ params)
    outputs, _ = jax.jit(plain.apply, static_argnames="train")(
        variables, INPUTS, train=True
    )
    assert outputs.logits.shape == (5, 2)
    assert outputs.features == {}


def test_from_function_without_init_says_what_to_do():
    network = networks.from_function(lambda params, inputs: inputs)
    with pytest.raises(ValueError, match=r"from_function: .* pass init="):
        network.init(KEY, INPUTS)
