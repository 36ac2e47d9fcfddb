"""Units: silenced and removed, a network says the same."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import core

from kdjax import metrics, networks, trees
from kdjax.compress import prune
from kdjax.units import Place, Units
from tests.compress.prune_table import (
    EVERY_MODEL,
    EVERY_SCOPE,
    WITH_UNITS,
    choice,
    drawn,
    lowest_go,
    number,
    quietly,
    say,
    shapes,
    weight_score,
    whole,
)
from tests.small import equal

close = functools.partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-5)


def chosen(name, sparsity, score="l1", scope="layer"):
    """Return which units of a row's network stay."""
    found = choice(name, score, scope)(whole(name).variables, sparsity)
    return {layer: found[layer] for layer in whole(name).layers}


def silenced(variables, layers, kept):
    return prune.apply(variables, prune.silencing(variables, layers, kept))


def cost(model, variables, inputs):
    return metrics.flops(networks.from_linen(model).apply, variables, inputs)


@EVERY_MODEL
@pytest.mark.parametrize(
    ("score", "scope"), [("l1", "layer"), ("l2", "global"), ("random", "layer")]
)
def test_removed_says_what_silenced_says(name, score, scope):
    (model, inputs, _), variables, layers = whole(name)
    kept = chosen(name, 0.4, score, scope)
    units = sum(u.size for u in layers.values())
    gone = units - sum(prune.sizes(kept).values())
    if scope == "global":
        assert gone == number(0.4, units, least=len(layers))
    else:
        assert gone == sum(number(0.4, u.size, least=1) for u in layers.values())
    quiet, alive = quietly(name)(variables, kept)
    equal(alive, kept)
    before, _ = say(model, variables, inputs)
    expected, _ = say(model, quiet, inputs)
    assert not layers or abs(before - expected).max() > 1e-2
    narrow = model.narrowed(prune.sizes(kept))
    small = prune.remove(variables, layers, kept)
    equal(prune.remove(quiet, layers, kept), small)
    close(say(narrow, small, inputs)[0], expected)
    assert trees.describe(small) == trees.describe(shapes(narrow, inputs))
    if layers:
        assert trees.count(small) < trees.count(variables)
        assert cost(narrow, small, inputs) < cost(model, variables, inputs)


@pytest.mark.parametrize("name", ["resnet14", "resnet8x2"])
def test_removed_trains_with_the_statistics_of_silenced(name):
    (model, inputs, _), variables, layers = whole(name)
    kept = chosen(name, 0.4)
    quiet, _ = quietly(name)(variables, kept)
    expected, after = say(model, quiet, inputs, train=True)
    narrow = model.narrowed(prune.sizes(kept))
    small = prune.remove(variables, layers, kept)
    found, updated = say(narrow, small, inputs, train=True)
    close(found, expected)
    jax.tree.map(close, updated, prune.remove(after, layers, kept))
    moved = jax.tree.map(
        lambda a, b: bool((a != b).any()), updated["batch_stats"], small["batch_stats"]
    )
    assert all(jax.tree.leaves(moved))


@EVERY_MODEL
@EVERY_SCOPE
def test_nothing_removed_changes_nothing(name, scope):
    (model, inputs, _), variables, layers = whole(name)
    kept = chosen(name, 0.0, scope=scope)
    equal(prune.remove(variables, layers, kept), variables)
    equal(quietly(name)(variables, kept)[0], variables)
    narrow = model.narrowed(prune.sizes(kept))
    assert narrow.units() == layers
    assert trees.describe(variables) == trees.describe(shapes(narrow, inputs))


@WITH_UNITS
@EVERY_SCOPE
def test_one_unit_of_each_layer_stays(name, scope):
    (model, inputs, _), variables, layers = whole(name)
    kept = chosen(name, 1.0, scope=scope)
    assert prune.sizes(kept) == dict.fromkeys(layers, 1)
    equal(kept, chosen(name, 1.0))  # the best of its layer
    narrow = model.narrowed(prune.sizes(kept))
    small = prune.remove(variables, layers, kept)
    expected, _ = say(model, quietly(name)(variables, kept)[0], inputs)
    close(say(narrow, small, inputs)[0], expected)


@pytest.mark.parametrize("name", ["mlp", "resnet14", "transformer"])
def test_what_is_left_can_be_pruned_again(name):
    (model, inputs, _), variables, layers = whole(name)

    @jax.jit
    def halved(variables):
        kept = prune.structured(variables, model.units(), 0.5)
        return kept, silenced(variables, model.units(), kept)

    for _ in range(2):
        kept, quiet = halved(variables)
        halves = {n: u.size - number(0.5, u.size) for n, u in layers.items()}
        assert prune.sizes(kept) == halves
        expected, _ = say(model, quiet, inputs)
        variables = prune.remove(variables, layers, kept)
        model = model.narrowed(prune.sizes(kept))
        layers = model.units()
        close(say(model, variables, inputs)[0], expected)
    fewer = model.narrowed({next(iter(layers)): 1})
    assert [u.size for u in fewer.units().values()][1:] == [*halves.values()][1:]


def last(*names):
    """Return the weights of each unit along the last axis of kernels, as rows."""

    def rows(params):
        kernels = (params[f"{name}/kernel"] for name in names)
        return [kernel.reshape(-1, kernel.shape[-1]).T for kernel in kernels]

    return rows


def heads(params):
    kernels = (params[f"block2/{n}/kernel"] for n in ("query", "key", "value"))
    return [kernel.transpose(1, 0, 2).reshape(3, -1) for kernel in kernels]


def gates(params):
    both, one = (params[f"layer2/{n}_kernel"].T for n in ("gates", "candidate"))
    return [both[:7], both[7:], one]


# Of layers of the table's models, the weights that make each unit.
MADE_OF = {
    "mlp": {"hidden1": last("dense1"), "hidden2": last("dense2")},
    "resnet8": {
        "stage1_block0": last("stage1_block0/conv1"),
        "stage1": last("stem", "stage1_block0/conv2"),
        "stage2_block0": last("stage2_block0/conv1"),
        "stage2": last("stage2_block0/shortcut", "stage2_block0/conv2"),
        "stage3_block0": last("stage3_block0/conv1"),
        "stage3": last("stage3_block0/shortcut", "stage3_block0/conv2"),
    },
    "gru": {"hidden2": gates},
    "transformer": {"heads2": heads, "expand1": last("block1/expand")},
}


def means(name, score):
    """Return each unit's mean score, by layer, in NumPy."""
    params = trees.select(whole(name).variables["params"], lambda *_: True)
    params = {path: np.asarray(leaf) for path, leaf in params.items()}
    return {
        layer: weight_score(score, "", np.concatenate(rows(params), 1)).mean(1)
        for layer, rows in MADE_OF[name].items()
    }


@pytest.mark.parametrize("name", MADE_OF)
@pytest.mark.parametrize("score", ["l1", "l2"])
def test_units_with_the_lowest_mean_scores_go(name, score):
    for sparsity in (0.3, 0.5, 0.8):
        kept = chosen(name, sparsity, score)
        for layer, worth in means(name, score).items():
            expected = lowest_go(worth, number(sparsity, worth.size, least=1))
            np.testing.assert_array_equal(kept[layer], expected)


@pytest.mark.parametrize("name", ["mlp", "resnet8"])
@pytest.mark.parametrize("score", ["l1", "l2"])
def test_all_layers_together_lose_the_lowest_but_not_the_best_of_each(name, score):
    worth = means(name, score)
    assert set(worth) == set(whole(name).layers)
    layers = whole(name).layers  # in the order of which ties would go
    for values in worth.values():
        values[values.argmax()] = np.inf
    together = np.concatenate([worth[layer] for layer in layers])
    for sparsity in (0.3, 0.8, 0.97):
        gone = number(sparsity, together.size, least=len(layers))
        expected = lowest_go(together, gone)
        found = chosen(name, sparsity, score, "global")
        np.testing.assert_array_equal(np.concatenate([*found.values()]), expected)


@pytest.mark.parametrize("worst", [3e38, np.inf, np.nan])
def test_numbers_beyond_all_bounds_leave_no_layer_empty(worst):
    _, variables, layers = whole("mlp")
    for layer, other in (("dense1", "hidden2"), ("dense2", "hidden1")):
        bad = jnp.full_like(variables["params"][layer]["kernel"], worst)
        params = {**variables["params"], layer: {"kernel": bad, "bias": jnp.ones(9)}}
        for sparsity in (0.6, 1.0):
            kept = prune.structured(
                {"params": params}, layers, sparsity, score=prune.l2, scope="global"
            )
            left = prune.sizes(kept)
            assert left[other] == 1
            assert sum(left.values()) == 18 - number(sparsity, 18, 2) > 1


@EVERY_SCOPE
def test_compiled_it_is_the_same(scope):
    _, variables, layers = whole("gru")

    @jax.jit
    def masked(variables, sparsity):
        kept = prune.structured(variables, layers, sparsity, scope=scope)
        return kept, prune.silencing(variables, layers, kept)

    for sparsity in (0.0, 0.3, 1.0):
        kept = chosen("gru", sparsity, scope=scope)
        mask = prune.silencing(variables, layers, kept)
        equal(masked(variables, sparsity), (kept, mask))
        assert all(leaf.dtype == bool for leaf in jax.tree.leaves(mask))


def test_where_tells_which_arrays_count():
    _, variables, layers = whole("gru")
    kept = prune.structured(
        variables, layers, 0.5, where=lambda path, _: path.endswith("candidate_bias")
    )
    bias = np.abs(variables["params"]["layer1"]["candidate_bias"])
    np.testing.assert_array_equal(kept["hidden1"], lowest_go(bias, 4))


def convolved(params, x):
    """A convolution, flattened into a dense layer: 16 runs of its channels."""
    x = jax.lax.conv_general_dilated(
        x, params["conv"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = jax.nn.relu(x + params["shift"][None, None, None])
    return x.reshape(len(x), -1) @ params["dense"]


def side_by_side(params, x):
    """Two layers whose units lie along one axis of what reads them."""
    x = x.reshape(len(x), -1)
    both = [jax.nn.relu(x @ params["one"]), jnp.tanh(x @ params["two"])]
    return jnp.concatenate(both, 1) @ params["out"]


def of(path, axis, *options):
    return Place(f"params/{path}", axis, *options)


BY_HAND = {
    convolved: (
        {"conv": (3, 3, 2, 5), "shift": (5,), "dense": (16 * 5, 3)},
        {"c": Units(5, (of("conv", 3), of("shift", 0)), (of("dense", 0, 0, 16),))},
    ),
    side_by_side: (
        {"one": (72, 4), "two": (72, 6), "out": (10, 3)},
        {
            "one": Units(4, (of("one", 1),), (of("out", 0),)),
            "two": Units(6, (of("two", 1),), (of("out", 0, 4),)),
        },
    ),
}


@pytest.mark.parametrize("function", BY_HAND)
@pytest.mark.parametrize("container", [dict, core.freeze])
def test_units_may_be_described_by_hand(function, container):
    sizes, layers = BY_HAND[function]
    shaped = {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in sizes.items()}
    variables = container({"params": drawn(shaped)})
    kept = prune.structured(variables, layers, 0.5)
    small = prune.remove(variables, layers, kept)
    assert isinstance(small, type(variables))
    say = jax.jit(function)
    inputs = whole("mlp").row.inputs
    quiet = silenced(variables, layers, kept)
    close(say(small["params"], inputs), say(quiet["params"], inputs))
    assert trees.count(small) < math.ceil(0.65 * trees.count(variables))
