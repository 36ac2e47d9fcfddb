"""Codebooks: found by k-means, powers of two, quantiles of a normal distribution."""

import functools
import statistics

import hypothesis
import hypothesis.extra.numpy as arrays
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import qwix
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from kdjax.compress import quantize
from tests.compress.quantize_table import (
    BITS,
    CASES,
    NF4,
    PLACES,
    POWERS,
    STACKED,
    made,
    squared_error,
)

EVERY_BITS = pytest.mark.parametrize("bits", BITS)
MEASURED = [case for case in CASES if case[:5] not in ("large", "small", "subno")]


def draw(name):
    rng = np.random.default_rng(4)
    many = {
        "normal": rng.normal(size=500),
        "uniform": rng.uniform(-1, 3, 500),
        "long tails": rng.standard_t(1.5, 500),
        "two heaps": rng.normal(size=500) * 0.1 + np.sign(rng.normal(size=500)),
        "sparse": rng.normal(size=500) * (rng.random(500) < 0.1),
    }
    return many[name].astype(np.float32)


@functools.cache
def clustered(bits, iterations):
    @jax.jit
    def program(array):
        small = quantize.kmeans(array, bits=bits, iterations=iterations)
        return small.levels, small.codes, small.dequantized()

    return program


def lloyd(array, levels, iterations):
    """Return levels and error, from the definition; the level that is 0 stays."""
    array, levels = array.astype(np.float64), np.array(levels, np.float64)
    fixed = np.abs(levels).argmin()
    for _ in range(iterations):
        nearest = np.abs(array[:, None] - levels).argmin(1)
        for place in set(nearest) - {fixed}:
            levels[place] = array[nearest == place].mean()
    return levels, np.square(array[:, None] - levels).min(1).sum()


def starts(array, bits):
    """Return evenly spaced levels, spread ones, and those halfway; each with a 0."""
    distinct = np.unique(np.append(array, 0.0)).astype(np.float64)
    chosen = np.round(np.linspace(0, len(distinct) - 1, 2**bits)).astype(int)
    even, spread = even_levels(array, bits), distinct[chosen]
    found = np.stack([even, spread, (even + spread) / 2])
    found[range(3), np.abs(found).argmin(1)] = 0.0
    return found


def even_levels(array, bits):
    small = quantize.uniform(array, bits=bits, symmetric=False, channel_axis=None)
    steps = np.arange(2**bits) - small.zero_point.item()
    return steps * np.float64(small.scale.item())


@EVERY_BITS
def test_kmeans_is_never_worse_than_even_values(bits):
    even, fitted = made(f"{bits}-affine-tensor-min_max"), made(f"{bits}-kmeans")
    for case in MEASURED:
        exact = STACKED[PLACES[case]]
        errors = [squared_error(m.array[PLACES[case]], exact) for m in (fitted, even)]
        assert errors[0] <= errors[1] * (1 + 1e-5) + 1e-12 * np.abs(exact).max() ** 2


@pytest.mark.parametrize("bits", [2, 4])
@hypothesis.given(
    arrays.arrays(np.float32, 12, elements=st.floats(-1000, 1000, width=32))
)
@hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)
def test_kmeans_of_any_values(bits, array):
    levels, _, found = clustered(bits, 30)(array)
    even = even_levels(array, bits)
    nearest = even[np.abs(array[:, None] - even).argmin(1)]
    spare = 1e-10 * np.abs(array).max() ** 2 + 1e-30
    assert squared_error(found, array) <= squared_error(nearest, array) + spare
    assert (np.diff(levels) >= 0).all()
    assert (np.asarray(levels) == 0).sum() >= 1
    assert (np.asarray(found)[array == 0] == 0).all()


@pytest.mark.parametrize("name", ["normal", "uniform", "long tails", "two heaps"])
def test_more_iterations_are_never_worse(name):
    array = draw(name)
    errors = [
        squared_error(clustered(3, count)(array)[2], array) for count in (1, 2, 5, 30)
    ]
    for more, fewer in zip(errors[1:], errors, strict=False):
        assert more <= fewer * (1 + 1e-6)
    even = even_levels(array, 3)
    assert errors[0] < squared_error(
        even[np.abs(array[:, None] - even).argmin(1)], array
    )


@pytest.mark.parametrize("name", ["normal", "two heaps", "sparse"])
def test_kmeans_is_lloyds_algorithm(name):
    array = draw(name)
    for iterations in (1, 5):
        levels, codes, found = clustered(3, iterations)(array)
        tried = [lloyd(array, start, iterations) for start in starts(array, 3)]
        expected, _ = min(tried, key=lambda one: one[1])
        np.testing.assert_allclose(levels, expected, atol=2e-5)
        distances = np.abs(array[:, None] - np.asarray(levels, np.float64))
        chosen = np.take_along_axis(distances, np.asarray(codes)[:, None], 1)
        np.testing.assert_allclose(chosen[:, 0], distances.min(1), atol=1e-6)
        np.testing.assert_array_equal(found, np.asarray(levels)[codes])


def test_kmeans_is_that_of_scikit_learn():
    rng = np.random.default_rng(5)
    heaps = [c + 0.2 * rng.uniform(-1, 1, 20) for c in (-3.0, 4.0, 9.0)]
    array = np.concatenate([*heaps, [-0.1, 0.0, 0.1]]).astype(np.float32)
    levels, _, found = clustered(2, 30)(array)
    tried = [
        KMeans(4, init=start[:, None], n_init=1, tol=0).fit(array[:, None])
        for start in starts(array, 2)
    ]
    theirs = min(tried, key=lambda one: one.inertia_)
    np.testing.assert_allclose(levels, theirs.cluster_centers_[:, 0], atol=1e-6)
    expected = theirs.cluster_centers_[theirs.labels_, 0]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_no_more_values_than_levels_are_kept():
    """However near each other, and how far from the rest; 0 counts as one."""
    for values in ([-7.0, -2.0, 0.01, 0.02, 3.1, 5.3, 800], [0.5, 0.51, 0.52, 0.53]):
        array = np.repeat(values, 9).astype(np.float32)
        np.testing.assert_allclose(clustered(3, 30)(array)[2], array, rtol=1e-6)


def test_one_value_far_away_takes_one_level():
    rng = np.random.default_rng(6)
    near, far = rng.normal(0, 0.05, 4000).astype(np.float32), np.float32(5)
    found = clustered(4, 30)(np.append(near, far))[2]
    alone = clustered(4, 30)(near)[2]
    assert squared_error(found[:-1], near) < 2 * squared_error(alone, near)


def test_kmeans_of_many_values_loses_no_digits():
    array = jnp.full(300_000, 0.6).at[0].set(1.0)
    np.testing.assert_allclose(clustered(2, 30)(array)[0][2:], [0.6, 1.0], rtol=1e-6)


def inq(rows, bits):
    """Return what Zhou et al. (2017), equation 4, make of `[channels, n]`."""
    rows = rows.astype(np.float64)
    largest = np.abs(rows).max(1)
    exponents = np.floor(np.log2(4 * np.where(largest > 0, largest, 1.0) / 3))
    found = np.zeros_like(rows)
    for row, exponent, out in zip(rows, exponents, found, strict=True):
        powers = 2.0 ** (exponent - np.arange(2 ** (bits - 1) - 1))
        for below, power in zip([*powers[1:], 0.0], powers, strict=True):
            here = (np.abs(row) >= (below + power) / 2) & (np.abs(row) < 1.5 * power)
            out[here] = power * np.sign(row[here])
    return found


@pytest.mark.parametrize("name", POWERS)
def test_powers_of_two_are_those_of_the_formula(name):
    bits, grid = int(name[0]), name.rsplit("-", 1)[1]
    array = made(name).array
    for case in MEASURED:
        exact = STACKED[PLACES[case]]
        rows = exact.T if grid == "channel" else exact.reshape(1, -1)
        expected = inq(rows, bits)
        expected = expected.T if grid == "channel" else expected.reshape(6, 4)
        expected[np.abs(expected) < np.finfo(np.float32).tiny] = 0
        np.testing.assert_array_equal(array[PLACES[case]], expected, err_msg=case)
        some = expected != 0
        mantissas, _ = np.frexp(array[PLACES[case]])
        assert set(np.abs(mantissas[some])) <= {0.5}
        whole = 0 if grid == "channel" else None
        powers = np.where(some, np.abs(expected), np.inf)
        least = powers.min(whole, keepdims=True)
        kept = np.abs(exact) >= least
        error = np.abs(array[PLACES[case]] - exact)[kept] / np.abs(exact)[kept]
        assert (error <= 1 / 3 + 1e-7).all()


def test_halfway_between_powers_is_away_from_zero():
    half = jnp.array([1.5, 0.75, 0.375, 1.0], jnp.bfloat16)
    for sign in (1, -1):
        found = quantize.power_of_two(sign * half, bits=4).dequantized()
        np.testing.assert_array_equal(sign * found, [2.0, 1.0, 0.5, 1.0])


def normal_float():
    """Return the levels as their authors make them of quantiles."""
    quantile, most = statistics.NormalDist().inv_cdf, 0.9677083
    above = [quantile(p) for p in np.linspace(most, 0.5, 9)[:-1]]
    below = [-quantile(p) for p in np.linspace(most, 0.5, 8)[:-1]]
    return np.sort([*below, 0.0, *above]) / max(above)


@pytest.mark.parametrize("name", NF4)
def test_nf4_is_made_of_quantiles_and_that_of_qwix(name):
    small, array, _ = made(name)
    for levels in small.levels:
        np.testing.assert_allclose(levels, normal_float(), atol=1e-6)
    axes = [1] if name.endswith("channel") else []
    for case in ["normal", "pruned", "negative", "no two channels alike"]:
        exact, found = STACKED[PLACES[case]], array[PLACES[case]]
        other = qwix.quantize(jnp.asarray(exact), "nf4", channelwise_axes=axes)
        theirs = np.asarray(qwix.dequantize(other))
        scale = np.abs(exact).max(0 if axes else None, keepdims=True)
        middles = (normal_float()[1:] + normal_float()[:-1]) / 2
        near = np.abs(exact[..., None] / np.where(scale, scale, 1)[..., None] - middles)
        clear = near.min(-1) > 1e-5
        assert clear.sum() > 20
        np.testing.assert_allclose(found[clear], theirs[clear], rtol=1e-6, atol=1e-7)


METHODS = {
    "uniform": quantize.uniform,
    "kmeans": quantize.kmeans,
    "power_of_two": quantize.power_of_two,
    "find_bounds": quantize.find_bounds,
    "rounded": functools.partial(quantize.rounded, low=-1.0, high=1.0),
}


@pytest.mark.parametrize("name", METHODS)
def test_wrong_bits_and_integers_are_refused(name):
    for bits in (0, 1, 9, 4.0, True, "4"):
        with pytest.raises(
            ValueError, match=f"{name}: bits must be an integer from 2 to 8"
        ):
            METHODS[name](jnp.ones(3), bits=bits)
    for array in (jnp.arange(3), jnp.ones(3, bool), jnp.ones(3, jnp.complex64)):
        for method in (METHODS[name], quantize.nf4):
            how = {} if method is quantize.nf4 else {"bits": 4}
            with pytest.raises(ValueError, match="must be floating, got"):
                method(array, **how)


def test_wrong_settings_are_refused():
    for count in (0, 2.5):
        with pytest.raises(ValueError, match="kmeans: iterations must be an integer"):
            quantize.kmeans(jnp.ones(3), iterations=count)
    for kept in (0, -1, 101, float("nan")):
        with pytest.raises(ValueError, match=r"quantize.percentile: kept"):
            quantize.percentile(kept)
    for how in ({"steps": 0}, {"steps": 2.5}, {"least": 0.0}, {"least": 1.5}):
        with pytest.raises(ValueError, match=r"quantize.mse: (steps|least) must be"):
            quantize.mse(**how)
