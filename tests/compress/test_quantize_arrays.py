"""Evenly spaced values, and what is true of every method that makes integers."""

import functools

import hypothesis
import hypothesis.extra.numpy as arrays
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from kdjax.compress import quantize
from tests.compress.quantize_table import (
    AXES,
    BITS,
    BOUNDS,
    CASES,
    KEPT,
    METHODS,
    PLACES,
    STABLE,
    STACKED,
    UNIFORM,
    made,
    squared_error,
)

FEW = ["4-affine-channel-mse", "3-kmeans", "8-power_of_two-channel", "4-nf4-tensor"]
EVERY_BITS = pytest.mark.parametrize("bits", BITS)
# errors of the others are beyond float32, or below it
MEASURED = [case for case in CASES if case[:5] not in ("large", "small", "subno")]


def ends(rows, bounds):
    """Return where grids begin and end, from the definition; they hold 0."""
    low, high = {
        "min_max": lambda: (rows.min(1), rows.max(1)),
        "percentile": lambda: np.percentile(rows, [50 - KEPT / 2, 50 + KEPT / 2], 1),
    }[bounds]()
    return np.minimum(low, 0), np.maximum(high, 0)


def on_grid(rows, low, high, bits, kind):
    """Return codes, zero points, steps, and which codes no rounding can change."""
    if kind == "symmetric":
        most, zero = 2**bits - 2, np.full(len(rows), 2.0 ** (bits - 1) - 1)
        step = np.maximum(-low, high) / zero
    else:
        most, step = 2**bits - 1, (high - low) / (2**bits - 1)
        zero = np.round(-low / step)
    exact = rows / step[:, None]
    clear = np.abs(exact - np.floor(exact) - 0.5) > 1e-3
    return np.clip(np.round(exact) + zero[:, None], 0, most), zero, step, clear


@pytest.mark.parametrize("name", [name for name in UNIFORM if "mse" not in name])
@pytest.mark.parametrize("case", ["normal", "negative", "no two channels alike"])
def test_codes_are_those_of_the_formula(name, case):
    bits, kind, grid, bounds = name.split("-")
    small = jax.tree.map(lambda leaf: leaf[PLACES[case]], made(name).quantized)
    exact = STACKED[PLACES[case]].astype(np.float64)
    rows = exact.T if grid == "channel" else exact.reshape(1, -1)
    codes, zero, step, clear = on_grid(rows, *ends(rows, bounds), int(bits), kind)
    found = small.codes.T if grid == "channel" else small.codes.reshape(1, -1)
    assert clear.mean() > 0.8
    np.testing.assert_array_equal(found[clear], codes[clear])
    shape = (1, 4) if grid == "channel" else (1, 1)
    np.testing.assert_array_equal(small.zero_point, zero.reshape(shape))
    np.testing.assert_allclose(small.scale, step.reshape(shape), rtol=1e-5)


@EVERY_BITS
@pytest.mark.parametrize("kind", ["symmetric", "affine"])
def test_mse_finds_the_best_share_of_the_ends(bits, kind):
    for case in MEASURED:
        exact = STACKED[PLACES[case]].astype(np.float64)
        rows = exact.reshape(1, -1)
        low, high = ends(rows, "min_max")
        errors = []
        for share in np.linspace(1, 0.1, 40) if exact.any() else []:
            grid = on_grid(rows, share * low, share * high, bits, kind)
            codes, zero, step, _ = grid
            errors.append(squared_error((codes - zero) * step, rows))
        found = made(f"{bits}-{kind}-tensor-mse").array[PLACES[case]]
        best, size = min(errors, default=0), np.abs(exact).max()
        np.testing.assert_allclose(
            squared_error(found, exact), best, rtol=1e-3, atol=1e-10 * size**2
        )


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_what_its_codes_stand_for(name):
    small, array, _ = made(name)
    assert small.bits == int(name[0])
    assert small.codes.dtype == np.uint8
    assert small.codes.max() < 2**small.bits
    assert array.dtype == np.float32
    assert array.shape == STACKED.shape
    assert np.isfinite(array).all()
    assert (small.scale > 0).all()
    if name in UNIFORM:
        assert small.levels is None
        assert small.zero_point.dtype == np.uint8
        assert small.zero_point.max() < 2**small.bits
        steps = small.codes.astype(float) - small.zero_point
    else:
        assert small.zero_point is None
        assert small.levels.shape == (len(CASES), 2**small.bits)
        assert (np.diff(small.levels) >= 0).all()
        steps = np.stack([t[c] for t, c in zip(small.levels, small.codes, strict=True)])
    with np.errstate(over="ignore"):
        values = steps.astype(np.float32) * small.scale
    most = np.finfo(np.float32).max
    np.testing.assert_array_equal(array, np.clip(values, -most, most))


@pytest.mark.parametrize("name", METHODS)
def test_zeros_stay_exactly_zero(name):
    small, array, _ = made(name)
    zeros = STACKED == 0
    assert zeros.sum() > 40
    assert (array[zeros] == 0).all()
    codes = jax.vmap(lambda q: jnp.broadcast_to(q.zero_code, q.codes.shape))(small)
    np.testing.assert_array_equal(small.codes[zeros], np.asarray(codes)[zeros])


@pytest.mark.parametrize("name", STABLE)
def test_what_is_on_the_grid_stays(name):
    """Exactly for fixed levels; else the ends move by the last digits of a float."""
    _, array, again = made(name)
    if name not in UNIFORM:
        np.testing.assert_array_equal(again, array)
        return
    # of integers both ends can lie halfway, and the largest are clipped
    for case in [c for c in CASES if c != "integers" and c[:5] != "large"]:
        one, two = again[PLACES[case]], array[PLACES[case]]
        np.testing.assert_allclose(one, two, rtol=0, atol=3e-7 * np.abs(two).max())


@functools.cache
def _program(bits, symmetric):
    @jax.jit
    def program(array):
        small = quantize.uniform(
            array, bits=bits, symmetric=symmetric, channel_axis=None
        )
        return small.dequantized(), small.scale

    return program


@EVERY_BITS
@pytest.mark.parametrize("symmetric", [True, False])
@hypothesis.given(
    arrays.arrays(np.float32, 7, elements=st.floats(-(2.0**60), 2.0**60, width=32))
)
@hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)
def test_no_value_is_off_by_more_than_half_a_step(bits, symmetric, array):
    near, step = _program(bits, symmetric)(array)
    error = np.abs(np.asarray(near, np.float64) - array)
    if np.abs(array).max() > 1e-30:  # else there may be no such small step
        assert error.max() <= 0.5 * float(step[0]) * (1 + 2.0 ** (bits - 18))
    assert (np.asarray(near)[array == 0] == 0).all()
    assert np.isfinite(near).all()


@EVERY_BITS
@pytest.mark.parametrize("kind", ["symmetric", "affine"])
def test_finer_is_never_worse(bits, kind):
    """Channels than one grid for all, trying than ends, more bits than fewer."""

    def errors(bits, grid, bounds):
        array = made(f"{bits}-{kind}-{grid}-{bounds}").array
        found = [squared_error(array[PLACES[c]], STACKED[PLACES[c]]) for c in MEASURED]
        return np.array(found)

    least = errors(bits, "channel", "mse")
    spare = 1e-13 * np.square(STACKED[: len(MEASURED)], dtype=float).sum((1, 2))
    for other in [("tensor", "mse"), ("channel", "min_max")]:
        assert (least <= errors(bits, *other) * (1 + 1e-5) + spare).all()
    assert (
        errors(bits, "tensor", "mse")
        <= errors(bits, "tensor", "min_max") * (1 + 1e-5) + spare
    ).all()
    if bits > 2:
        assert least[0] <= errors(bits - 1, "channel", "mse")[0]


def test_channels_are_better_than_one_grid_for_normal_weights():
    weights = np.random.default_rng(1).normal(size=(64, 16)).astype(np.float32)
    for bits in (2, 4, 8):
        errors = [
            squared_error(quantize.uniform(weights, **how).dequantized(), weights)
            for how in ({"bits": bits, "channel_axis": axis} for axis in (-1, None))
        ]
        assert errors[0] < errors[1]


def test_channels_take_a_common_grid_where_that_fits():
    """Integers up to 7 are exact on one grid of 4 bits, not on one of each channel."""
    place = PLACES["integers"]
    errors = {
        way: squared_error(made(f"4-symmetric-{way}").array[place], STACKED[place])
        for way in ("tensor-min_max", "channel-min_max", "channel-mse")
    }
    assert errors["tensor-min_max"] < 1e-9
    assert errors["channel-min_max"] > 0.1
    assert errors["channel-mse"] < 1e-9


@pytest.mark.parametrize("name", FEW)
def test_eager_and_one_by_one_are_the_same(name):
    small, array, _ = made(name)
    for case in ("normal", "a channel of zeros"):
        place = PLACES[case]
        eager = METHODS[name](STACKED[place])
        np.testing.assert_array_equal(eager.codes, small.codes[place])
        np.testing.assert_allclose(eager.dequantized(), array[place], rtol=1e-6)


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_dtypes_stay(name, dtype):
    with jax.enable_x64(dtype == "float64"):
        exact = jnp.asarray(STACKED[0], dtype)
        method = jax.jit(lambda array: (q := METHODS[name](array), q.dequantized()))
        small, array = method(exact)
        assert array.dtype == exact.dtype
        assert small.scale.dtype == jnp.promote_types(dtype, "float32")
        assert small.codes.dtype == jnp.uint8
        _, expected = method(exact.astype(jnp.float32))
        precision = float(jnp.finfo(dtype).eps) + 1e-6
        np.testing.assert_allclose(
            array.astype(float), expected.astype(float), rtol=precision
        )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_largest_half_numbers_stay_finite(dtype):
    most = jnp.finfo(dtype).max
    array = jnp.array([most, -most, 0, 1], dtype)
    for name in [*FEW, "2-affine-tensor-min_max"]:
        found = jax.jit(lambda x, name=name: METHODS[name](x).dequantized())(array)
        assert np.isfinite(np.asarray(found, np.float64)).all()
    low, high = -float(most), float(most)
    assert jnp.isfinite(quantize.rounded(array, low, high, bits=8)).all()


@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 3, 2, 5)])
def test_any_axis_can_be_the_channels(shape):
    array = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    wide = array.astype(np.float64)
    for axis in (0, 1 % len(shape), -1, None):
        others = None
        if axis is not None:
            others = tuple(a for a in range(len(shape)) if a != axis % len(shape))
        most = np.abs(wide).max(others, keepdims=True)

        @jax.jit
        def made(array, axis=axis):
            methods = quantize.power_of_two, quantize.nf4
            found = [method(array, channel_axis=axis) for method in methods]
            found.append(quantize.uniform(array, bits=3, channel_axis=axis))
            return [(small, small.dequantized()) for small in found]

        (powers, _), (nf4, _), (even, near) = made(array)
        np.testing.assert_allclose(even.scale, most / 3, rtol=1e-6)
        np.testing.assert_allclose(near, np.round(wide / (most / 3)) * (most / 3), 1e-5)
        np.testing.assert_array_equal(nf4.scale, most.astype(np.float32))
        np.testing.assert_array_equal(
            powers.scale, 2.0 ** np.floor(np.log2(most / 0.75))
        )


@pytest.mark.parametrize("shape", [(), (1,), (0,), (0, 3), (3, 0)])
def test_small_and_empty_arrays(shape):
    array = np.full(shape, -3.0, np.float32)
    names = [f"2-affine-{grid}-{bounds}" for grid in AXES for bounds in BOUNDS]

    @jax.jit
    def made(array):
        return {name: METHODS[name](array).dequantized() for name in [*names, *FEW]}

    for name, found in made(array).items():
        assert found.shape == shape
        expected = -4.0 if "power_of_two" in name else -3.0
        np.testing.assert_allclose(found, np.full(shape, expected), rtol=1e-6)


@pytest.mark.parametrize(("low", "slopes"), [(0.0, [0, 1, 1, 1]), (-3.0, [1, 1, 1, 1])])
def test_what_is_at_the_end_of_the_grid_is_not_clipped(low, slopes):
    """Such as every 0 of a ReLU, whose range begins there."""
    round_ = functools.partial(quantize.rounded, low=low, high=low + 7.0, bits=3)
    values = jnp.array([-3.0, 0.0, 0.4, low + 7.0])
    np.testing.assert_array_equal(jax.vmap(jax.grad(round_))(values), slopes)
    assert jax.grad(round_)(low + 7.1) == 0
