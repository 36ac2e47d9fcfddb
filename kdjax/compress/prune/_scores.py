"""What a weight is worth: the lowest scores are pruned first."""

import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

Score = Callable[[str, Array], Array]
"""`score(path, weights) -> scores` of the same shape, floating, none negative. Those
of a unit's weights are summed up, but those of `random`."""


def scored(function: str, score: Score, path: str, weights: Array) -> Array:
    """Return the scores of an array.

    Raises:
      ValueError: if it is no score, or not floating and one for each weight.
    """
    if score is random or not callable(score):
        raise ValueError(
            f"{function}: score must be prune.l1, prune.l2, prune.random(key) or a "
            f"function of a path and weights, got {getattr(score, '__name__', score)}"
        )
    scores = score(path, weights)
    shape = jnp.shape(weights)
    if jnp.shape(scores) != shape or not jnp.issubdtype(
        jnp.result_type(scores), jnp.floating
    ):
        raise ValueError(
            f"{function}: score must return "
            f"floating scores {list(shape)} of {path!r}, got "
            f"{jnp.result_type(scores)}{list(jnp.shape(scores))}"
        )
    return jnp.asarray(scores)


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

    Single weights have the order that `l1` gives them, where squares neither overflow
    nor vanish; units have another one.

    >>> l2("kernel", jnp.array([-2.0, 1.0]))
    Array([4., 1.], dtype=float32)
    """
    return jnp.square(_at_least_float32(weights))


class Drawn:
    """Scores drawn at random; a unit has its own, not the sum of its weights'."""

    def __init__(self, key: Array) -> None:
        """Remember the key."""
        self._key = key

    def __call__(self, path: str, weights: Array) -> Array:
        """Return one score for each weight."""
        own = jax.random.fold_in(self._key, zlib.crc32(path.encode()))
        return jax.random.uniform(own, jnp.shape(weights))


def random(key: Array) -> Score:
    """Return a score drawn at random: what every other one has to beat.

    Args:
      key: random key; the same one prunes the same weights, and more of them at a
        higher sparsity.

    Raises:
      ValueError: if it is no key.

    >>> random(jax.random.key(0))("kernel", jnp.ones(3)).shape
    (3,)
    """
    try:
        jax.random.key_data(key)
    except TypeError as error:
        raise ValueError(
            f"prune.random: key must be one, such as jax.random.key(0), got {key!r}"
        ) from error
    return Drawn(key)
