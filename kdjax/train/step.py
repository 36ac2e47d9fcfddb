"""One step of training a student beside a frozen teacher."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from kdjax import objectives
from kdjax.base import Batch, PyTree, Select, rows
from kdjax.teachers import Past
from kdjax.train.gradients import Gradients, Task
from kdjax.train.sharding import Shardings
from kdjax.train.state import TrainState, check_past

Metrics = dict[str, Array]
Done = tuple[TrainState, Metrics]
Pure = Callable[[TrainState, Any, Any], Done]


@dataclasses.dataclass(frozen=True)
class Step:
    """A compiled step `step(state, teacher_variables, batch) -> (state, metrics)`.

    Only the state is donated: its arrays are gone after the call, the teacher's and the
    batch's are not.

    Attributes:
      pure: the same function uncompiled, for `vmap`, `scan` and the like.
      blame: `blame(state, teacher_variables, batch) -> {term: reason}` names the terms
        that make a step not finite; compiled only when asked.
    """

    pure: Pure
    blame: Callable[[TrainState, Any, Any], dict[str, str]]

    @functools.cached_property
    def compiled(self) -> Any:
        """The jitted function, with `lower` and the rest of its interface."""
        return jax.jit(self.pure, donate_argnums=0)

    def __call__(self, state: TrainState, teacher_variables: Any, batch: Any) -> Done:
        """Do one step."""
        return self.compiled(state, teacher_variables, batch)


def _finite(tree: PyTree) -> Array:
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def _advance(
    state: TrainState,
    tx: optax.GradientTransformation,
    found: Gradients,
    norm: Array,
    past: Past | None,
) -> TrainState:
    """Apply a gradient; if anything is not finite, change only the counters."""
    updates, opt_state = tx.update(found.gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    # One figure that is finite only if the loss and all of the gradient are: a look at
    # every leaf costs another pass over the gradient.
    good = _finite((found.loss + norm, found.rest))
    new = (params, found.rest, opt_state)
    old = (state.params, state.rest, state.opt_state)
    params, rest, opt_state = jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)
    remembered = state.past
    if past is not None:
        remembered = jax.lax.cond(
            good,
            past.update,
            lambda held, *_: held,
            state.past,
            {"params": params, **rest},
            state.step + 1,
        )
    return TrainState(
        step=state.step + 1,
        params=params,
        rest=rest,
        opt_state=opt_state,
        key=state.key,
        skipped=state.skipped + ~good,
        skipped_in_a_row=jnp.where(good, 0, state.skipped_in_a_row + 1),
        past=remembered,
    )


def advance(
    state: TrainState,
    tx: optax.GradientTransformation,
    found: Gradients,
    past: Past | None = None,
) -> Done:
    """Return the next state and what a step reports."""
    norm = optax.tree.norm(found.gradient)
    state = _advance(state, tx, found, norm, past)
    return state, {
        **found.means,
        "loss": found.loss,
        "step": state.step,
        "gradient_norm": norm,
        "skipped": state.skipped,
        "skipped_in_a_row": state.skipped_in_a_row,
    }


def make_step(
    student_apply: Callable[..., Any],
    teacher_apply: Callable[..., Any] | None,
    objective: objectives.Objective,
    tx: optax.GradientTransformation,
    *,
    past: Past | None = None,
    accumulate: int = 1,
    shardings: Shardings | None = None,
    inputs: Select = "image",
) -> Step:
    """Return the step that trains a student beside a frozen teacher.

    The teacher runs in evaluation mode and outside the gradient. A step whose loss,
    gradient norm or batch statistics are not finite changes nothing but the counters.

    Args:
      student_apply: the student's `Network.apply`.
      teacher_apply: the teacher's, or None: the objective then gets None.
      objective: `objective(student, teacher, batch) -> {name: term}`, see `objectives`.
      tx: the optimizer.
      past: what the state keeps of the student's past (`teachers.ema`,
        `teachers.snapshots`; give it to `train.init`, too). The teacher then reads its
        variables from there; where the step is given teacher variables as well, it
        reads the pair `(given, past)`, as a `teachers.mixture` of two does.
      accumulate: into how many equal parts the batch is cut, one in memory at a time.
        The update equals the whole batch's, masked means included, for networks and
        learned parts without batch statistics and dropout, objectives without
        relations between examples, and teachers of which none is dropped.
      shardings: over which devices the step is spread, and how; give it a state, a
        teacher and batches that lie so. It computes what one device would: relations
        and batch statistics are those of the whole batch. None: the arguments say.
      inputs: the field of the batch that both networks read, or a function of it.

    Returns:
      A `Step`. Its metrics are scalars: `step` (the number of the step just done, from
      1), `loss`, every term by name, `gradient_norm`, `skipped`, `skipped_in_a_row`.

    Raises:
      ValueError: at once for `accumulate` < 1 or a `past` that is none; when first
        traced, if a term is no scalar or is named like one of those metrics, if the
        batch lacks the field, if `accumulate` does not divide it, or if step and state
        do not have the same `past`.

    Example::

        def objective(student, teacher, batch):
            soft = losses.soft_target_kl(student.logits, teacher.logits)
            return {"soft": soft.mean()}

        step = train.make_step(student.apply, teacher.apply, objective, tx)
        state, metrics = step(state, teacher_variables, batch)
    """
    if accumulate < 1:
        raise ValueError(f"make_step: accumulate must be at least 1, got {accumulate}")
    check_past("make_step", past)
    task = Task(student_apply, teacher_apply, objective, inputs, shardings)
    pure = pure_step(task, tx, past, accumulate)

    def blame(state: TrainState, teacher: Any, batch: Batch) -> dict[str, str]:
        return reasons(task, state, _with_past(past, state, teacher), rows(batch))

    return Step(pure, blame)


def pure_step(
    task: Task,
    tx: optax.GradientTransformation,
    past: Past | None = None,
    accumulate: int = 1,
) -> Pure:
    """Return `pure(state, teacher, batch) -> (state, metrics)`, not compiled."""

    def pure(state: TrainState, teacher: Any, batch: Batch) -> Done:
        batch = rows(batch)
        key = jax.random.fold_in(state.key, state.step)
        teacher = _with_past(past, state, teacher)
        if accumulate == 1:
            taught = task.teach(teacher, batch, key)
            found = task.gradients(state, state.rest, key, taught, batch)
        else:
            found = task.accumulated(state, key, teacher, batch, accumulate)
        return in_place(task.shardings, *advance(state, tx, found, past))

    return pure


def in_place(shardings: Shardings | None, state: TrainState, metrics: Metrics) -> Done:
    """Keep a state where it lies, and have its metrics on every device."""
    if shardings is None:
        return state, metrics
    everywhere = jax.lax.with_sharding_constraint(metrics, shardings.everywhere)
    return shardings.constrain(state), everywhere


def _with_past(past: Past | None, state: TrainState, teacher: Any) -> Any:
    """Return what the teacher's `apply` is given as its variables."""
    if (past is None) != (not jax.tree.leaves(state.past)):
        which = "the step has one, the state none" if past else "only the state has one"
        raise ValueError(
            f"past: {which}; give the same to train.init (or from_variables) and to "
            "make_step"
        )
    if past is None:
        return teacher
    own = past.read(state.past)
    return own if teacher is None else (teacher, own)


def reasons(
    task: Task, state: TrainState, teacher: Any, batch: Batch
) -> dict[str, str]:
    """Say of each term that is not finite if its value or its gradient is the cause."""
    key = jax.random.fold_in(state.key, state.step)
    taught = jax.jit(task.teach)(teacher, batch, key)

    def terms(params: PyTree) -> dict[str, Array]:
        pairs, _ = task.terms(params, state.rest, key, state.step, taught, batch)
        return {
            name: objectives.mean(*pair)
            for name, pair in pairs.items()
            if objectives.in_loss(pair)
        }

    found = {}
    for name in jax.eval_shape(terms, state.params):
        # One term at a time: a zero cotangent times an infinite derivative is not a
        # number, so together one would be blamed for another's fault.
        of_term = jax.jit(jax.value_and_grad(lambda params, n=name: terms(params)[n]))
        value, gradient = of_term(state.params)
        if not np.isfinite(value):
            found[name] = f"its value is {value}"
        elif not np.isfinite(norm := float(optax.tree.norm(gradient))):
            found[name] = f"the norm of its gradient is {norm} (its value {value:.4g})"
    return found
