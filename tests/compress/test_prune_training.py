"""Pruning while training: what is pruned stays zero, the rest learns as if alone."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax.compress import prune
from tests.compress.prune_table import (
    EVERY_SCOPE,
    lowest_go,
    masks,
    nested,
    number,
    pruned,
)
from tests.compress.prune_toy import (
    KEY,
    assert_zero,
    held,
    init,
    kernels,
    make,
    rng,
    start,
    trained,
)
from tests.small import equal


class Rising(NamedTuple):
    """A schedule, its formula in NumPy, where it stops and what it ends with."""

    schedule: Callable[[Any], Any]
    formula: Callable[[int], float]
    stop: int
    end: float


def halves(step):
    """Leave half of what is left at the steps 1, 3 and 5."""
    return 1 - 0.5 ** np.clip((step + 1) // 2, 0, 3)


def cubic(step):
    if step < 2:
        return 0.0
    return 0.8 - 0.6 * (1 - min(1.0, (step - 2) / 5)) ** 3


SCHEDULES = {
    "one_shot": Rising(
        prune.one_shot(0.6, at=3), lambda step: 0.6 * (step >= 3), 3, 0.6
    ),
    "iterative": Rising(
        prune.iterative(0.875, rounds=3, every=2, start=1), halves, 5, 0.875
    ),
    "cubic": Rising(prune.cubic(0.8, start=2, stop=7, initial=0.2), cubic, 7, 0.8),
    "little": Rising(
        prune.iterative(0.1, rounds=2, every=4, start=1),
        lambda step: (step >= 1) * (1 - 0.9 ** (0.5 if step < 5 else 1)),
        5,
        0.1,
    ),
    "whole": Rising(prune.iterative(1.0, rounds=2, every=4), lambda step: 1.0, 0, 1.0),
}
TXS = {
    "sgd": lambda: optax.sgd(0.1),
    "adamw": lambda: optax.adamw(0.05, weight_decay=0.1),
    "clipped": lambda: optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.05)),
}
EVERY_TX = pytest.mark.parametrize("tx", TXS)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_their_formulas(name):
    schedule, formula, stop, end = SCHEDULES[name]
    expected = [formula(step) for step in range(15)]
    compiled = jax.jit(schedule)
    for found in (schedule, compiled):
        values = [float(found(step)) for step in range(15)]
        np.testing.assert_allclose(values, expected, rtol=1e-6)
        assert values == sorted(values)
        assert set(values[stop:]) == {float(np.float32(end))}  # met exactly
        assert end not in values[:stop]
    np.testing.assert_array_equal(jax.vmap(schedule)(jnp.arange(15)), values)


@EVERY_TX
@EVERY_SCOPE
@pytest.mark.parametrize("name", ["one_shot", "iterative", "cubic"])
def test_the_mask_follows_the_schedule(tx, scope, name):
    schedule, formula, stop, _ = SCHEDULES[name]
    tx = prune.scheduled(TXS[tx](), schedule, scope=scope)
    state, last = start(tx), jax.tree.map(lambda x: x == x, init(KEY, None))
    for count, (before, params, found) in enumerate(trained(make(tx), state)):
        sparsity = formula(count)
        expected = masks(kernels(before), sparsity, "l1", scope)
        equal(kernels(found.mask), expected)
        assert_zero(params, found.mask)
        assert nested(last, found.mask)
        np.testing.assert_allclose(found.sparsity, sparsity, rtol=1e-6)
        assert found.step == count + 1
        if count > stop:
            equal(found.mask, last)
        last = found.mask


def test_every_so_many_steps_at_most():
    schedule, formula, *_ = SCHEDULES["cubic"]
    tx = prune.scheduled(optax.sgd(0.1), schedule, every=3, scope="global")
    for count, (_, _, found) in enumerate(trained(make(tx), start(tx), 13)):
        assert pruned(found.mask) == number(formula(count // 3 * 3), 42)


def test_what_is_once_pruned_stays_pruned_whatever_the_score():
    def score(path, weights):
        """Rank by the sign, so that zeros rank above half of the others."""
        return 2 + jnp.sign(weights)

    tx = prune.scheduled(optax.sgd(0.3), SCHEDULES["cubic"].schedule, score=score)
    last = None
    for _, params, found in trained(make(tx), start(tx)):
        assert_zero(params, found.mask)
        assert last is None or nested(last, found.mask)
        last = found.mask
    assert prune.sparsity(last) == np.float32((19 + 14) / 42)


def test_a_schedule_that_falls_revives_nothing():
    tx = prune.scheduled(optax.sgd(0.1), lambda step: 0.5 - 0.1 * step)
    for _, params, found in trained(make(tx), start(tx), 3):
        assert_zero(params, found.mask)
        assert found.sparsity == prune.sparsity(found.mask) == 0.5


MASK = prune.unstructured(init(KEY, None), 0.5, score=prune.random(KEY))


@EVERY_TX
def test_a_fixed_mask_holds_from_the_first_step_on(tx):
    for mask in (MASK, lambda params: MASK):
        tx_fixed = prune.fixed(TXS[tx](), mask)
        first = tx_fixed.init(init(KEY, None))
        assert first.sparsity == prune.sparsity(MASK) == 0.5
    for _, params, found in trained(make(tx_fixed), start(tx_fixed), 4):
        assert_zero(params, MASK)
        equal(found.mask, MASK)
        assert found.sparsity == 0.5


# What looks at more than one weight at a time, at gradients or at the weights.
NORMED = {
    **TXS,
    "momentum": lambda: optax.chain(
        optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9)
    ),
    "decay before the clip": lambda: optax.chain(
        optax.add_decayed_weights(0.3), optax.clip_by_global_norm(1.0), optax.sgd(0.1)
    ),
    "trust ratio": lambda: optax.lamb(0.1, weight_decay=0.1),
}


@pytest.mark.parametrize("name", NORMED)
def test_the_optimizer_sees_only_what_lives(name):
    """As if it trained a vector of the living weights alone."""
    mask = {"w": lowest_go(rng.normal(size=(3, 5)), 8)}
    params = {"w": jnp.asarray(3 * rng.normal(size=(3, 5)), jnp.float32)}
    goal = {"w": jnp.asarray(3 * rng.normal(size=(3, 5)), jnp.float32)}
    one, other = prune.fixed(NORMED[name](), mask), NORMED[name]()
    living, their_goal = (
        jax.tree.map(lambda w, m: w[m], tree, mask) for tree in (params, goal)
    )

    def advance(tx, params, goal, state):
        updates, state = tx.update(optax.tree.sub(params, goal), state, params)
        return optax.apply_updates(params, updates), state

    ours, theirs = (jax.jit(functools.partial(advance, tx)) for tx in (one, other))
    state, their_state = one.init(params), other.init(living)
    for _ in range(4):
        params, state = ours(params, goal, state)
        living, their_state = theirs(living, their_goal, their_state)
        np.testing.assert_allclose(params["w"][mask["w"]], living["w"], rtol=1e-5)
        assert_zero(held(params), mask)


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("gradients", ["float32", "bfloat16", "float16"])
def test_pruned_weights_are_zero_in_any_precision(weights, gradients):
    params = {"w": jnp.array([0.1234567, -7.654321, 3e-7], weights)}
    tx = prune.fixed(optax.sgd(0.1), {"w": np.array([False, False, True])})
    updates, _ = tx.update(
        {"w": jnp.ones(3, gradients)}, jax.jit(tx.init)(params), params
    )
    new = optax.apply_updates(params, updates)["w"]
    assert new.dtype == weights
    assert new[:2].tolist() == [0, 0]
    assert new[2] != 0
