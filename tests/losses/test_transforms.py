"""The laws of transformed losses: jit, vmap, sweeps, devices."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tests.losses.law import BATCH, Law
from tests.losses.programs import (
    assert_close,
    evaluate,
    traced,
    weights,
)
from tests.losses.table import ONE_EACH, each_loss, having

P = PartitionSpec("batch")


@having(ONE_EACH, "per_example")
def test_vmap_is_batched(law: Law):
    args = law.draw(seed=4)

    @jax.jit
    def vmapped(args, hyper):
        def one(*example):
            batch = law.by_example(example, lambda a: a[None])
            return law.fn(*batch, **hyper, **law.static)[0]

        axes = [None if i in law.unbatched else 0 for i in range(len(args))]
        return jax.vmap(one, axes)(*args)

    values, _, _ = evaluate(law, args)
    mapped = vmapped(args, traced(law))
    np.testing.assert_allclose(mapped, values, rtol=1e-5, atol=1e-6)


@having(ONE_EACH, "per_example", False)
def test_vmap_over_batches(law: Law):
    batches = [law.draw(seed) for seed in (4, 5)]
    stacked = [np.stack(arrays) for arrays in zip(*batches, strict=True)]

    @jax.jit
    def vmapped(args, hyper):
        call = functools.partial(law.fn, **hyper, **law.static)

        def loss(*args):
            values = call(*args)
            return (values * weights(values.shape)).sum(), values

        graded = jax.value_and_grad(loss, law.floats, has_aux=True)
        (_, values), gradients = jax.vmap(graded)(*args)
        return values, gradients

    mapped, mapped_gradients = vmapped(stacked, traced(law))
    for number, batch in enumerate(batches):
        values, gradients, _ = evaluate(law, batch)
        np.testing.assert_allclose(mapped[number], values, rtol=1e-5, atol=1e-6)
        for actual, expected in zip(mapped_gradients, gradients, strict=True):
            assert_close(actual[number], expected, rtol=1e-5)


@having(ONE_EACH, "leading_axes")
def test_leading_axes(law: Law):
    args = law.draw(seed=6)

    @jax.jit
    def call(cubed, single, hyper):
        settings = {**hyper, **law.static}
        return law.fn(*cubed, **settings), law.fn(*single, **settings)

    values, _, _ = evaluate(law, args)
    cubed = [a.reshape(2, BATCH // 2, *a.shape[1:]) for a in args]
    out, single = call(cubed, [a[0] for a in args], traced(law))
    assert out.shape == (2, BATCH // 2, *values.shape[1:])
    np.testing.assert_allclose(out.reshape(values.shape), values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(single, values[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [2, 8])
@each_loss
def test_sharded_is_one_device(law: Law, count, devices):
    if count == 2 and law.per_example:
        pytest.skip("rows that do not meet are sharded alike over 2 and 8 devices")
    args = law.draw(seed=11)
    values, gradients, _ = evaluate(law, args)
    mesh = Mesh(np.array(devices[:count]), ("batch",))
    rows = NamedSharding(mesh, P)
    whole = NamedSharding(mesh, PartitionSpec())
    hyper = jax.device_put(traced(law), whole)
    args = law.by_example(
        jax.device_put(args, whole), lambda a: jax.device_put(a, rows)
    )
    sharded = evaluate(law, args, hyper, quick=True)
    np.testing.assert_allclose(sharded[0], values, rtol=1e-5, atol=1e-6)
    for gradient, expected in zip(sharded[1], gradients, strict=True):
        assert_close(gradient, expected, rtol=1e-5)


@each_loss
def test_traced_once(law: Law):
    traces = []

    def step(args, hyper):
        traces.append(law.name)
        return law.fn(*args, **hyper, **law.static)

    step = jax.jit(step)
    for seed, factor in enumerate((1.0, 0.9, 0.8)):
        hyper = {name: factor * value for name, value in law.hyper.items()}
        step.trace(law.draw(seed), hyper)
    assert traces == [law.name]


@having(ONE_EACH, "hyper")
def test_a_sweep_is_a_vmap(law: Law):
    args = law.draw(seed=12)
    factors = np.float32([1.0, 0.7, 0.4])
    hyper = {name: factors * np.float32(value) for name, value in law.hyper.items()}
    sweep = jax.vmap(lambda h: law.fn(*args, **h, **law.static))
    swept = jax.jit(sweep)(hyper)
    for row, values in enumerate(swept):
        alone, _, _ = evaluate(law, args, {k: v[row] for k, v in hyper.items()})
        np.testing.assert_allclose(values, alone, rtol=1e-5, atol=1e-6)


def _local(law, count):
    """Return what one device computes of its rows: values and gradients."""

    def local(args, cotangent, hyper, where):
        def call(*moving):
            moved = dict(zip(law.floats, moving, strict=True))
            full = [moved.get(i, a) for i, a in enumerate(args)]
            settings = {**hyper, **law.static, "where": where}
            return law.fn(*full, **settings, axis_name="batch")

        values, pull = jax.vjp(call, *(args[i] for i in law.floats))
        own = cotangent if law.values == "examples" else cotangent[0] / count
        return values, pull(own)

    return local


@pytest.mark.parametrize("count", [2, 8])
@pytest.mark.parametrize("how", ["shard_map", "pmap"])
@having(ONE_EACH, "axis_name")
def test_devices_see_the_global_batch(law: Law, how, count, devices):
    args = law.draw(seed=14)
    examples = law.values == "examples"
    hyper = traced(law)
    local = _local(law, count)
    split = [a.reshape(count, -1, *a.shape[1:]) for a in args]
    if how == "pmap":
        # pmap would give the None of an empty dict to its neighbour
        axes = (0, 0, None if hyper else {}, 0)
        spread = jax.pmap(local, "batch", in_axes=axes, devices=devices[:count])
    else:

        def one(args, cotangent, hyper, where):
            args, cotangent, where = jax.tree.map(
                lambda a: a[0], (args, cotangent, where)
            )
            return jax.tree.map(lambda a: a[None], local(args, cotangent, hyper, where))

        mesh = Mesh(np.array(devices[:count]), ("batch",))
        spread = jax.jit(
            jax.shard_map(one, mesh=mesh, in_specs=(P, P, None, P), out_specs=P)
        )
    for where in (np.ones(BATCH, bool), np.arange(BATCH) % 3 != 1):
        values, gradients, _ = evaluate(law, args, quick=True, where=where)
        cotangent = weights(values.shape)
        cotangent = (
            cotangent.reshape(count, -1)
            if examples
            else np.broadcast_to(cotangent, (count, 1, *values.shape))
        )
        spread_values, spread_gradients = spread(
            split, cotangent, hyper, where.reshape(count, -1)
        )
        spread_values = np.asarray(spread_values)
        whole = spread_values.reshape(-1) if examples else spread_values.mean(0)
        np.testing.assert_allclose(whole, values, rtol=1e-5, atol=1e-6)
        for actual, expected in zip(spread_gradients, gradients, strict=True):
            actual = np.asarray(actual).reshape(expected.shape)
            assert_close(actual, expected, rtol=1e-5)
