"""Measure a network over a data set, batch by batch, padding left out."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.base import Batch, Outputs, Select, Variables, pick
from kdjax.train.sharding import Shardings

Measure = Callable[[Outputs, Any, Batch], dict[str, Any]]
Evaluate = Callable[..., dict[str, Any]]


def make_eval(
    apply: Callable[..., Any],
    measure: Measure,
    *,
    teacher_apply: Callable[..., Any] | None = None,
    shardings: Shardings | None = None,
    inputs: Select = "image",
) -> Evaluate:
    """Return `evaluate(variables, batches, teacher_variables=None) -> {name: mean}`.

    Args:
      apply: a `Network.apply`; it runs in evaluation mode.
      measure: `measure(outputs, teacher_outputs, batch) -> {name: [batch, ...]}`, such
        as `metrics.classification`: one row per example.
      teacher_apply: the teacher's, or None: `measure` then gets None.
      shardings: over which devices it is spread; give it variables and batches that lie
        so, as `data.epoch(sharding=)` makes them.
      inputs: the field of the batch that both networks read, or a function of it.

    Returns:
      A function whose result holds the mean of every measured row over all examples:
      a float, or an array where a row is one. A batch's `mask` `[batch]` of booleans,
      where there is one, says which rows are examples and which are padding.
    """

    @jax.jit
    def sums(variables: Variables, teacher_variables: Any, batch: Batch) -> Any:
        read = pick(batch, inputs)
        outputs, _ = apply(variables, read)
        teacher = None
        if teacher_apply is not None:
            teacher, _ = teacher_apply(teacher_variables, read)
        measured = measure(outputs, teacher, batch)
        rows = len(jax.tree.leaves(measured)[0])
        mask = batch.get("mask", jnp.ones(rows, bool))
        totals = jax.tree.map(lambda values: _total(values, mask), measured), mask.sum()
        if shardings is None:
            return totals
        return jax.lax.with_sharding_constraint(totals, shardings.everywhere)

    def evaluate(
        variables: Variables, batches: Iterable[Batch], teacher_variables: Any = None
    ) -> dict[str, Any]:
        gathered = [sums(variables, teacher_variables, batch) for batch in batches]
        if not gathered:
            raise ValueError("evaluate: there are no batches to measure on")
        totals, counts = zip(*jax.device_get(gathered), strict=True)
        count = np.float64(sum(counts))
        if not count:
            raise ValueError("evaluate: the masks leave no example to measure")
        summed = jax.tree.map(lambda *x: np.sum(x, axis=0, dtype=np.float64), *totals)
        return {
            k: v / count if np.ndim(v) else float(v / count) for k, v in summed.items()
        }

    return evaluate


def _total(values: Any, mask: Any) -> Any:
    """Sum the rows that the mask keeps; what it drops may be NaN."""
    keep = mask.reshape(mask.shape + (1,) * (values.ndim - 1))
    return jnp.where(keep, values, 0).sum(0)
