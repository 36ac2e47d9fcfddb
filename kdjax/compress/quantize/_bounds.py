"""Where a grid of evenly spaced values begins and ends."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kdjax import checks

Pair = tuple[Array, Array]
Bounds = Callable[[Array, Callable[[Array, Array], Array]], Pair]
"""`bounds(rows, rounded) -> (low, high)`, each `[channels]`, for rows `[channels, n]`.
`rounded(low, high)` gives the rows as a grid between these would represent them."""


def min_max(rows: Array, rounded: Callable[[Array, Array], Array]) -> Pair:
    """Take the smallest and the largest value: nothing is clipped.

    >>> low, high = min_max(jnp.array([[-1.0, 0.5, 3.0]]), None)
    >>> float(low[0]), float(high[0])
    (-1.0, 3.0)
    """
    return rows.min(1, initial=0.0), rows.max(1, initial=0.0)


@functools.cache  # the same bounds are the same function, and one compiled program
def percentile(kept: float) -> Bounds:
    """Return bounds that hold this part of the values, in percent; the rest is clipped.

    Args:
      kept: in (0, 100]; half of the rest lies above the bounds, half below.

    Raises:
      ValueError: if it is not.

    >>> low, high = percentile(50)(jnp.arange(-50.0, 51.0)[None], None)
    >>> float(low[0]), float(high[0])
    (-25.0, 25.0)
    """
    if not 0 < kept <= 100:
        raise ValueError(f"quantize.percentile: kept must be in (0, 100], got {kept}")
    out = (1 - kept / 100) / 2

    def bounds(rows: Array, rounded: Callable[[Array, Array], Array]) -> Pair:
        if not rows.size:
            return min_max(rows, rounded)
        low, high = jnp.quantile(rows, jnp.array([out, 1 - out]), axis=1)
        return jnp.minimum(low, 0.0), jnp.maximum(high, 0.0)

    return bounds


@functools.cache
def mse(steps: int = 40, least: float = 0.1) -> Bounds:
    """Return bounds with the smallest mean squared error, found by trying.

    What is clipped costs error at the ends, what is not costs it everywhere, for the
    grid is coarser. Tried are shares of the smallest and largest value, of each channel
    and of all together, so that bounds for each channel are never worse than common
    ones.

    Args:
      steps: how many shares.
      least: the smallest share, in (0, 1]; the largest is 1.

    Raises:
      ValueError: if a number cannot be.

    Source: Banner, Nahshan and Soudry, "Post training 4-bit quantization of
    convolutional networks", https://arxiv.org/abs/1810.05723 (2019).

    >>> import numpy as np
    >>> from kdjax.compress import quantize
    >>> x = jnp.asarray(np.random.default_rng(0).normal(size=(1000, 1)), "float32")
    >>> error = lambda q: float(jnp.square(q.dequantized() - x).mean())
    >>> error(quantize.uniform(x, bits=3, bounds=mse())) < 0.6 * error(
    ...     quantize.uniform(x, bits=3))
    True
    """
    checks.integer("quantize.mse", 1, steps=steps)
    checks.positive("quantize.mse", least=least)
    checks.fraction("quantize.mse", least=least)
    shares = np.linspace(1.0, least, steps)

    def bounds(rows: Array, rounded: Callable[[Array, Array], Array]) -> Pair:
        def error(low: Array, high: Array) -> Array:
            return jnp.square(rounded(low, high) - rows).sum(1)

        low, high = min_max(rows, rounded)
        ends = low.min(initial=0.0), high.max(initial=0.0)
        wide = jnp.full_like(low, ends[0]), jnp.full_like(high, ends[1])

        def tried(share: Array) -> tuple[Pair, Array, Pair, Array]:
            own = share * low, share * high
            common = share * wide[0], share * wide[1]
            return own, error(*own), common, error(*common)

        # one share at a time: all at once would take `steps` times the memory
        own, errors, common, other_errors = jax.lax.map(
            tried, jnp.asarray(shares, rows.dtype)
        )
        # of equals the first, the widest
        one = _at(own, errors.argmin(0)[None])
        all_ = _at(common, other_errors.sum(1, keepdims=True).argmin(0)[None])
        better = error(*all_) < error(*one)
        return jnp.where(better, all_[0], one[0]), jnp.where(better, all_[1], one[1])

    return bounds


def check_bounds(function: str, bounds: Any) -> None:
    """Raise ValueError for what only returns bounds, or is nothing to call."""
    if bounds in (percentile, mse) or not callable(bounds):
        given = getattr(bounds, "__name__", repr(bounds))
        raise ValueError(
            f"{function}: bounds must be quantize.min_max, quantize.percentile(99.9) "
            f"or quantize.mse(), got {given}"
        )


def _at(ends: Pair, best: Array) -> Pair:
    """Return the ends `[channels]` at the best of `[steps, channels]`."""
    low, high = (jnp.take_along_axis(end, best, axis=0)[0] for end in ends)
    return low, high
