"""Which leaves of a tree are compressed."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

Where = Callable[[str, Any], bool]
"""`where(path, leaf)`: whether a leaf takes part."""


def weights(path: str, leaf: Any) -> bool:
    """Say whether a leaf holds weights: real numbers of two axes or more.

    Biases and the scales of norms stay out, by their names too, for heads and loops
    give them more axes: they are few, and much depends on them. Learned parts of losses
    (`networks.with_parts`) are weights as others are; to leave them as they are::

        where=lambda path, leaf: weights(path, leaf) and "parts/" not in path

    >>> [weights(path, jnp.ones((2, 3))) for path in ("dense/kernel", "query/bias")]
    [True, False]
    """
    name = path.removesuffix("/value").rpartition("/")[2]  # NNX: kernel/value
    real = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    few = name == "scale" or name.endswith("bias")
    return real and jnp.ndim(leaf) >= 2 and not few
