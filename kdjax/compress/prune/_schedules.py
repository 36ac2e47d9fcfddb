"""Sparsity as a function of the training step."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from kdjax import checks

Schedule = Callable[[Any], Array]
"""`schedule(step) -> sparsity` in [0, 1] that never falls."""


def one_shot(sparsity: float | Array, *, at: int = 0) -> Schedule:
    """Prune everything in one step.

    Args:
      sparsity: fraction of the weights to prune, in [0, 1]; may be traced.
      at: the step.

    Raises:
      ValueError: if the sparsity cannot be.

    >>> [float(one_shot(0.5, at=2)(step)) for step in (0, 1, 2, 3)]
    [0.0, 0.0, 0.5, 0.5]
    """
    checks.fraction("prune.one_shot", sparsity=sparsity)
    return lambda step: jnp.where(step >= at, sparsity, 0.0)


def iterative(
    sparsity: float | Array, *, rounds: int, every: int, start: int = 0
) -> Schedule:
    """Prune in rounds, in each the same fraction of what is left.

    `1 − (1 − sparsity)^(r / rounds)` after round r: Han et al.,
    https://arxiv.org/abs/1506.02626 (2015).

    Args:
      sparsity: fraction of the weights that is pruned after the last round, in [0, 1].
      rounds: how many.
      every: steps from one to the next, in which the network recovers.
      start: step of the first.

    Raises:
      ValueError: if a number cannot be.

    >>> twice = iterative(0.75, rounds=2, every=10)
    >>> [round(float(twice(step)), 2) for step in (0, 9, 10)]
    [0.5, 0.5, 0.75]
    """
    checks.fraction("prune.iterative", sparsity=sparsity)
    checks.integer("prune.iterative", 1, rounds=rounds, every=every)

    def schedule(step: Any) -> Array:
        done = jnp.clip((step - start) // every + 1, 0, rounds)
        # at the last round exactly, whatever the power rounds to
        rest = (1 - jnp.asarray(sparsity)) ** (done / rounds)
        return jnp.where(done == rounds, sparsity, jnp.where(done > 0, 1 - rest, 0.0))

    return schedule


def cubic(
    sparsity: float | Array, *, start: int, stop: int, initial: float | Array = 0.0
) -> Schedule:
    """Prune gradually: fast while much is redundant, slowly towards the end.

    `s − (s − initial) (1 − (step − start) / (stop − start))³`.

    Args:
      sparsity: fraction of the weights that is pruned from `stop` on, in [0, 1].
      start: step at which pruning begins.
      stop: step at which it ends; leave some training after it.
      initial: the sparsity at `start`, in [0, 1].

    Raises:
      ValueError: if a number cannot be.

    Source: Zhu and Gupta, "To prune, or not to prune", https://arxiv.org/abs/1710.01878
    (2017).

    >>> [round(float(cubic(0.8, start=0, stop=10)(step)), 2) for step in (0, 5, 20)]
    [0.0, 0.7, 0.8]
    """
    checks.fraction("prune.cubic", sparsity=sparsity, initial=initial)
    checks.fraction("prune.cubic", **{"sparsity - initial": sparsity - initial})
    checks.positive("prune.cubic", **{"stop - start": stop - start})

    def schedule(step: Any) -> Array:
        left = 1 - jnp.clip((step - start) / (stop - start), 0.0, 1.0)
        reached = sparsity - (sparsity - initial) * left**3
        return jnp.where(step >= start, reached, 0.0)

    return schedule
