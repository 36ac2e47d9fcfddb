"""The step for those who keep a copy of everything on each device: `jax.pmap`."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from kdjax import objectives
from kdjax.base import Batch, Select
from kdjax.train.gradients import Task
from kdjax.train.state import TrainState
from kdjax.train.step import Done, Step, pure_step


@dataclasses.dataclass(frozen=True)
class _Mapped(Step):
    """A step that `jax.pmap` compiles; one copy of the metrics is enough."""

    axis_name: str = "devices"

    @functools.cached_property
    def compiled(self) -> Any:
        return jax.pmap(self.pure, self.axis_name, donate_argnums=0)

    def __call__(self, state: TrainState, teacher_variables: Any, batch: Any) -> Done:
        state, metrics = self.compiled(state, teacher_variables, batch)
        return state, jax.tree.map(lambda x: x[0], metrics)


def pmap_step(
    student_apply: Callable[..., Any],
    teacher_apply: Callable[..., Any] | None,
    objective: objectives.Objective,
    tx: optax.GradientTransformation,
    *,
    axis_name: str = "devices",
    inputs: Select = "image",
) -> Step:
    """Return the step of `make_step` mapped over devices with `jax.pmap`.

    Everything it is given has a leading axis of devices: state and teacher are copies
    (`trees.stack([state] * devices)`), the batch is `[devices, rows of each, ...]`.
    Terms are added up over the devices as sums and counts, so a masked mean is that of
    the whole batch. Losses between examples see the whole batch if they are given
    `axis_name=`. Batch statistics are those of each device's rows, averaged. New code
    is better off with `make_step(shardings=)`, which needs none of this.

    Args:
      student_apply: the student's `Network.apply`.
      teacher_apply: the teacher's, or None.
      objective: as for `make_step`.
      tx: the optimizer.
      axis_name: of the mapped axis, for losses that are given it.
      inputs: as for `make_step`.

    Returns:
      A `Step`; its metrics are scalars.

    Example::

        def objective(student, teacher, batch):
            distances = losses.rkd_distance(
                student.logits, teacher.logits, axis_name="devices"
            )
            return {"distances": distances.mean()}

        step = train.pmap_step(student.apply, teacher.apply, objective, tx)
        state, metrics = step(states, teachers, batch)
    """
    task = Task(student_apply, teacher_apply, objective, inputs, axis_name=axis_name)
    whole = pure_step(task, tx)

    def pure(state: TrainState, teacher: Any, batch: Batch) -> Done:
        # What is drawn for one device's rows is not drawn for another's.
        own = jax.random.fold_in(state.key, jax.lax.axis_index(axis_name))
        done, metrics = whole(dataclasses.replace(state, key=own), teacher, batch)
        return dataclasses.replace(done, key=state.key), metrics

    def blame(state: TrainState, teacher: Any, batch: Batch) -> dict[str, str]:
        def terms(state: TrainState, teacher: Any, batch: Batch) -> Any:
            taught = task.teach(teacher, batch, state.key)
            given = state.params, state.rest, state.key, state.step, taught, batch
            pairs, _ = task.terms(*given)
            return {name: objectives.mean(*pair) for name, pair in pairs.items()}

        values = jax.vmap(terms, axis_name=axis_name)(state, teacher, batch)
        faulty = {n: x for n, x in values.items() if not np.isfinite(x).all()}
        return {name: f"its values are {list(x)}" for name, x in faulty.items()}

    return _Mapped(pure, blame, axis_name)
