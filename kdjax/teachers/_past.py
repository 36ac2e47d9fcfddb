"""A student's own past as its teacher."""

import dataclasses
import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import checks, trees
from kdjax.base import PyTree, Variables


@dataclasses.dataclass(frozen=True)
class Past:
    """What a training state keeps of earlier variables, as three pure functions.

    Given to `train.init` and `train.make_step`, it lies in the state: donated with it,
    saved and resumed with it.

    Attributes:
      init: `init(variables) -> past`.
      update: `update(past, variables, step) -> past`, after every step that is not
        skipped; `step` counts from 1.
      read: `read(past) -> variables` of the teacher.
    """

    init: Callable[[Variables], PyTree]
    update: Callable[[PyTree, Variables, Any], PyTree]
    read: Callable[[PyTree], Variables]


def ema(decay: float = 0.999, *, warmup: bool = True) -> Past:
    """Keep the exponential moving average of all variables: the mean teacher.

    `m ← d·m + (1 − d)·v` after every step that is not skipped, with `d = min(decay,
    (1 + step) / (10 + step))`, so that the random start is soon forgotten. What is not
    floating is copied. The average of half-precision variables is float32: theirs would
    lose the small steps. The teacher's network is the student's own.

    Args:
      decay: in [0, 1].
      warmup: whether the decay grows as above, or is the same from the start.

    Returns:
      A `Past` that reads as the variables of one network.

    Raises:
      ValueError: if `decay` is outside [0, 1].

    Tarvainen and Valpola, "Mean teachers are better role models",
    https://arxiv.org/abs/1703.01780 (2017).

    >>> past = ema(0.5, warmup=False)
    >>> past.update({"params": jnp.zeros(2)}, {"params": jnp.ones(2)}, 1)
    {'params': Array([0.5, 0.5], dtype=float32)}
    """
    checks.fraction("ema", decay=decay)

    def update(held: Variables, variables: Variables, step: Any) -> Variables:
        rate = jnp.minimum(decay, (1 + step) / (10 + step)) if warmup else decay

        def blend(old: Any, new: Any) -> Any:
            if not _averaged(new):
                return new
            return old + (1 - jnp.asarray(rate, old.dtype)) * (new - old)

        return jax.tree.map(blend, held, variables)

    return Past(lambda held: jax.tree.map(_widened, held), update, lambda held: held)


def _averaged(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def _widened(leaf: Any) -> Any:
    if not _averaged(leaf):
        return leaf
    kind = jnp.result_type(leaf)
    return jnp.asarray(leaf, jnp.promote_types(kind, jnp.float32))


def snapshots(size: int, *, every: int) -> Past:
    """Keep the variables of the last `size` multiples of `every` steps, stacked.

    They are one ring; the newest overwrites the oldest. A step that is skipped, because
    something in it was not finite, takes none. The first snapshot fills all
    places, and before it they hold the variables at the start: give the objective a
    weight of 0 until then.
    The teacher's network is `ensemble(student, size)`, also for a size of 1.

    Args:
      size: number of snapshots, at least 1.
      every: steps between two, at least 1.

    Returns:
      A `Past` that reads as stacked variables `[size, ...]`.

    Raises:
      ValueError: if a number is less than 1.

    Yang, Xie, Su and Yuille, "Snapshot Distillation",
    https://arxiv.org/abs/1812.00123 (2018), with one teacher of each cycle.

    >>> past = snapshots(2, every=10)
    >>> held = past.init({"params": jnp.zeros(())})
    >>> for step, value in ((5, 1.0), (10, 2.0), (20, 3.0), (30, 4.0)):
    ...     held = past.update(held, {"params": jnp.float32(value)}, step)
    >>> past.read(held)
    {'params': Array([4., 3.], dtype=float32)}
    """
    checks.positive("snapshots", size=size, every=every)
    for name, number in (("size", size), ("every", every)):
        if not isinstance(number, int | np.integer):
            raise ValueError(f"snapshots: {name} must be an integer, got {number!r}")

    def init(variables: Variables) -> PyTree:
        return {"ring": trees.stack([variables] * size), "taken": jnp.zeros((), int)}

    def take(held: PyTree, variables: Variables) -> PyTree:
        place = jnp.arange(size) == held["taken"] % size
        place = place | (held["taken"] == 0)

        def put(ring: Any, new: Any) -> Any:
            here = place.reshape(size, *[1] * jnp.ndim(new))
            return jnp.where(here, jnp.expand_dims(new, 0), ring)

        ring = jax.tree.map(put, held["ring"], variables)
        return {"ring": ring, "taken": held["taken"] + 1}

    def update(held: PyTree, variables: Variables, step: Any) -> PyTree:
        def leave(held: PyTree, _: Variables) -> PyTree:
            return held

        return jax.lax.cond(step % every == 0, take, leave, held, variables)

    return Past(init, update, lambda held: held["ring"])


def from_checkpoints(
    directory: str | Path, steps: Sequence[int] | int, *, like: Any = None
) -> Variables:
    """Return the variables that a run had at earlier steps, as a teacher's.

    Args:
      directory: of the run's `checkpoint.Checkpoints`; they keep the latest, and those
        that `keep_steps` names.
      steps: one step, or several, in the order wanted.
      like: the state that was saved, or `jax.eval_shape` of it; only needed to place
        its arrays on other devices, or if its variables hold other containers than
        dicts.

    Returns:
      The variables of one step; of several, stacked `[steps, ...]` as `ensemble`
      takes them.

    Raises:
      ValueError: if a step has no checkpoint; it lists those there are.
      CheckpointError: if one cannot be read or is of another network than `like`.

    Example::

        steps = (500, 1000)
        several = teachers.from_checkpoints("run/checkpoints", steps)
        teacher = teachers.ensemble(student, len(steps))
        state, metrics = step(state, several, batch)
    """
    # Only here: orbax takes long to import, and a past of one's own needs none of it.
    from kdjax.checkpoint import Checkpoints

    one = np.ndim(steps) == 0
    wanted = [operator.index(step) for step in np.atleast_1d(np.asarray(steps))]
    if not Path(directory).is_dir():
        raise ValueError(f"from_checkpoints: there is no directory {directory}")
    with Checkpoints(directory, keep=10**9) as checkpoints:
        known = checkpoints.steps()
        if not wanted or set(wanted) - set(known):
            raise ValueError(
                f"from_checkpoints: asked for the steps {wanted}, but {directory} has "
                f"{known or 'none'}; save them with Checkpoints(keep_steps=...)"
            )
        found = [_variables(checkpoints, like, step) for step in wanted]
    return found[0] if one else trees.stack(found)


def _variables(checkpoints: Any, like: Any, step: int) -> Variables:
    from kdjax.checkpoint import CheckpointError

    restored = checkpoints.restore(like, step=step)
    if restored is None:
        raise CheckpointError(
            f"from_checkpoints: checkpoint {step} in {checkpoints.directory} is "
            "damaged and was set aside; take another step, or train again"
        )
    state = restored.state
    if hasattr(state, "variables"):
        return state.variables
    # A training state comes back as a dict of its fields, without empty ones.
    if isinstance(state, dict) and {"params", "opt_state"} <= set(state):
        return {"params": state["params"], **(state.get("rest") or {})}
    return state
