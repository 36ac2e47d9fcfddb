"""How the outputs of several teachers become those of one."""

import math

import jax
from jax import Array

from kdjax import checks


def mean_logits(logits: Array) -> Array:
    """Return the mean of the teachers' logits.

    It is the normalised geometric mean of their probabilities.

    Args:
      logits: `[teachers, batch, ..., classes]`.

    Returns:
      `[batch, ..., classes]`.

    Raises:
      ValueError: if the logits are not floating or lack the leading axis.

    Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network",
    https://arxiv.org/abs/1503.02531 (2015), who allow either mean.

    >>> mean_logits(jax.numpy.array([[[0.0, 2.0]], [[4.0, 0.0]]]))
    Array([[2., 1.]], dtype=float32)
    """
    _check_stacked("mean_logits", logits)
    return _at_least_float32(logits).mean(axis=0)


def mean_probabilities(logits: Array) -> Array:
    """Return the logarithm of the mean of the teachers' probabilities.

    `log(1/K * sum_k softmax(z_k))`, computed without leaving the log domain, so that
    value and gradient are finite for logits of any size. The result is normalised: its
    softmax is the mean itself.

    Args:
      logits: `[teachers, batch, ..., classes]`.

    Returns:
      `[batch, ..., classes]`.

    Raises:
      ValueError: if the logits are not floating or lack the leading axis.

    Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network",
    https://arxiv.org/abs/1503.02531 (2015).

    >>> logits = jax.numpy.array([[[0.0, 1e4]], [[0.0, -1e4]]])
    >>> jax.numpy.exp(mean_probabilities(logits))
    Array([[0.5, 0.5]], dtype=float32)
    """
    _check_stacked("mean_probabilities", logits)
    log_probabilities = jax.nn.log_softmax(_at_least_float32(logits), axis=-1)
    return jax.nn.logsumexp(log_probabilities, axis=0) - math.log(len(logits))


def _at_least_float32(logits: Array) -> Array:
    return logits.astype(jax.numpy.promote_types(logits.dtype, jax.numpy.float32))


def _check_stacked(function: str, logits: Array) -> None:
    checks.logits(function, logits=logits)
    if logits.ndim < 2 or logits.shape[0] == 0:
        raise ValueError(
            f"{function}: logits must be [teachers, ..., classes] with at least one "
            f"teacher, got {list(logits.shape)}"
        )
