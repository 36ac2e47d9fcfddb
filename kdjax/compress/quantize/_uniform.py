"""Evenly spaced values: an integer, a scale and a zero point."""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from kdjax.compress.quantize._bounds import Bounds, Pair, check_bounds, min_max
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


def uniform(
    array: Array,
    *,
    bits: int,
    symmetric: bool = True,
    channel_axis: int | None = -1,
    bounds: Bounds = min_max,
) -> Quantized:
    """Quantize to evenly spaced values.

    Symmetric: `2**bits − 1` values from −b to b, where b is the larger of the two
    bounds. Affine: `2**bits` values between the bounds, moved by less than a step so
    that 0.0 is one of them. Within the bounds no value is off by more than half a step,
    before the result is rounded to the array's dtype; for magnitudes from 1e-35 to
    1e35. Where an array has NaN or inf, all that shares their grid becomes NaN.

    Args:
      array: floating, of any shape.
      bits: of an integer, 2 to 8.
      symmetric: whether 0.0 is in the middle, as kernels for int8 products want it.
      channel_axis: the axis along which each index has a grid of its own; kernels of
        `nn.Dense` and `nn.Conv` have their outputs on the last one. None: one for all.
      bounds: where grids begin and end: `min_max`, `percentile(99.9)`, `mse()`, which
        is the one to take for few bits.

    Returns:
      A `Quantized`, whose scale is the step.

    Raises:
      ValueError: if the array is not floating, the bits are not 2 to 8, or the array
        has no such axis.

    Source: Jacob et al., "Quantization and training of neural networks for efficient
    integer-arithmetic-only inference", https://arxiv.org/abs/1712.05877 (2018).

    >>> q = uniform(jnp.array([[-1.0, 0.2, 1.0]]), bits=3, channel_axis=None)
    >>> q.codes, q.zero_point.item(), round(q.scale.item(), 4)
    (Array([[0, 4, 6]], dtype=uint8), 3, 0.3333)
    """
    array = jnp.asarray(array)
    check("quantize.uniform", array, bits, channel_axis)
    check_bounds("quantize.uniform", bounds)
    return _uniform(array, bits, symmetric, channel_axis, bounds)


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _uniform(
    array: Array, bits: int, symmetric: bool, channel_axis: int | None, bounds: Bounds
) -> Quantized:
    rows = to_rows(upcast(array), channel_axis)
    between = functools.partial(grid, bits=bits, symmetric=symmetric)

    def rounded(low: Array, high: Array) -> Array:
        scale, zero = between(low, high)
        return _values(_codes(rows, scale, zero, bits, symmetric), scale, zero)

    scale, zero = between(*bounds(rows, rounded))
    # bounds may clip what is not finite, but it must not be hidden
    scale = jnp.where(jnp.isfinite(rows).all(1), scale, jnp.nan)
    codes = _codes(rows, scale, zero, bits, symmetric)
    return Quantized(
        codes=from_rows(codes, array, channel_axis).astype(jnp.uint8),
        scale=per_channel(scale, array, channel_axis),
        zero_point=per_channel(zero, array, channel_axis).astype(jnp.uint8),
        levels=None,
        bits=bits,
        dtype=array.dtype.name,
    )


def find_bounds(
    values: Array,
    *,
    bits: int,
    symmetric: bool = False,
    bounds: Bounds = min_max,
) -> Pair:
    """Return where one grid for all values begins and ends.

    Args:
      values: floating, of any shape, such as what a layer saw of many examples.
      bits: see `uniform`.
      symmetric: see `uniform`.
      bounds: see `uniform`.

    Raises:
      ValueError: if the values are not floating or the bits are not 2 to 8.

    >>> low, high = find_bounds(jnp.array([0.5, 3.0]), bits=8)
    >>> float(low), float(high)
    (0.0, 3.0)
    """
    check("quantize.find_bounds", values, bits)
    check_bounds("quantize.find_bounds", bounds)
    return _find_bounds(values, bits, symmetric, bounds)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _find_bounds(values: Array, bits: int, symmetric: bool, bounds: Bounds) -> Pair:
    rows = to_rows(upcast(values), None)

    def rounded(low: Array, high: Array) -> Array:
        step, zero = grid(low, high, bits=bits, symmetric=symmetric)
        return _values(_codes(rows, step, zero, bits, symmetric), step, zero)

    low, high = bounds(rows, rounded)
    return low[0], high[0]


def grid(low: Array, high: Array, *, bits: int, symmetric: bool) -> Pair:
    """Return step and code of 0.0, one for each bound, of grids that hold 0."""
    low, high = jnp.minimum(low, 0.0), jnp.maximum(high, 0.0)
    if symmetric:
        most = 2 ** (bits - 1) - 1
        step = usable(jnp.maximum(-low, high) / most)
        return step, jnp.full_like(step, most)
    most = 2**bits - 1
    # Halves are exact and their difference does not overflow: a program that computes
    # this in several places must get one result, to the last bit.
    step = usable((high / 2 - low / 2) / (most / 2))
    return step, jnp.round(-low / step)


def _codes(rows: Array, step: Array, zero: Array, bits: int, symmetric: bool) -> Array:
    most = 2**bits - (2 if symmetric else 1)
    steps = jnp.round(rows / step[:, None])
    return jnp.clip(steps + zero[:, None], 0, most)


def _values(codes: Array, step: Array, zero: Array) -> Array:
    return (codes - zero[:, None]) * step[:, None]


def rounded(
    values: Array,
    low: float | Array,
    high: float | Array,
    *,
    bits: int,
    symmetric: bool = False,
) -> Array:
    """Return values as a grid between given bounds represents them.

    For activations, whose bounds were found before. The gradient passes as if nothing
    had been rounded, and is 0 for what was clipped.

    Args:
      values: floating, of any shape.
      low: where the grid begins, a scalar; at most 0.
      high: where it ends; at least 0.
      bits: 2 to 8.
      symmetric: whether 0.0 is in the middle.

    Raises:
      ValueError: if the values are not floating or the bits are not 2 to 8.

    >>> rounded(jnp.array([-9.0, 0.4, 1.2]), -1.0, 2.0, bits=2)
    Array([-1.,  0.,  1.], dtype=float32)
    """
    values = jnp.asarray(values)
    check("quantize.rounded", values, bits)
    wide = upcast(values)
    low, high = (jnp.asarray(x, wide.dtype).reshape(1) for x in (low, high))
    step, zero = grid(low, high, bits=bits, symmetric=symmetric)
    most = 2**bits - (2 if symmetric else 1)
    first, last = (-zero * step)[0], ((most - zero) * step)[0]
    # not by clip, whose gradient is a half at the ends: at every 0 of a ReLU
    inside = (first <= wide) & (wide <= last)
    within = jnp.where(inside, wide, jax.lax.stop_gradient(jnp.clip(wide, first, last)))
    held = jax.lax.stop_gradient(within)
    rows = held.reshape(1, -1)
    near = _values(_codes(rows, step, zero, bits, symmetric), step, zero)
    near = finite(near.reshape(wide.shape), values.dtype)
    # first what is exactly 0, as in straight_through
    return (within - held).astype(values.dtype) + near
