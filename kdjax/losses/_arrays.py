"""What losses of all families share: dtypes, arithmetic that is finite everywhere."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax import checks

Scalar = float | int | Float[Array, ""]
"""A hyper-parameter: a Python number, or a traced one in a sweep."""

Axis = int | Sequence[int]


def upcast(*arrays: Array) -> list[Array]:
    """Bring arrays to one dtype: float64 if one of them has it, else float32."""
    double = any(array.dtype == jnp.float64 for array in arrays)
    dtype = jnp.float64 if double else jnp.float32
    return [array.astype(dtype) for array in arrays]


def scalar(function: str, name: str, value: Scalar, like: Array) -> Array:
    """Check that a hyper-parameter is a scalar and give it the dtype of `like`."""
    checks.scalar(function, **{name: value})
    return jnp.asarray(value, dtype=like.dtype)


def saturated(array: Array, terms: float = 1e6) -> Array:
    """Clip (above 1e16 in float32) so that this many squares have a finite sum."""
    most = (float(jnp.finfo(array.dtype).max) / terms) ** 0.5
    return jnp.clip(array, -most, most)


def squared_difference(a: Array, b: Array) -> Array:
    """Return `(a − b)²`, saturated instead of infinite."""
    return jnp.square(saturated(a - b))


def smooth_l1(difference: Array) -> Array:
    """Return `½ d²` where `|d| < 1`, and `|d| − ½` beyond."""
    size = jnp.abs(difference)
    near = jnp.minimum(size, 1.0)
    return near * (size - 0.5 * near)


def rescaled(array: Array, axis: Axis) -> tuple[Array, Array]:
    """Divide by the largest size along `axis`, which counts as a constant.

    For functions that do not depend on the scale: their value and gradient stay the
    same, and neither squares nor their sums overflow or vanish.

    Returns:
      The rescaled array, and the largest size, reduced along `axis` with its dimensions
      kept. Where that is (nearly) zero, both are 0, and so is the gradient.
    """
    scale = 2.0**-4  # exact, and the reciprocal of the largest peak is no denormal
    array = scale * array
    peak = jax.lax.stop_gradient(jnp.abs(array).max(axis=axis, keepdims=True))
    info = jnp.finfo(array.dtype)
    least = scale * float(info.tiny) / float(info.eps)
    alive = peak > least  # 1/peak has room to be scaled
    unit = jnp.where(alive, array, 0.0) / jnp.where(alive, peak, 1.0)
    return unit, jnp.where(alive, peak, 0.0) / scale


def l2_normalize(array: Array, axis: Axis) -> Array:
    """Divide by the l2 norm along `axis`; zero stays zero, with zero gradient."""
    unit, size = rescaled(array, axis)
    square = jnp.square(unit).sum(axis=axis, keepdims=True)
    return unit / jnp.sqrt(jnp.where(size > 0, square, 1.0))


def normalized_products(products: Array, size: Array) -> Array:
    """L2-normalise the rows of products of rescaled arrays, `[..., rows, columns]`.

    A row's gradient goes as 1 over its largest product and over `size`, by which its
    array was divided, `[..., rows, 1]`. Where that overflows, the row has none.
    """
    constant = jax.lax.stop_gradient(products)
    largest = jnp.abs(constant).max(axis=-1, keepdims=True)
    steep = largest * size < 1e6 * float(jnp.finfo(size.dtype).tiny)
    return l2_normalize(jnp.where(steep, constant, products), axis=-1)


def standardized(array: Array, axis: tuple[int, ...], epsilon: float) -> Array:
    """Return `(x − mean) / (std + ε)` along `axis`, with the unbiased std.

    What is constant is 0, with zero gradient.
    """
    scale = 2.0**-4  # exact, and neither a range nor its reciprocal overflows
    scaled = scale * array
    peak = jax.lax.stop_gradient(scaled.max(axis=axis, keepdims=True))
    span = jax.lax.stop_gradient(peak - scaled.min(axis=axis, keepdims=True))
    varied = span > float(jnp.finfo(array.dtype).tiny)
    # The result does not depend on peak and span, but the rounding does: relative to
    # them nothing cancels, overflows or vanishes.
    span = jnp.where(varied, span, 1.0)
    unit = jnp.where(varied, (scaled - peak) / span, 0.0)
    centred = unit - unit.mean(axis=axis, keepdims=True)
    freedom = max(math.prod(array.shape[i] for i in axis) - 1, 1)
    variance = jnp.square(centred).sum(axis=axis, keepdims=True) / freedom
    std = jnp.sqrt(jnp.where(varied, variance, 1.0))
    return centred / (scale * epsilon / span + std)
