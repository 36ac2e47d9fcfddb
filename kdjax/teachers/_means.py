"""How the outputs of several teachers become those of one."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kdjax import checks

Logits = Array | Sequence[Array]


def usable(logits: Logits) -> Array:
    """Return which teachers gave only numbers on this batch.

    All means and weights of this room leave the others out by themselves, so that one
    teacher's NaN does not become its students'.

    Args:
      logits: `[teachers, ..., classes]`, or a sequence of `[..., classes]`.

    Returns:
      `[teachers]` booleans: no NaN, no +inf, no example without a class. (−inf says
      "never" of a class, and is legal.)

    >>> usable(jnp.array([[[0.0, 1.0]], [[jnp.nan, 1.0]]]))
    Array([ True, False], dtype=bool)
    """
    stacked = stacked_logits("usable", logits)
    peaks = stacked.max(axis=-1)  # NaN if one of the classes is
    return jnp.isfinite(peaks).all(axis=tuple(range(1, peaks.ndim)))


def dropped(logits: Logits) -> Array:
    """Return how many teachers `usable` leaves out, a float: to be logged.

    >>> dropped(jnp.array([[[0.0, 1.0]], [[jnp.nan, 1.0]]]))
    Array(1., dtype=float32)
    """
    return (~usable(logits)).sum(dtype=jnp.float32)


def mean_logits(logits: Logits, weights: Any = None) -> Array:
    """Return the weighted mean of the teachers' logits.

    It is the normalised geometric mean of their probabilities. Teachers that are not
    `usable` are left out; where none is left the mean is NaN, so that the train step
    skips the batch.

    Args:
      logits: `[teachers, batch, ..., classes]`, or a sequence of `[batch, ...,
        classes]`.
      weights: `[teachers]` or `[teachers, batch, ...]`, >= 0, divided by their sum
        over the teachers; None weighs all alike.

    Returns:
      `[batch, ..., classes]`.

    Raises:
      ValueError: if the logits are not floating or lack the leading axis, or the
        weights do not fit them.

    Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network",
    https://arxiv.org/abs/1503.02531 (2015), who allow either mean.

    >>> mean_logits(jnp.array([[[0.0, 2.0]], [[4.0, 0.0]]]))
    Array([[2., 1.]], dtype=float32)
    """
    stacked, share, left = _weighted("mean_logits", logits, weights)
    # A weight of 0 times a logit of -inf would be NaN.
    silent = (share == 0) & (stacked == -jnp.inf)
    mean = (jnp.where(silent, 0, stacked) * share).sum(axis=0)
    return jnp.where(left, mean, jnp.nan)


def mean_probabilities(
    logits: Logits, weights: Any = None, *, temperature: float | Array = 1.0
) -> Array:
    """Return logits whose softmax is the weighted mean of the teachers' probabilities.

    `T log(sum_k w_k softmax(z_k / T))`, computed without leaving the log domain, so
    that value and gradient are finite for logits of any size. Given to a loss of the
    same temperature, its softened probabilities are the mean of the softened ones.
    Teachers that are not `usable` are left out; where none is left the mean is NaN, so
    that the train step skips the batch.

    Args:
      logits: `[teachers, batch, ..., classes]`, or a sequence of `[batch, ...,
        classes]`.
      weights: `[teachers]` or `[teachers, batch, ...]`, >= 0, divided by their sum
        over the teachers; None weighs all alike.
      temperature: T > 0.

    Returns:
      `[batch, ..., classes]`; log-probabilities at T = 1. A weight of exactly 0 gets no
      gradient.

    Raises:
      ValueError: if the logits are not floating or lack the leading axis, the weights
        do not fit them, or T is not positive.

    Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network",
    https://arxiv.org/abs/1503.02531 (2015).

    >>> logits = jnp.array([[[0.0, 1e4]], [[0.0, -1e4]]])
    >>> jnp.exp(mean_probabilities(logits))
    Array([[0.5, 0.5]], dtype=float32)
    """
    checks.positive("mean_probabilities", temperature=temperature)
    stacked, share, left = _weighted("mean_probabilities", logits, weights)
    log_probabilities = jax.nn.log_softmax(stacked / temperature, axis=-1)
    share = jnp.broadcast_to(share, stacked.shape)
    mean = temperature * jax.nn.logsumexp(log_probabilities, axis=0, b=share)
    return jnp.where(left, mean, jnp.nan)


def stacked_logits(function: str, logits: Logits) -> Array:
    """Check `[teachers, ..., classes]` and bring it to at least float32."""
    if isinstance(logits, Sequence):
        named = {f"logits[{k}]": one for k, one in enumerate(logits)}
        checks.logits(function, **named)
        logits = jnp.stack(logits) if logits else jnp.zeros((0, 1, 1))
    checks.logits(function, logits=logits)
    if logits.ndim < 2 or logits.shape[0] == 0:
        raise ValueError(
            f"{function}: logits must be [teachers, ..., classes] with at least one "
            f"teacher, got {list(logits.shape)}"
        )
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def cleaned(logits: Array) -> tuple[Array, Array]:
    """Return logits with zeros for what is not usable, and `[teachers, 1, ...]` of it.

    Zeros, because a weight of 0 does not stop a NaN, nor its gradient.
    """
    kept = usable(logits).reshape(-1, *[1] * (logits.ndim - 1))
    return jnp.where(kept, logits, 0), kept


def _weighted(
    function: str, logits: Logits, weights: Any
) -> tuple[Array, Array, Array]:
    """Return clean logits, `[teachers, ..., 1]` shares, and where a teacher is left."""
    stacked = stacked_logits(function, logits)
    stacked, kept = cleaned(stacked)
    shape = stacked.shape[:-1]
    if weights is None:
        weights = np.ones(shape[:1])
    if not isinstance(weights, jax.core.Tracer):
        least = np.asarray(weights).min(initial=0)
        if least < 0:
            raise ValueError(f"{function}: weights must be >= 0, got {least:g}")
    weights = jnp.asarray(weights)
    if weights.shape not in (shape[:1], shape):
        raise ValueError(
            f"{function}: weights must be [teachers] or [teachers, ...] as the logits: "
            f"weights {list(weights.shape)}, logits {list(stacked.shape)}"
        )
    weights = weights.reshape(weights.shape + (1,) * (stacked.ndim - weights.ndim))
    weights = jnp.where(kept, weights, 0).astype(stacked.dtype)
    total = weights.sum(axis=0, keepdims=True)
    left = total > 0
    return stacked, weights / jnp.where(left, total, 1), left[0]
