"""The laws that every tabled loss obeys."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.test_util import check_vjp

from tests.losses.edges import EDGES
from tests.losses.programs import (
    QUICK,
    assert_close,
    evaluate,
    evaluate_x64,
    traced,
    weights,
)
from tests.losses.table import BATCH, LAWS, Law, one_per_program

# Module scope lets pytest run all laws of a row together, where they share programs.
each_law = pytest.mark.parametrize("law", LAWS, ids=str, scope="module")
PROGRAMS = one_per_program(LAWS)
each_program = pytest.mark.parametrize("law", PROGRAMS, ids=str, scope="module")


def having(laws, *flags):
    chosen = [law for law in laws if all(getattr(law, flag) for flag in flags)]
    return pytest.mark.parametrize("law", chosen, ids=str, scope="module")


def replace(args, positions, change):
    return tuple(change(a) if i in positions else a for i, a in enumerate(args))


@each_law
@pytest.mark.parametrize("scale", [0.1, 1.0, 8.0])
def test_equals_the_reference(law: Law, scale):
    args = law.draw(seed=1, scale=scale)
    wide = [a.astype(np.float64) if i in law.floats else a for i, a in enumerate(args)]
    expected = np.asarray(law.reference(*wide, **law.hyper, **law.static))
    values, gradients, _ = evaluate(law, args)
    values64, gradients64, _ = evaluate_x64(law, args)
    np.testing.assert_allclose(values64, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(values, expected, rtol=2e-5, atol=2e-7)
    for gradient, gradient64 in zip(gradients, gradients64, strict=True):
        assert_close(gradient, gradient64, rtol=1e-5)


@each_law
def test_gradient_is_the_slope(law: Law):
    if law.detached or not law.floats:
        pytest.skip("no gradient, or one that is not the slope by definition")
    args = law.draw(seed=2)

    def both(*moving):
        moved = dict(zip(law.floats, moving, strict=True))
        full = tuple(moved.get(i, a) for i, a in enumerate(args))
        values, gradients, _ = evaluate_x64(law, full)
        value = np.sum(values * weights(values.shape))
        return value, lambda cotangent: tuple(cotangent * g for g in gradients)

    with jax.enable_x64(True):
        moving = tuple(np.asarray(args[i], np.float64) for i in law.floats)
        check_vjp(lambda *m: both(*m)[0], both, moving, atol=1e-6, rtol=1e-6)


@each_law
def test_shape_and_dtype(law: Law):
    values, gradients, _ = evaluate(law, law.draw())
    assert values.shape == law.shape
    assert values.dtype == np.float32
    assert all(gradient.dtype == np.float32 for gradient in gradients)


@having(LAWS, "at_minimum")
def test_minimum(law: Law):
    values, gradients, _ = evaluate(law, law.at_minimum(*law.draw()))
    np.testing.assert_allclose(values, 0.0, atol=1e-11)
    for gradient in gradients:
        np.testing.assert_allclose(gradient, 0.0, atol=1e-4)


@having(LAWS, "nonnegative")
def test_never_negative(law: Law):
    for seed, scale in enumerate((1e-3, 1.0, 100.0)):
        values, _, _ = evaluate(law, law.draw(seed, scale))
        assert np.all(values >= 0)


@each_program
def test_jit_is_eager(law: Law):
    args = law.draw(seed=3)
    eager = law.fn(*args, **law.hyper, **law.static)
    values, _, _ = evaluate(law, args)
    np.testing.assert_allclose(values, eager, rtol=1e-5, atol=1e-6)


@each_program
def test_vmap_is_batched(law: Law):
    args = law.draw(seed=4)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def vmapped(args, hyper):
        def one(*example):
            batch = [a[None] for a in example]
            return law.fn(*batch, **hyper, **law.static)[0]

        return jax.vmap(one)(*args)

    values, _, _ = evaluate(law, args)
    mapped = vmapped(args, traced(law))
    np.testing.assert_allclose(mapped, values, rtol=1e-5, atol=1e-6)


@each_law
def test_batch_order_is_the_values_order(law: Law):
    args = law.draw(seed=5)
    order = np.random.default_rng(0).permutation(BATCH)
    values, _, _ = evaluate(law, args)
    permuted, _, _ = evaluate(law, tuple(a[order] for a in args))
    np.testing.assert_allclose(permuted, values[order], rtol=1e-5, atol=1e-6)


@having(PROGRAMS, "leading_axes")
def test_leading_axes(law: Law):
    args = law.draw(seed=6)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def call(cubed, single, hyper):
        settings = {**hyper, **law.static}
        return law.fn(*cubed, **settings), law.fn(*single, **settings)

    values, _, _ = evaluate(law, args)
    cubed = [a.reshape(2, BATCH // 2, *a.shape[1:]) for a in args]
    out, single = call(cubed, [a[0] for a in args], traced(law))
    assert out.shape == (2, BATCH // 2, *values.shape[1:])
    np.testing.assert_allclose(out.reshape(values.shape), values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(single, values[0], rtol=1e-5, atol=1e-6)


@having(LAWS, "shift_invariant")
def test_shifting_logits_changes_nothing(law: Law):
    args = law.draw(seed=7)
    values, _, _ = evaluate(law, args)
    shift = np.arange(BATCH, dtype=np.float32)[:, None] * 8 - 30
    for position in law.shift_invariant:
        shifted, _, _ = evaluate(law, replace(args, [position], lambda a: a + shift))
        np.testing.assert_allclose(shifted, values, rtol=1e-4, atol=1e-5)


@having(LAWS, "takes_where")
@pytest.mark.parametrize("junk", [0.0, 3e4, -np.inf, np.nan])
def test_masking_is_dropping(law: Law, junk):
    args = law.draw(seed=8)
    keep = np.array([True, False, True, True, False])
    dropped = replace(args, law.floats, lambda a: np.ascontiguousarray(a[:, keep]))
    spoiled = replace(args, law.floats, lambda a: np.where(keep, a, np.float32(junk)))
    values, gradients, _ = evaluate(law, dropped, quick=True)
    where = np.broadcast_to(keep, spoiled[0].shape)
    masked, masked_gradients, _ = evaluate(law, spoiled, where=where)
    np.testing.assert_allclose(masked, values, rtol=1e-5, atol=1e-6)
    for gradient, full in zip(gradients, masked_gradients, strict=True):
        assert_close(full[:, keep], gradient, rtol=1e-5)
        assert np.all(full[:, ~keep] == 0)


@having(LAWS, "takes_where")
def test_everything_masked_is_nothing(law: Law):
    where = np.ones((BATCH, law.draw()[0].shape[-1]), bool)
    where[1] = False
    values, gradients, _ = evaluate(law, law.draw(), where=where)
    unmasked, _, _ = evaluate(law, law.draw())
    assert values[1] == 0
    assert all(np.all(gradient[1] == 0) for gradient in gradients)
    rest = np.arange(BATCH) != 1
    np.testing.assert_allclose(values[rest], unmasked[rest], rtol=1e-5, atol=1e-6)


@having(PROGRAMS, "floats")
def test_low_precision_is_upcast(law: Law):
    dtypes = [jnp.bfloat16, jnp.float16]  # one of each: the first array is bf16
    low = replace(law.draw(seed=9), law.floats[:1], lambda a: a.astype(dtypes[0]))
    low = replace(low, law.floats[1:], lambda a: a.astype(dtypes[1]))
    values, gradients, _ = evaluate(law, low, quick=True)
    wide = replace(low, law.floats, lambda a: a.astype(np.float32))
    expected, expected_gradients, _ = evaluate(law, wide)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
    for gradient, wanted, i in zip(
        gradients, expected_gradients, law.floats, strict=True
    ):
        assert gradient.dtype == low[i].dtype
        assert_close(gradient.astype(np.float32), wanted, rtol=1e-2)
    for dtype in dtypes:
        alike = replace(low, law.floats, lambda a, d=dtype: a.astype(d))
        values = law.fn(*alike, **law.hyper, **law.static)
        assert values.dtype == jnp.float32
        assert np.all(np.isfinite(values))


@having(LAWS, "floats")
@pytest.mark.parametrize("edge", EDGES)
def test_finite_at_the_edges(law: Law, edge):
    if edge == "minus_inf" and not law.minus_inf:
        pytest.skip("−inf is no input of this one")
    rng, change = np.random.default_rng(0), EDGES[edge]
    args = law.draw(seed=10)
    # on every side alone, on all sides, and on all sides with one array
    sides = [*([i] for i in law.floats), law.floats]
    cases = [replace(args, side, lambda a: change(rng, a)) for side in sides]
    same = change(rng, args[law.floats[0]]).astype(np.float32)
    cases.append(replace(args, law.floats, lambda a: same))
    for case in cases:
        case = replace(case, law.floats, lambda a: a.astype(np.float32))
        values, gradients, by_hyper = evaluate(law, case)
        assert np.all(np.isfinite(values))
        assert all(np.all(np.isfinite(g)) for g in gradients)
        assert all(np.isfinite(g) for g in by_hyper.values())
        if edge not in ("huge", "minus_inf"):
            bounds = [np.max(np.abs(g)) for g in gradients]
            assert max(bounds) <= law.gradient_bound


@each_program
def test_wrong_input_is_refused_by_name(law: Law):
    args = law.draw()

    def refused(*args, **extra):
        with pytest.raises(ValueError, match=f"^{law.name}: "):
            law.fn(*args, **{**law.hyper, **law.static, **extra})

    for position, array in enumerate(args):
        other = np.int32 if array.dtype == np.float32 else np.float32
        refused(*replace(args, [position], lambda a, t=other: a.astype(t)))
        if len(args) > 1:
            refused(*replace(args, [position], lambda a: a[:-1]))
            refused(*replace(args, [position], lambda a: a[:1]))
            refused(*replace(args, [position], lambda a: a[None]))
    if law.takes_where:
        refused(*args, where=np.ones(args[0].shape[-1], np.float32))
        refused(*args, where=np.ones(args[0].shape[-1] + 1, bool))
        refused(*args, where=np.ones((1, *args[0].shape), bool))
    for name in law.hyper:
        refused(*args, **{name: np.ones(BATCH, np.float32)})


@pytest.mark.parametrize("count", [2, 8])
@each_program
def test_sharded_is_one_device(law: Law, count, devices):
    args = law.draw(seed=11)
    values, gradients, _ = evaluate(law, args)
    mesh = Mesh(np.array(devices[:count]), ("batch",))
    rows = NamedSharding(mesh, PartitionSpec("batch"))
    hyper = jax.device_put(traced(law), NamedSharding(mesh, PartitionSpec()))
    sharded = evaluate(law, jax.device_put(args, rows), hyper, quick=True)
    np.testing.assert_allclose(sharded[0], values, rtol=1e-5, atol=1e-6)
    for gradient, expected in zip(sharded[1], gradients, strict=True):
        assert_close(gradient, expected, rtol=1e-5)


@each_program
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


@having(PROGRAMS, "hyper")
def test_a_sweep_is_a_vmap(law: Law):
    args = law.draw(seed=12)
    factors = np.float32([1.0, 0.7, 0.4])
    hyper = {name: factors * np.float32(value) for name, value in law.hyper.items()}
    sweep = jax.vmap(lambda h: law.fn(*args, **h, **law.static))
    swept = jax.jit(sweep, compiler_options=QUICK)(hyper)
    for row, values in enumerate(swept):
        alone, _, _ = evaluate(law, args, {k: v[row] for k, v in hyper.items()})
        np.testing.assert_allclose(values, alone, rtol=1e-5, atol=1e-6)
