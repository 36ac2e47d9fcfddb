"""Values at any distance from each other: a code is a place in a table."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kdjax import checks
from kdjax.compress.quantize._quantized import (
    Quantized,
    check,
    finite,
    from_rows,
    per_channel,
    to_rows,
    upcast,
    usable,
)
from kdjax.compress.quantize._uniform import uniform

# Quantiles of a normal distribution, so that each is used about as often: Dettmers et
# al., QLoRA, https://arxiv.org/abs/2305.14314 (2023), appendix E.
_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634),
    *(0.33791524171829224, 0.44070982933044434, 0.5626170039176941),
    *(0.7229568362236023, 1.0),
)


def kmeans(array: Array, *, bits: int = 4, iterations: int = 30) -> Quantized:
    """Quantize to values that fit the array, found by k-means.

    Lloyd's algorithm from three starts, of which the one with the smallest squared
    error counts: the evenly spaced values of `uniform(symmetric=False,
    channel_axis=None)`, so that the error is never larger than theirs; quantiles of the
    distinct values and 0.0, so that these are kept as they are if they are no more than
    `2**bits`; and the values halfway between. One level stays 0.0, so that pruned
    weights stay pruned.

    Args:
      array: floating, of any shape; one codebook for all.
      bits: of a code, 2 to 8.
      iterations: of Lloyd's algorithm.

    Returns:
      A `Quantized` with `2**bits` levels and the scale 1.

    Raises:
      ValueError: if the array is not floating or the bits are not 2 to 8.

    Source: Han, Mao and Dally, "Deep compression", https://arxiv.org/abs/1510.00149
    (2016).

    >>> q = kmeans(jnp.array([-3.1, -3.0, -2.9, 0.0, 5.0, 7.0]), bits=2)
    >>> q.dequantized().round(4)
    Array([-3., -3., -3.,  0.,  5.,  7.], dtype=float32)
    """
    array = jnp.asarray(array)
    check("quantize.kmeans", array, bits)
    checks.integer("quantize.kmeans", 1, iterations=iterations)
    return _kmeans(array, bits, iterations)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _kmeans(array: Array, bits: int, iterations: int) -> Quantized:
    wide = upcast(array).ravel()
    even, spread = _even(wide, bits), _spread(wide, bits)
    starts = jnp.stack([even, spread, even / 2 + spread / 2])
    starts = finite(starts, wide.dtype)
    # one after the other: all at once would take three times the memory
    found, errors = jax.lax.map(lambda s: _lloyd(wide, s, iterations), starts)
    levels = found[errors.argmin()]
    return Quantized(
        codes=_nearest(wide, levels).astype(jnp.uint8).reshape(array.shape),
        scale=jnp.where(jnp.isfinite(wide).all(), 1.0, jnp.nan)
        .astype(wide.dtype)
        .reshape((1,) * array.ndim),
        zero_point=None,
        levels=levels,
        bits=bits,
        dtype=array.dtype.name,
    )


def _even(values: Array, bits: int) -> Array:
    """Return evenly spaced levels, of which one is 0."""
    even = uniform(values, bits=bits, symmetric=False, channel_axis=None)
    steps = jnp.arange(2**bits) - even.zero_code.astype(int)
    return steps.astype(values.dtype) * even.scale


def _spread(values: Array, bits: int) -> Array:
    """Return levels at quantiles of the distinct values and 0: all, if they are few."""
    rising = jnp.sort(jnp.append(values, 0.0))
    rank = jnp.cumsum(jnp.append(False, rising[1:] != rising[:-1]))
    most = 2**bits - 1
    wanted = jnp.round(jnp.arange(most + 1) * (rank[-1] / most)).astype(rank.dtype)
    return rising[jnp.searchsorted(rank, wanted)]


def _lloyd(values: Array, start: Array, iterations: int) -> tuple[Array, Array]:
    """Return improved levels, in rising order with a 0, and their squared error."""
    zero = jnp.abs(start).argmin()

    def improved(_: int, levels: Array) -> Array:
        codes = _nearest(values, levels)
        count = jnp.zeros(levels.shape, int).at[codes].add(1)
        # the mean as a correction to the level: small sums lose no digits, unless the
        # compiler adds them to the level one by one
        rest = (values - levels[codes]) / count[codes]  # a sum of them could overflow
        rest = jnp.zeros_like(levels).at[codes].add(rest)
        moved = levels + jax.lax.optimization_barrier(rest)
        return finite(moved.at[zero].set(0.0), levels.dtype)

    start = start.at[zero].set(0.0)
    levels = jax.lax.fori_loop(0, iterations, improved, start)
    return levels, jnp.square(levels[_nearest(values, levels)] - values).sum()


def power_of_two(
    array: Array, *, bits: int = 4, channel_axis: int | None = None
) -> Quantized:
    """Quantize to 0 and ± powers of two, by which a device multiplies with a shift.

    `2**(bits − 1) − 1` powers, the largest of which is `2^⌊log2(4/3 · max|w|)⌋`; each
    value goes to the nearest. Relative errors are at most a third for all that is not
    too small: more bits reach smaller values, they make none finer.

    Args:
      array: floating, of any shape.
      bits: of a code, 2 to 8.
      channel_axis: the axis along which each index has a largest power of its own.

    Raises:
      ValueError: if the array is not floating or the bits are not 2 to 8.

    Source: Zhou, Yao, Guo, Xu and Chen, "Incremental network quantization",
    https://arxiv.org/abs/1702.03044 (2017).

    >>> power_of_two(jnp.array([-0.9, 0.0, 0.3, 0.55]), bits=3).dequantized()
    Array([-1.  ,  0.  ,  0.25,  0.5 ], dtype=float32)
    """
    array = jnp.asarray(array)
    check("quantize.power_of_two", array, bits, channel_axis)
    return _power_of_two(array, bits, channel_axis)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _power_of_two(array: Array, bits: int, channel_axis: int | None) -> Quantized:
    rows = to_rows(upcast(array), channel_axis)
    largest = usable(jnp.abs(rows).max(1, initial=0.0))
    mantissa, exponent = jnp.frexp(largest)
    exponent -= mantissa < 0.75
    # no more than the dtype has, and than has an inverse
    most = min(jnp.finfo(array.dtype).maxexp - 1, jnp.finfo(rows.dtype).maxexp - 2)
    scale = jnp.ldexp(jnp.ones_like(largest), jnp.minimum(exponent, most))
    powers = 0.5 ** np.arange(2 ** (bits - 1) - 1, dtype=np.float64)
    levels = [*-powers, 0.0, *powers[::-1]]
    scale = jnp.where(jnp.isnan(largest), jnp.nan, scale)
    return _with_levels(array, levels, scale, bits, channel_axis)


def nf4(array: Array, *, channel_axis: int | None = -1) -> Quantized:
    """Quantize to the 16 values of NormalFloat, for weights of a normal distribution.

    Published with a scale for every 64 weights; here one for each channel, or for all.

    Args:
      array: floating, of any shape.
      channel_axis: the axis along which each index has a scale of its own, its largest
        magnitude; None: one for all.

    Raises:
      ValueError: if the array is not floating.

    Source: Dettmers, Pagnoni, Holtzman and Zettlemoyer, "QLoRA",
    https://arxiv.org/abs/2305.14314 (2023).

    >>> nf4(jnp.array([[-2.0, 0.1, 1.1]]), channel_axis=None).codes
    Array([[ 0,  8, 13]], dtype=uint8)
    """
    array = jnp.asarray(array)
    check("quantize.nf4", array, 4, channel_axis)
    return _nf4(array, channel_axis)


@functools.partial(jax.jit, static_argnums=1)
def _nf4(array: Array, channel_axis: int | None) -> Quantized:
    rows = to_rows(upcast(array), channel_axis)
    scale = usable(jnp.abs(rows).max(1, initial=0.0))
    return _with_levels(array, _NF4, scale, 4, channel_axis)


def _with_levels(
    array: Array,
    table: Sequence[float],
    scale: Array,
    bits: int,
    channel_axis: int | None,
) -> Quantized:
    """Quantize to the nearest of fixed levels, times a scale `[channels]`."""
    levels = jnp.asarray(table, scale.dtype)
    rows = to_rows(upcast(array), channel_axis) / scale[:, None]
    # of two as near the larger one
    codes = jnp.where(
        rows > 0, _nearest(rows, levels, side="right"), _nearest(rows, levels)
    )
    # where a table is shorter than 2**bits its last level is repeated
    levels = jnp.pad(levels, (0, 2**bits - len(levels)), mode="edge")
    return Quantized(
        codes=from_rows(codes, array, channel_axis).astype(jnp.uint8),
        scale=per_channel(scale, array, channel_axis),
        zero_point=None,
        levels=levels,
        bits=bits,
        dtype=array.dtype.name,
    )


def _nearest(values: Array, levels: Array, side: str = "left") -> Array:
    """Return the place of the level next to each value; levels are in rising order."""
    places = jnp.searchsorted(levels[:-1] / 2 + levels[1:] / 2, values, side=side)
    # those next to 0 can be too small to tell from it
    return jnp.where(values == 0, jnp.abs(levels).argmin(), places)
