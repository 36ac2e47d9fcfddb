"""Which intermediates a network exposes, the same way for Linen and NNX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from kdjax import models, networks
from kdjax.base import Outputs
from tests.twins import INPUTS, LinenNet, build

BOTH = pytest.mark.parametrize("framework", ["linen", "nnx"])
KEY = jax.random.key(7)
NAMES = [
    *("encoder", "encoder/dense", "encoder/drop", "encoder/hid", "encoder/norm"),
    *("head", "own", "shared[0]", "shared[1]"),
]


@pytest.fixture(scope="module")
def variables():
    return jax.jit(LinenNet().init)(KEY, INPUTS)


def features(framework, capture, variables, **how):
    return build(framework, capture).apply(variables, INPUTS, **how)[0].features


@BOTH
def test_features_are_exactly_the_captured_ones(framework, variables):
    for name in NAMES:
        assert list(features(framework, (name,), variables)) == [name]
    asked = ("head", "encoder/hid", "own")
    assert list(features(framework, asked, variables)) == list(asked)
    every_call = features(framework, ("shared",), variables)
    assert list(every_call) == ["shared[0]", "shared[1]"]


@BOTH
def test_captured_values_are_what_the_modules_return(framework, variables):
    found = features(framework, NAMES, variables)
    p = variables["params"]

    def affine(x, layer):
        return x @ layer["kernel"] + layer["bias"][None]

    np.testing.assert_allclose(
        found["encoder/dense"], affine(INPUTS, p["encoder"]["dense"]), atol=1e-5
    )
    np.testing.assert_array_equal(found["encoder/hid"], found["encoder/norm"])
    np.testing.assert_array_equal(found["encoder"], found["encoder/drop"])
    first = affine(found["encoder"], p["shared"])
    np.testing.assert_allclose(found["shared[0]"], first, atol=1e-5)
    second = affine(jnp.maximum(first, 0), p["shared"])
    np.testing.assert_allclose(found["shared[1]"], second, atol=1e-5)
    np.testing.assert_array_equal(found["own"], found["shared[1]"])


@BOTH
def test_capture_changes_neither_logits_nor_statistics(framework, variables):
    for how in ({}, {"train": True, "rngs": KEY}):
        plain, after = build(framework).apply(variables, INPUTS, **how)
        captured, also = build(framework, NAMES).apply(variables, INPUTS, **how)
        np.testing.assert_array_equal(plain.logits, captured.logits)
        jax.tree.map(np.testing.assert_array_equal, after, also)


@BOTH
def test_gradient_flows_through_captured_features(framework, variables):
    network = build(framework, ("encoder/hid", "own"))

    @jax.jit
    @jax.grad
    def gradient(params):
        given = {**variables, "params": params}
        outputs, _ = network.apply(given, INPUTS, train=True, rngs=KEY)
        return (outputs.features["encoder/hid"] * INPUTS[:, :1]).sum()

    found = gradient(variables["params"])
    assert np.abs(found["encoder"]["norm"]["scale"]).max() > 1e-3
    assert np.abs(found["shared"]["kernel"]).max() == 0


@BOTH
def test_unknown_name_lists_what_there_is_and_what_is_close(framework, variables):
    listed = (
        r"no intermediate is called 'encoder/hidd'\. Did you mean 'encoder/hid'.*\? "
        + "There are: "
        + ", ".join(NAMES).replace("[", r"\[")
        + "(\n|$)"
    )
    network = build(framework, ("own", "encoder/hidd"))
    with pytest.raises(ValueError, match=f"from_{framework}: {listed}"):
        network.init(KEY, INPUTS)
    with pytest.raises(ValueError, match=listed):
        jax.jit(network.apply)(variables, INPUTS)
    with pytest.raises(ValueError, match=listed):
        network.apply(variables, INPUTS, train=True, rngs=KEY)


@BOTH
@pytest.mark.parametrize("name", ["", "shared[2]", "shared[0][0]", "encoder/", "Own"])
def test_other_wrong_names(framework, name, variables):
    with pytest.raises(ValueError, match="no intermediate is called"):
        features(framework, (name,), variables)


@BOTH
def test_one_string_is_no_list_of_names(framework):
    with pytest.raises(ValueError, match="capture must be a sequence, got 'own'"):
        build(framework, "own")


def test_module_with_nothing_to_capture():
    network = networks.from_nnx(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), ("kernel",))
    with pytest.raises(ValueError, match="There are: none"):
        network.init(KEY, INPUTS)


def test_capture_of_own_features_and_blocks_of_a_library_model():
    network = networks.from_linen(
        models.ResNet(classes=4, depth=8, width=4), ("stage2", "stage1_block0/conv1")
    )
    images = jnp.ones((2, 8, 8, 1))
    outputs, _ = jax.eval_shape(
        lambda k, x: network.apply(network.init(k, x), x), KEY, images
    )
    assert {name: value.shape for name, value in outputs.features.items()} == {
        "stage2": (2, 4, 4, 128),
        "stage1_block0/conv1": (2, 8, 8, 64),
    }


class LinenOwn(nn.Module):
    """An own feature, a submodule and a sown value that collide."""

    @nn.compact
    def __call__(self, x):
        y = nn.Dense(3, name="mid")(x)
        self.sow("intermediates", "two", x)
        self.sow("intermediates", "two", 2 * x)
        return Outputs(y, {"mid": y + 1})


def test_own_feature_wins_and_sown_twice_is_numbered():
    network = networks.from_linen(LinenOwn(), ("mid", "two[1]"))
    variables = network.init(KEY, INPUTS)
    outputs, _ = network.apply(variables, INPUTS)
    assert list(outputs.features) == ["mid", "two[1]"]
    np.testing.assert_array_equal(outputs.features["mid"], outputs.logits + 1)
    np.testing.assert_array_equal(outputs.features["two[1]"], 2 * INPUTS)


class WithMethod(nn.Module):
    def setup(self):
        self.mid = nn.Embed(4, 4)

    def __call__(self, x):
        return self.mid.attend(x)


def test_only_calls_are_captured_not_other_methods():
    network = networks.from_linen(WithMethod(), ("mid",))
    with pytest.raises(ValueError, match="There are: none"):
        network.init(KEY, INPUTS)


class OnlyInTraining(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        if train:
            self.sow("intermediates", "extra", x)
        return x


def test_the_names_listed_are_those_of_the_call():
    network = networks.from_linen(OnlyInTraining(), ("extras",))
    for train, names in ((False, "none"), (True, "extra")):
        with pytest.raises(ValueError, match=f"There are: {names}"):
            network.apply({}, INPUTS, train=train)


def test_only_what_is_asked_is_held():
    """Eagerly, an intermediate nobody asked for is freed as soon as it is used."""
    import gc
    import weakref

    alive = []

    class Watch(nn.Module):
        @nn.compact
        def __call__(self, x):
            return jax.tree.map(lambda leaf: leaf + 1, x)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            middle = Watch(name="first")(x)
            seen = weakref.ref(middle)
            x = Watch(name="second")(middle)
            del middle
            gc.collect()
            alive.append(seen() is not None)
            return x

    for capture in ((), ("second",), ("first",)):
        networks.from_linen(Net(), capture).apply({}, INPUTS)
    assert alive == [False, False, True]
