"""Functions mapped over stacked networks: every plan gives the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import plans, trees


def dense(member):
    return jnp.tanh(member["x"] @ member["w"])


def recurrent(member):
    def cell(h, x):
        return jnp.tanh(h @ member["w"] + x), h.sum()

    return jax.lax.scan(cell, jnp.zeros(4), member["x"])


def convolve(member):
    image, kernel = member["x"][None, None], member["w"][None, None]
    return jax.lax.conv(image, kernel, (1, 1), "SAME")[0, 0]


def hidden(fn):
    """The function with all in it a few programs deep."""

    def nested(member):
        inner = jax.checkpoint(jax.jit(fn))
        return jax.lax.cond(member["x"].sum() > 0, inner, inner, member)

    return nested


@pytest.fixture(scope="module")
def members():
    keys = jax.random.split(jax.random.key(0), 3)
    draw = lambda key: {  # noqa: E731
        "x": jax.random.normal(key, (5, 4)),
        "w": jax.random.normal(jax.random.fold_in(key, 1), (4, 4)),
        "key": key,
    }
    return trees.stack([draw(key) for key in keys])


@pytest.mark.parametrize("plan", ["auto", "vmap", "map", "unroll"])
def test_every_plan_gives_the_same(members, plan):
    def fn(member):
        noise = jax.random.normal(member["key"], (5, 4))
        return {"last": recurrent(member), "noisy": dense(member) + noise}

    expected = trees.stack([fn(member) for member in trees.unstack(members)])
    found = jax.jit(plans.over(fn, plan))(members)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5), found, expected)


@pytest.mark.parametrize("wrap", [lambda fn: fn, hidden])
@pytest.mark.parametrize(
    ("fn", "evaluating", "training"),
    [
        (dense, "vmap", "vmap"),
        (recurrent, "vmap", "map"),
        (convolve, "map", "unroll"),
    ],
)
def test_auto_looks_at_what_the_function_holds(fn, evaluating, training, wrap, members):
    member = jax.tree.map(lambda x: x[0], members)
    assert plans.choose(wrap(fn), member) == evaluating

    def gradient(member):
        numbers = {name: member[name] for name in "xw"}
        return jax.grad(lambda m: jax.tree.leaves(wrap(fn)(m))[0].sum())(numbers)

    assert plans.choose(gradient, member, training=True) == training


def test_auto_looks_at_the_device(members, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    member = jax.tree.map(lambda x: x[0], members)
    assert plans.choose(convolve, member, training=True) == "vmap"


@pytest.mark.parametrize(
    ("training", "scans", "convolutions"), [(False, 1, 1), (True, 0, 3)]
)
def test_auto_does_what_it_chooses(members, training, scans, convolutions):
    program = jax.make_jaxpr(plans.over(convolve, training=training))(members)
    found = list(plans._primitives(program.jaxpr))
    assert found.count("scan") == scans
    assert found.count("conv_general_dilated") == convolutions


@pytest.mark.parametrize(
    "stacked",
    [
        {},
        {"a": jnp.ones(())},
        {"a": jnp.ones(2), "b": jnp.ones((3, 2))},
        {"a": jnp.ones((0, 2))},
    ],
)
def test_members_must_be_stacked(stacked):
    with pytest.raises(ValueError, match="must share a leading axis"):
        plans.over(dense)(stacked)


def test_unknown_plans_are_refused_at_once():
    with pytest.raises(ValueError, match=r"one of \('auto'.*got 'pmap'"):
        plans.over(dense, "pmap")
