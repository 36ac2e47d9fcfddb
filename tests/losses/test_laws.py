"""The laws that every tabled loss obeys: what it returns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_vjp

from tests.losses.edges import EDGES
from tests.losses.law import BATCH, Law
from tests.losses.programs import (
    assert_close,
    evaluate,
    evaluate_x64,
    weights,
)
from tests.losses.table import (
    IN_FLOAT64,
    LAWS,
    ONE_EACH,
    each_law,
    each_program,
    having,
    replace,
)


@each_law
@pytest.mark.parametrize("scale", [0.1, 1.0, 8.0])
def test_equals_the_reference(law: Law, scale):
    args = law.draw(seed=1, scale=scale)
    wide = [a.astype(np.float64) if i in law.floats else a for i, a in enumerate(args)]
    expected = np.asarray(law.reference(*wide, **law.hyper, **law.static))
    values, gradients, _ = evaluate(law, args)
    np.testing.assert_allclose(values, expected, rtol=2e-5, atol=2e-7)
    if law.compiled not in IN_FLOAT64:
        return
    values64, gradients64, _ = evaluate_x64(law, args)
    np.testing.assert_allclose(values64, expected, rtol=1e-9, atol=1e-12)
    for gradient, gradient64 in zip(gradients, gradients64, strict=True):
        assert_close(gradient, gradient64, rtol=1e-5)


@each_program
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


@each_law
def test_batch_order_is_the_values_order(law: Law):
    if not law.follows_order:
        pytest.skip("the first example is not one among others")
    args = law.draw(seed=5)
    order = np.random.default_rng(0).permutation(BATCH)
    values, _, _ = evaluate(law, args)
    permuted, _, _ = evaluate(law, law.by_example(args, lambda a: a[order]))
    expected = values[order] if law.values == "examples" else values
    np.testing.assert_allclose(permuted, expected, rtol=1e-5, atol=1e-6)


@having(LAWS, "shift_invariant")
def test_shifting_logits_changes_nothing(law: Law):
    args = law.draw(seed=7)
    values, _, _ = evaluate(law, args)
    shift = np.arange(BATCH, dtype=np.float32)[:, None] * 8 - 30
    for position in law.shift_invariant:
        shifted, _, _ = evaluate(law, replace(args, [position], lambda a: a + shift))
        np.testing.assert_allclose(shifted, values, rtol=1e-4, atol=1e-5)


@having(LAWS, "scale_invariant")
def test_scaling_changes_nothing(law: Law):
    args = law.draw(seed=7)
    values, gradients, _ = evaluate(law, args)
    for position in law.scale_invariant:
        for factor in np.float32([1e-20, 1e20]):
            scaled = replace(args, [position], lambda a, f=factor: f * a)
            same, scaled_gradients, _ = evaluate(law, scaled)
            np.testing.assert_allclose(same, values, rtol=1e-4, atol=1e-5)
            number = law.floats.index(position)
            moved = factor.astype(np.float64) * scaled_gradients[number]
            assert_close(moved, gradients[number], rtol=1e-3)


@having(ONE_EACH, "floats")
def test_low_precision_is_upcast(law: Law):
    dtypes = [jnp.bfloat16, jnp.float16]  # one of each: the first array is bf16
    low = replace(law.draw(seed=9), law.floats[:1], lambda a: a.astype(dtypes[0]))
    low = replace(low, law.floats[1:], lambda a: a.astype(dtypes[1]))
    call = functools.partial(law.fn, **law.hyper, **law.static)
    values = jax.jit(call)(*low)
    expected, _, _ = evaluate(
        law, replace(low, law.floats, lambda a: a.astype(np.float32))
    )
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
    slopes = jax.grad(lambda *args: call(*args).sum(), law.floats)
    for dtype in dtypes:
        alike = replace(low, law.floats, lambda a, d=dtype: a.astype(d))
        assert jax.eval_shape(call, *alike).dtype == jnp.float32
        assert {slope.dtype for slope in jax.eval_shape(slopes, *alike)} == {
            jnp.dtype(dtype)
        }


@having(LAWS, "floats")
@pytest.mark.parametrize("edge", EDGES)
def test_finite_at_the_edges(law: Law, edge):
    if edge == "minus_inf" and not law.minus_inf:
        pytest.skip("−inf is no input of this one")
    unbounded = {"huge", "minus_inf", *(["tiny"] if law.scale_invariant else [])}
    rng, change = np.random.default_rng(0), EDGES[edge]
    args = law.draw(seed=10)
    # on every side alone, on all sides, and on all of one shape with one array
    sides = [*([i] for i in law.floats), law.floats]
    cases = [replace(args, side, lambda a: change(rng, a)) for side in sides]
    same = change(rng, args[law.floats[0]]).astype(np.float32)
    alike = [i for i in law.floats if args[i].shape == same.shape]
    cases.append(replace(args, alike, lambda a: same))
    for case in cases:
        case = replace(case, law.floats, lambda a: a.astype(np.float32))
        values, gradients, by_hyper = evaluate(law, case)
        assert np.all(np.isfinite(values))
        assert all(np.all(np.isfinite(g)) for g in gradients)
        assert all(np.isfinite(g) for g in by_hyper.values())
        if edge not in unbounded:
            bounds = [np.max(np.abs(g)) for g in gradients]
            assert max(bounds) <= law.gradient_bound


@having(ONE_EACH, "per_example", False)
def test_a_batch_of_one(law: Law):
    args = law.draw(seed=13, batch=1)
    values, gradients, by_hyper = evaluate(law, args, quick=True)
    assert np.all(np.isfinite(values))
    assert all(np.all(np.isfinite(g)) for g in [*gradients, *by_hyper.values()])
    if law.alone is not None:
        np.testing.assert_allclose(values, law.alone, rtol=1e-6)
    wide = [a.astype(np.float64) if i in law.floats else a for i, a in enumerate(args)]
    expected = np.asarray(law.reference(*wide, **law.hyper, **law.static))
    np.testing.assert_allclose(values, expected, rtol=2e-5, atol=2e-7)


@each_program
def test_wrong_input_is_refused_by_name(law: Law):
    args = law.draw()

    def refused(*args, **extra):
        with pytest.raises(ValueError, match=f"^{law.name}: "):
            call = functools.partial(law.fn, **{**law.hyper, **law.static, **extra})
            jax.eval_shape(call, *args)

    for position, array in enumerate(args):
        other = np.int32 if array.dtype == np.float32 else np.float32
        refused(*replace(args, [position], lambda a, t=other: a.astype(t)))
        if len(args) > 1:
            refused(*replace(args, [position], lambda a: a[:-1]))
            refused(*replace(args, [position], lambda a: a[:1]))
            refused(*replace(args, [position], lambda a: a[None]))
    if law.masks == "examples":
        refused(*args, where=np.ones(BATCH, np.float32))
        refused(*args, where=np.ones(BATCH + 1, bool))
        refused(*args, where=np.ones((BATCH, 1), bool))
        refused(*args, where=np.ones((), bool))
    if law.masks == "classes":
        refused(*args, where=np.ones(args[0].shape[-1], np.float32))
        refused(*args, where=np.ones(args[0].shape[-1] + 1, bool))
        refused(*args, where=np.ones((1, *args[0].shape), bool))
    for name in law.hyper:
        refused(*args, **{name: np.ones(BATCH, np.float32)})
