"""What a step differentiates: the student's terms beside a frozen teacher."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from kdjax import objectives
from kdjax.base import Batch, PyTree
from kdjax.train.state import TrainState

Select = str | Callable[[Batch], Any]
Gradients = tuple[PyTree, dict[str, Array], PyTree]
OWN_METRICS = {"step", "loss", "gradient_norm", "skipped", "skipped_in_a_row"}


def pick(batch: Batch, inputs: Select) -> Any:
    """Return what the networks read of a batch."""
    if callable(inputs):
        return inputs(batch)
    if inputs not in batch:
        raise ValueError(
            f"the batch has no field {inputs!r}, only {sorted(batch)}; "
            "say which one the networks read with inputs="
        )
    return batch[inputs]


@dataclasses.dataclass(frozen=True)
class Task:
    """The pure functions that a step is composed of."""

    student_apply: Callable[..., Any]
    teacher_apply: Callable[..., Any] | None
    objective: objectives.Objective
    inputs: Select

    @functools.cached_property
    def hears(self) -> bool:
        """Whether the student's learned parts read what the teacher says."""
        return "teacher" in inspect.signature(self.student_apply).parameters

    def teach(self, teacher_variables: Any, batch: Batch) -> Any:
        """What the teacher says: evaluation mode, outside the gradient."""
        if self.teacher_apply is None:
            return None
        frozen = jax.lax.stop_gradient(teacher_variables)
        outputs, _ = self.teacher_apply(frozen, pick(batch, self.inputs))
        return jax.lax.stop_gradient(outputs)

    def terms(
        self,
        params: PyTree,
        rest: PyTree,
        key: Array,
        step: Array,
        teacher: Any,
        batch: Batch,
    ) -> tuple[dict[str, tuple[Array, Array]], PyTree]:
        """All terms as (sum, count) pairs, and the student's updated variables."""
        variables = {"params": params, **rest}
        inputs = pick(batch, self.inputs)
        taught = self.teach(teacher, batch)
        heard = {"teacher": taught} if self.hears else {}
        outputs, variables = self.student_apply(
            variables, inputs, train=True, rngs=key, **heard
        )
        terms = objectives.resolve(self.objective(outputs, taught, batch), step)
        if taken := sorted(OWN_METRICS & set(terms)):
            raise ValueError(
                f"objective: rename {taken}; the step reports these itself"
            )
        return terms, {k: v for k, v in variables.items() if k != "params"}

    def gradients(
        self,
        state: TrainState,
        rest: PyTree,
        key: Array,
        teacher: Any,
        batch: Batch,
        counts: dict[str, Array] | None = None,
    ) -> Gradients:
        """Gradient, terms, updated variables; means over `counts`, else the batch's."""

        def loss(params: PyTree) -> Any:
            pairs, updated = self.terms(params, rest, key, state.step, teacher, batch)
            means = {
                name: objectives.mean(total, counts[name] if counts else count)
                for name, (total, count) in pairs.items()
            }
            return sum(means.values()), (means, updated)

        (_, (means, updated)), gradient = jax.value_and_grad(loss, has_aux=True)(
            state.params
        )
        return gradient, means, updated

    def accumulated(
        self, state: TrainState, key: Array, teacher: Any, batch: Batch, parts: int
    ) -> Gradients:
        """The same as `gradients`, one of `parts` microbatches in memory at a time.

        Every part's sums are divided by the counts of the whole batch, hence a first
        pass for the counts; where they depend on the batch alone, as masks do, XLA
        drops the networks from it.
        """
        parts_of_batch = _split(batch, parts)
        keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(parts))

        def count(xs: Any) -> dict[str, Array]:
            key, batch = xs
            pairs, _ = self.terms(
                state.params, state.rest, key, state.step, teacher, batch
            )
            return {name: count for name, (_, count) in pairs.items()}

        counts = jax.lax.map(count, (keys, parts_of_batch))
        counts = {name: count.sum() for name, count in counts.items()}

        def add(carry: Any, xs: Any) -> Any:
            gradient, means, rest = carry
            key, batch = xs
            more = self.gradients(state, rest, key, teacher, batch, counts)
            gradient, means = jax.tree.map(jnp.add, (gradient, means), more[:2])
            return (gradient, means, more[2]), None

        zeros = jax.tree.map(jnp.zeros_like, (state.params, counts))
        total, _ = jax.lax.scan(add, (*zeros, state.rest), (keys, parts_of_batch))
        return total


def _split(batch: Batch, parts: int) -> Batch:
    def split(path: Any, x: Array) -> Array:
        rows = x.shape[0] if x.ndim else 0
        if not rows or rows % parts:
            raise ValueError(
                f"make_step: accumulate={parts} must divide the batch, but "
                f"batch{jax.tree_util.keystr(path)} has {rows} rows"
            )
        return x.reshape(parts, x.shape[0] // parts, *x.shape[1:])

    return jax.tree_util.tree_map_with_path(split, batch)
