"""Which leaves of a tree are compressed."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

Where = Callable[[str, Any], bool]
"""`where(path, leaf)`: whether a leaf takes part."""


def weights(path: str, leaf: Any) -> bool:
    """Say whether a leaf holds weights: real numbers, two axes or more, and no bias.

    Biases and the scales of norms stay out: they are few, and much depends on them.

    >>> [weights(path, jnp.ones((2, 3))) for path in ("dense/kernel", "query/bias")]
    [True, False]
    """
    real = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    return real and jnp.ndim(leaf) >= 2 and not path.endswith("bias")
