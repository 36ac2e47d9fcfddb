"""Pruning inside of an optimizer: what is pruned stays zero while the rest learns."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from kdjax import checks
from kdjax.base import PyTree
from kdjax.compress._weights import Where, weights
from kdjax.compress.prune._masks import (
    Scope,
    check_mask,
    check_scope,
    sparsity,
    unstructured,
)
from kdjax.compress.prune._schedules import Schedule
from kdjax.compress.prune._scores import Score, l1


class Pruned(NamedTuple):
    """State of an optimizer that prunes; saved and resumed with the training state.

    Attributes:
      step: number of updates done.
      sparsity: what the mask prunes, as a fraction of the weights that take part.
      mask: True stays.
      inner: state of the optimizer inside.
    """

    step: Array
    sparsity: Array
    mask: PyTree
    inner: Any


def fixed(
    tx: optax.GradientTransformation, mask: PyTree | Callable[[PyTree], PyTree]
) -> Any:
    """Return the optimizer that keeps what a mask prunes at zero.

    Gradients of pruned weights are dropped before the optimizer sees them, so that they
    are part of no norm and no momentum. From the first update on they are exactly 0.
    Put it around the whole optimizer: what comes after it in a chain would undo that.

    Args:
      tx: any optimizer.
      mask: booleans like the params, True stays, or a function of the params that
        returns them. It becomes part of the state.

    Raises:
      ValueError: at `init`, if the mask does not fit the params; at `update`, if it is
        given no params.

    >>> params = {"w": jnp.array([3.0, 4.0])}
    >>> tx = fixed(optax.sgd(1.0), {"w": jnp.array([True, False])})
    >>> updates, _ = tx.update({"w": jnp.ones(2)}, tx.init(params), params)
    >>> optax.apply_updates(params, updates)
    {'w': Array([2., 0.], dtype=float32)}
    """

    def begin(params: PyTree) -> Pruned:
        found = mask(params) if callable(mask) else mask
        check_mask("prune.fixed", params, found)
        return Pruned(jnp.zeros((), jnp.int32), sparsity(found), found, tx.init(params))

    return _pruning(tx, begin, lambda params, state: state)


def scheduled(
    tx: optax.GradientTransformation,
    schedule: Schedule,
    *,
    every: int = 1,
    score: Score = l1,
    scope: Scope = "layer",
    where: Where = weights,
) -> Any:
    """Return the optimizer that prunes by a schedule while it trains.

    What is pruned once stays pruned. Scores are looked at only where the schedule has
    risen, at most every so many steps. All of it is in the state, so that a training
    that was interrupted goes on as if it had not been.

    Args:
      tx: any optimizer, the whole of it: see `fixed`.
      schedule: `schedule(step) -> sparsity`, counted from 0: `one_shot`, `iterative`,
        `cubic`.
      every: least number of steps between two changes of the mask.
      score: see `unstructured`.
      scope: see `unstructured`.
      where: which leaves take part.

    Raises:
      ValueError: if the schedule, `every` or the scope cannot be; at `update`, if it is
        given no params, or no leaf takes part.

    >>> from kdjax.compress import prune
    >>> rising = prune.cubic(0.9, start=0, stop=800)
    >>> tx = prune.scheduled(optax.adam(1e-3), rising, every=20)
    """
    if not callable(schedule):
        raise ValueError(
            "prune.scheduled: schedule must be a function of the step, such as "
            f"prune.one_shot(0.5), got {schedule!r}"
        )
    checks.integer("prune.scheduled", 1, every=every)
    check_scope("prune.scheduled", scope)

    def begin(params: PyTree) -> Pruned:
        whole = jax.tree.map(lambda x: jnp.ones(jnp.shape(x), bool), params)
        return Pruned(jnp.zeros((), jnp.int32), jnp.zeros(()), whole, tx.init(params))

    def look(params: PyTree, state: Pruned) -> Pruned:
        wanted = jnp.asarray(schedule(state.step), state.sparsity.dtype)
        due = (wanted > state.sparsity) & (state.step % every == 0)
        mask = jax.lax.cond(
            due,
            lambda: unstructured(
                params,
                wanted,
                score=score,
                scope=scope,
                where=where,
                within=state.mask,
            ),
            lambda: state.mask,
        )
        pruned = jnp.where(due, wanted, state.sparsity)
        return state._replace(sparsity=pruned, mask=mask)

    return _pruning(tx, begin, look)


def _pruning(tx: Any, begin: Any, look: Any) -> Any:
    """Return an optimizer whose mask is brought up to date by `look`."""
    tx = optax.with_extra_args_support(tx)

    def update(
        updates: PyTree, state: Pruned, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, Pruned]:
        if params is None:
            raise ValueError("prune: tx.update needs the params: update(g, s, params)")
        state = look(params, state)
        # the weights too: what decays them or scales by their norm sees no dead ones
        alive, living = (
            jax.tree.map(_zero_unless, state.mask, tree) for tree in (updates, params)
        )
        changes, inner = tx.update(alive, state.inner, living, **extra)
        # minus the weight itself, so that the sum is exactly 0 even the first time; not
        # rounded to a lower precision that the updates may have
        changes = jax.tree.map(
            lambda m, change, w: jnp.where(m, change, -w), state.mask, changes, params
        )
        return changes, state._replace(step=state.step + 1, inner=inner)

    return optax.GradientTransformationExtraArgs(begin, update)


def _zero_unless(mask: Array, values: Array) -> Array:
    return jnp.where(mask, values, jnp.zeros_like(values))


def mask_in(opt_state: Any) -> PyTree:
    """Return the mask in the state of an optimizer, however it is wrapped.

    Raises:
      ValueError: if there is none, or more than one.
    """
    found = _masks(opt_state)
    if len(found) != 1:
        raise ValueError(
            f"prune.mask_in: the state holds {len(found)} masks, not one; it must be "
            "that of prune.fixed or prune.scheduled"
        )
    return found[0]


def _masks(state: Any) -> list[PyTree]:
    """Return all masks in a state, those of an optimizer inside of another too."""
    is_pruned = lambda x: isinstance(x, Pruned)  # noqa: E731
    found = [x for x in jax.tree.leaves(state, is_leaf=is_pruned) if is_pruned(x)]
    return [mask for one in found for mask in (one.mask, *_masks(one.inner))]
