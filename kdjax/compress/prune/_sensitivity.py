"""How much pruning each layer bears."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array

from kdjax import checks
from kdjax.base import PyTree
from kdjax.compress._weights import Where, weights
from kdjax.compress.prune._masks import apply, unstructured
from kdjax.compress.prune._scores import Score, l1
from kdjax.trees import select


def sensitivity(
    measure: Callable[[PyTree], float],
    params: PyTree,
    sparsities: Sequence[float],
    *,
    score: Score = l1,
    where: Where = weights,
) -> dict[str, list[float]]:
    """Measure the network with one layer pruned at a time, without training it.

    Args:
      measure: `measure(params) -> figure`, such as the accuracy on the validation
        split. One compiled program serves all calls.
      params: of the whole network.
      sparsities: which to try, in [0, 1].
      score: see `unstructured`.
      where: which leaves are tried.

    Returns:
      `{path: figures}`, one figure for each sparsity.

    Raises:
      ValueError: if a sparsity cannot be or no leaf takes part.

    Source: Han, Pool, Tran and Dally, "Learning both weights and connections for
    efficient neural networks", https://arxiv.org/abs/1506.02626 (2015), section 3.4.

    >>> params = {"a": jnp.eye(2), "b": jnp.ones((2, 2))}
    >>> total = lambda params: float(params["a"].sum() + params["b"].sum())
    >>> sensitivity(total, params, [0.0, 0.5])
    {'a': [6.0, 6.0], 'b': [6.0, 4.0]}
    """
    for sparsity in sparsities:
        checks.fraction("prune.sensitivity", sparsity=sparsity)
    names = select(params, where)
    if not names:
        raise ValueError("prune.sensitivity: no leaf takes part, where= holds for none")

    # the params as an argument: of constants XLA would sort while it compiles
    @functools.partial(jax.jit, static_argnums=0)
    def pruned(name: str, params: PyTree, sparsity: Array) -> PyTree:
        one = unstructured(
            params, sparsity, score=score, where=lambda path, _: path == name
        )
        return apply(params, one)

    return {
        name: [measure(pruned(name, params, jnp.float32(s))) for s in sparsities]
        for name in names
    }
