"""What a weight is worth: the lowest scores are pruned first."""

import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

Score = Callable[[str, Array], Array]
"""`score(path, weights) -> scores` of the same shape, none negative. The scores of a
unit's weights are summed up."""


def _at_least_float32(weights: Array) -> Array:
    weights = jnp.asarray(weights)  # NumPy's float64 becomes what JAX holds
    return weights.astype(jnp.promote_types(weights.dtype, jnp.float32))


def l1(path: str, weights: Array) -> Array:
    """Score weights by `|w|`, units by the L1 norm: magnitude pruning.

    Han et al., "Learning both weights and connections for efficient neural networks",
    https://arxiv.org/abs/1506.02626 (2015); filters: Li et al., "Pruning filters for
    efficient ConvNets", https://arxiv.org/abs/1608.08710 (2017).

    >>> l1("kernel", jnp.array([-2.0, 1.0]))
    Array([2., 1.], dtype=float32)
    """
    return jnp.abs(_at_least_float32(weights))


def l2(path: str, weights: Array) -> Array:
    """Score weights by `w²`, units by the (squared) L2 norm.

    Single weights have the order that `l1` gives them; units have another one.

    >>> l2("kernel", jnp.array([-2.0, 1.0]))
    Array([4., 1.], dtype=float32)
    """
    return jnp.square(_at_least_float32(weights))


def random(key: Array) -> Score:
    """Return a score drawn at random: what every other one has to beat.

    Args:
      key: random key; the same one prunes the same weights, and more of them at a
        higher sparsity.

    >>> random(jax.random.key(0))("kernel", jnp.ones(3)).shape
    (3,)
    """

    def score(path: str, weights: Array) -> Array:
        own = jax.random.fold_in(key, zlib.crc32(path.encode()))
        return jax.random.uniform(own, jnp.shape(weights))

    return score
