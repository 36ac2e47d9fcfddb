"""Which of many scores are not among the lowest, without sorting them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array


@jax.jit
def above(scores: Array, pruned: Array | int) -> Array:
    """Say of each score whether it is not among the lowest `pruned` ones.

    Of equal scores the first ones are the lower. A sort gives the same; this finds the
    last of the lowest bit by bit, by counting, which takes a small part of the time on
    a CPU, no memory, and only sums where the scores are spread over devices.

    Args:
      scores: floating, of any shape; what is no number is above all that is.
      pruned: how many, from none to all.

    Returns:
      Booleans of the shape of the scores.

    >>> above(jnp.array([3.0, 1.0, 1.0, 2.0]), 2)
    Array([ True, False, False,  True], dtype=bool)
    """
    keys = _ordered(scores.ravel())
    last = _largest(lambda bound: (keys < bound).sum() < pruned, keys.dtype)
    # of those that are as low as the last one as many as are missing, by their place
    lower, equal = keys < last, keys == last
    missing = pruned - lower.sum()
    places = jnp.arange(keys.size, dtype=jnp.uint32)
    place = _largest(
        lambda bound: (equal & (places < bound)).sum() < missing, jnp.dtype(jnp.uint32)
    )
    chosen = equal & (places <= place) & (missing > 0)
    return ~(lower | chosen).reshape(scores.shape)


def _ordered(scores: Array) -> Array:
    """Return integers without sign that are ordered as the scores are."""
    bits = 8 * scores.dtype.itemsize
    kind = jnp.dtype(f"uint{bits}")
    raw = jax.lax.bitcast_convert_type(scores, kind)
    sign = jnp.array(1 << (bits - 1), kind)
    raw = jnp.where(raw == sign, jnp.zeros_like(raw), raw)  # -0 is 0
    keys = jnp.where(raw & sign, ~raw, raw | sign)
    # what is no number may have a sign, too
    return jnp.where(jnp.isnan(scores), ~jnp.zeros_like(raw), keys)


def _largest(holds: Callable[[Array], Array], kind: jnp.dtype) -> Array:
    """Return the largest integer for which it holds, 0 if for none.

    It must hold for all smaller ones too.
    """
    bits = 8 * kind.itemsize

    def with_bit(number: Array, found: Array) -> Array:
        tried = found | (jnp.ones((), kind) << (bits - 1 - number).astype(kind))
        return jnp.where(holds(tried), tried, found)

    return jax.lax.fori_loop(0, bits, with_bit, jnp.zeros((), kind))
