"""Masks of single weights: what they prune, whatever holds the weights."""

import dataclasses
import functools

import hypothesis
import hypothesis.extra.numpy as arrays
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import core
from hypothesis import strategies as st

from kdjax import trees
from kdjax.compress import prune
from kdjax.compress.prune import _masks
from kdjax.compress.prune._above import above
from tests.compress.prune_table import (
    EVERY_SCOPE,
    EVERY_SCORE,
    SCORES,
    masks,
    nested,
    number,
    pruned,
)
from tests.small import equal

rng = np.random.default_rng(0)
SHAPES = {"conv/kernel": (3, 2, 5), "head/kernel": (5, 4), "other/kernel": (5, 4)}
LADDER = (0.0, 0.1, 0.25, 0.5, 0.625, 0.77, 0.9, 0.97, 1.0)
DRAWN = {path: rng.normal(size=shape) for path, shape in SHAPES.items()}
WEIGHTS = {
    "drawn": DRAWN,
    "tied": {path: w.round() for path, w in DRAWN.items()},
    "one layer constant": {**DRAWN, "head/kernel": np.full((5, 4), -0.5)},
    "all equal": {path: np.full(shape, 2.0) for path, shape in SHAPES.items()},
    "half zeros": {path: np.maximum(w, 0) for path, w in DRAWN.items()},
    "zeros": {path: np.zeros(shape) for path, shape in SHAPES.items()},
}
SMALL = {"a": {"kernel": jnp.array([[0.4, -3.0], [2.0, -0.2]]), "bias": jnp.zeros(2)}}
KEPT_HALF = [[False, True], [True, False]]


def params_of(weights):
    """Return the params that hold these, and beside them what is never pruned."""
    params = {"norm": {"scale": jnp.zeros(5), "steps": jnp.zeros((2, 2), int)}}
    for path, values in weights.items():
        layer, _ = path.split("/")
        kernel = jnp.asarray(values, jnp.float32)
        params[layer] = {"kernel": kernel, "bias": jnp.zeros(kernel.shape[-1])}
    return params


@functools.cache
def program(score, scope):
    """Return the mask as a compiled function of the params and the sparsity."""
    mask = functools.partial(prune.unstructured, score=SCORES[score], scope=scope)
    return jax.jit(mask)


@EVERY_SCORE
@EVERY_SCOPE
@pytest.mark.parametrize("weights", WEIGHTS)
def test_masks_are_the_reference(score, scope, weights):
    params = params_of(WEIGHTS[weights])
    held = trees.select(params, lambda path, _: path in SHAPES)
    for sparsity in LADDER:
        mask = program(score, scope)(params, sparsity)
        found = trees.select(mask, lambda path, _: path in SHAPES)
        equal(found, masks(held, sparsity, score, scope))
        assert pruned(mask) == pruned(found)  # what takes no part stays whole


@EVERY_SCORE
@EVERY_SCOPE
@pytest.mark.parametrize("weights", WEIGHTS)
def test_pruning_twice_is_pruning_once_and_more_prunes_the_same(score, scope, weights):
    params, before = params_of(WEIGHTS[weights]), None
    for sparsity in LADDER:
        mask = program(score, scope)(params, sparsity)
        once = prune.apply(params, mask)
        equal(prune.apply(once, mask), once)
        equal(program(score, scope)(once, sparsity), mask)
        assert before is None or nested(before, mask)
        before = mask


@EVERY_SCOPE
def test_only_the_order_of_magnitudes_counts(scope):
    params = params_of(DRAWN)
    mask = program("l1", scope)(params, 0.5)
    equal(program("l2", scope)(params, 0.5), mask)
    for factor in (-1.0, 2.0**-9, 2.0**9):
        scaled = jax.tree.map(lambda w, by=factor: (w * by).astype(w.dtype), params)
        for score in ("l1", "l2"):
            equal(program(score, scope)(scaled, 0.5), mask)


VALUES = [0.0, -0.0, 1.0, -1.0, 2.0, 1e-40, -1e-30, 3e38, -3e38]
VALUES += [np.inf, -np.inf, np.nan, -np.nan]
NUMBERS = st.sampled_from(VALUES) | st.floats(-9, 9, width=32)
SPARSITIES = st.floats(0.0, 1.0, width=32)


@pytest.mark.parametrize("score", ["l1", "l2"])
@EVERY_SCOPE
@hypothesis.given(arrays.arrays(np.float32, 50, elements=NUMBERS), SPARSITIES)
@hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)
def test_the_number_is_exact_whatever_the_weights(score, scope, values, sparsity):
    """Ties, infinities, numbers that are none, subnormal and huge ones."""
    params = {"a": values[:20].reshape(4, 5), "b": values[20:].reshape(5, 6)}
    mask = program(score, scope)(params, sparsity)
    of_a, of_b = (int((~mask[name]).sum()) for name in "ab")
    if scope == "global":
        assert of_a + of_b == number(sparsity, 50)
    else:
        assert (of_a, of_b) == (number(sparsity, 20), number(sparsity, 30))
    once = prune.apply(params, mask)
    equal(program(score, scope)(once, sparsity), mask)
    assert all(np.all(np.asarray(once[n])[~np.asarray(mask[n])] == 0) for n in "ab")


@EVERY_SCOPE
def test_what_is_not_finite_is_pruned_last(scope):
    for nan in (np.nan, -np.nan):
        weights = {"w": np.array([[nan, 1.0], [-np.inf, 1e18]], np.float32)}
        for score in ("l1", "l2"):
            mask = program(score, scope)(weights, 0.5)
            assert mask["w"].tolist() == [[1, 0], [1, 0]]
            mask = program(score, scope)(weights, 0.75)
            assert mask["w"].tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize("kind", ["float32", "float16", "float64"])
@hypothesis.given(arrays.arrays(np.float64, 7, elements=NUMBERS))
@hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)
def test_the_lowest_are_those_that_a_stable_sort_puts_first(kind, values):
    with np.errstate(over="ignore"), jax.enable_x64(kind == "float64"):
        values = values.astype(kind)
        order = np.argsort(values, kind="stable")
        for number in range(8):
            expected = np.ones(7, bool)
            expected[order[:number]] = False
            found = above(jnp.asarray(values), number)
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("weights", [5, 650, 950, 2**24 + 1])
def test_the_number_is_the_same_compiled(weights):
    counted = jax.jit(_masks.number_pruned, static_argnums=1)
    for sparsity in (0.0, 0.07, 0.09, 0.1, 0.13, 0.3, 0.5, 1.0):
        assert int(_masks.number_pruned(sparsity, weights)) == counted(
            sparsity, weights
        )
    assert int(_masks.number_pruned(1.0, weights)) == weights
    assert int(_masks.number_pruned(0, weights)) == 0


def test_a_path_tells_which_leaves_take_part():
    mask = prune.unstructured(
        params_of(DRAWN), 1.0, where=lambda path, _: path.startswith("conv")
    )
    gone = trees.select(mask, lambda _, leaf: not leaf.any())
    assert list(gone) == ["conv/bias", "conv/kernel"]
    assert pruned(mask) == 30 + 5
    with_two_axes = {"query": {"bias": jnp.ones((2, 2))}, "kernel": jnp.ones((1, 2))}
    assert pruned(prune.unstructured(with_two_axes, 1.0)) == 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Held:
    """A container of one's own."""

    kernel: jax.Array
    nothing: None = None


KERNEL = SMALL["a"]["kernel"]
TREES = {
    "bare array": KERNEL,
    "tuple in a list": [(KERNEL, KERNEL[:1]), KERNEL],
    "none and empty": {"none": None, "empty": {}, "w": KERNEL, "void": KERNEL[:0]},
    "dataclass": {"held": Held(KERNEL)},
    "frozen dict": core.FrozenDict({"a": {"kernel": KERNEL}}),
    "numpy": {"double": np.array([[4.0, 1.0]]), "half": np.ones((1, 2), np.float16)},
}


@EVERY_SCORE
@pytest.mark.parametrize("tree", TREES)
def test_any_tree_will_do(tree, score):
    tree = TREES[tree]
    mask = prune.unstructured(tree, 0.5, score=SCORES[score])
    assert jax.tree.structure(mask) == jax.tree.structure(tree)
    for leaf, stays in zip(jax.tree.leaves(tree), jax.tree.leaves(mask), strict=True):
        assert (stays.dtype, stays.shape) == (bool, leaf.shape)
        assert 2 * int(stays.sum()) == stays.size
    sparse = prune.apply(tree, mask)
    assert jax.tree.structure(sparse) == jax.tree.structure(tree)
    assert float(prune.sparsity(sparse)) == 0.5


@EVERY_SCOPE
@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float32", "float64"])
def test_dtypes_stay(kind, scope):
    with jax.enable_x64(kind == "float64"):
        tree = {"a": jnp.asarray(KERNEL, kind), "b": jnp.ones((1, 2), kind)}
        for score in ("l1", "l2"):
            mask = prune.unstructured(tree, 0.5, score=SCORES[score], scope=scope)
            assert mask["a"].dtype == bool
            sparse = prune.apply(tree, mask)
            assert sparse["a"].dtype == sparse["b"].dtype == kind
            assert pruned(mask) == 3
        assert mask["a"].tolist() == KEPT_HALF


def test_float64_tells_apart_what_float32_cannot():
    with jax.enable_x64(True):
        mask = prune.unstructured({"w": jnp.array([[1 + 1e-12, 1.0]])}, 0.5)
        assert mask["w"].tolist() == [[True, False]]


@EVERY_SCORE
@EVERY_SCOPE
def test_vmap_is_one_by_one(score, scope):
    members = [params_of({p: w + n for p, w in DRAWN.items()}) for n in range(2)]
    keys = jax.random.split(jax.random.key(1), 2)

    def mask(params, sparsity, key):
        by = prune.random(key) if score == "random" else SCORES[score]
        return prune.unstructured(params, sparsity, score=by, scope=scope)

    sparsities = jnp.array([0.3, 0.8])
    together = jax.vmap(mask)(trees.stack(members), sparsities, keys)
    alone = jax.jit(mask)
    for n, one in enumerate(trees.unstack(together)):
        equal(one, alone(members[n], sparsities[n], keys[n]))


@EVERY_SCORE
@EVERY_SCOPE
def test_within_an_earlier_mask_more_goes(score, scope):
    params = params_of(DRAWN)
    first = program("random", scope)(params, 0.4)
    more = jax.jit(functools.partial(prune.unstructured, scope=scope))
    within = more(params, 0.7, within=first, score=jax.tree_util.Partial(SCORES[score]))
    assert nested(first, within)
    assert pruned(within) == pruned(program(score, scope)(params, 0.7))
    assert pruned(more(params, 0.4, within=first)) == pruned(first)
    equal(more(params, 0.4, within=first), first)


def test_random_depends_on_key_and_path():
    params = params_of(DRAWN)
    found = [
        prune.unstructured(params, 0.5, score=prune.random(jax.random.key(n)))
        for n in (0, 0, 1)
    ]
    equal(found[0], found[1])
    assert trees.fingerprint(found[0]) != trees.fingerprint(found[2])
    head, other = (np.asarray(found[0][name]["kernel"]) for name in ("head", "other"))
    assert (head != other).any()


def test_sparsity_counts_zeros_of_weights_and_what_masks_prune():
    params = params_of(WEIGHTS["zeros"])
    assert prune.sparsity(params) == 1.0
    params = {**params_of(DRAWN), "norm": {"key": jax.random.key(0), "number": 1.0}}
    mask = prune.unstructured(params, 0.5, scope="global")
    sparse = prune.apply(params, mask)
    assert prune.sparsity(mask) == prune.sparsity(sparse) == 35 / 70
    of_one = {"where": lambda path, _: path == "head/kernel"}
    gone = int((~mask["head"]["kernel"]).sum())
    assert float(prune.sparsity(mask, **of_one)) == np.float32(gone / 20)
    equal(prune.sparsity(sparse, **of_one), prune.sparsity(mask, **of_one))
    assert prune.sparsity({"bias": jnp.zeros(3)}) == 0.0
