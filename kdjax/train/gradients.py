"""What a step differentiates: the student's terms beside a frozen teacher."""

import dataclasses
import functools
import inspect
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from kdjax import objectives
from kdjax.base import Batch, PyTree, Select, pick
from kdjax.train.sharding import Shardings
from kdjax.train.state import TrainState

# Added to the key of a step: what a teacher draws is not what its student draws.
_TEACHER = zlib.crc32(b"kdjax.teacher")
OWN_METRICS = {"step", "loss", "gradient_norm", "skipped", "skipped_in_a_row"}


class Gradients(NamedTuple):
    """The gradient, the loss, every term's mean, and the updated variables."""

    gradient: PyTree
    loss: Array
    means: dict[str, Array]
    rest: PyTree


@dataclasses.dataclass(frozen=True)
class Task:
    """The pure functions that a step is composed of, and over what it is spread."""

    student_apply: Callable[..., Any]
    teacher_apply: Callable[..., Any] | None
    objective: objectives.Objective
    inputs: Select
    shardings: Shardings | None = None
    axis_name: str | None = None

    @functools.cached_property
    def hears(self) -> bool:
        """Whether the student's learned parts read what the teacher says."""
        return "teacher" in inspect.signature(self.student_apply).parameters

    def teach(self, teacher_variables: Any, batch: Batch, key: Array) -> Any:
        """What the teacher says: evaluation mode, outside the gradient.

        Args:
          teacher_variables: of the teacher, or None where it has none.
          batch: what both networks read.
          key: the step's; a teacher that draws has a stream of its own.
        """
        if self.teacher_apply is None:
            return None
        frozen = jax.lax.stop_gradient(teacher_variables)
        known = inspect.signature(self.teacher_apply).parameters.values()
        takes = any(p.name == "rngs" or p.kind == p.VAR_KEYWORD for p in known)
        draws = {"rngs": jax.random.fold_in(key, _TEACHER)} if takes else {}
        outputs, _ = self.teacher_apply(frozen, pick(batch, self.inputs), **draws)
        return jax.lax.stop_gradient(outputs)

    def terms(
        self,
        params: PyTree,
        rest: PyTree,
        key: Array,
        step: Array,
        taught: Any,
        batch: Batch,
    ) -> tuple[dict[str, objectives.Pair], PyTree]:
        """All terms as (sum, count) pairs, and the student's updated variables."""
        variables = {"params": params, **rest}
        heard = {"teacher": taught} if self.hears else {}
        outputs, variables = self.student_apply(
            variables, pick(batch, self.inputs), train=True, rngs=key, **heard
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
        taught: Any,
        batch: Batch,
        counts: dict[str, Array] | None = None,
    ) -> Gradients:
        """Gradient and its company; means over `counts`, else the batch's."""

        def loss(params: PyTree) -> Any:
            pairs, updated = self.terms(params, rest, key, state.step, taught, batch)
            means = {
                name: objectives.mean(
                    total, counts[name] if counts else self._summed(count)
                )
                for name, (total, count) in pairs.items()
            }
            summed = [means[n] for n, pair in pairs.items() if objectives.in_loss(pair)]
            return sum(summed, jnp.zeros(())), (means, updated)

        (total, (means, updated)), gradient = jax.value_and_grad(loss, has_aux=True)(
            state.params
        )
        if self.axis_name is not None:
            updated = jax.lax.pmean(updated, self.axis_name)
        gradient, total, means = self._summed((gradient, total, means))
        return Gradients(gradient, total, means, updated)

    def _summed(self, values: PyTree) -> PyTree:
        """Sum over the devices of a mapped axis: each has counted its own rows."""
        if self.axis_name is None:
            return values
        return jax.lax.psum(values, self.axis_name)

    def accumulated(
        self, state: TrainState, key: Array, teacher: Any, batch: Batch, parts: int
    ) -> Gradients:
        """The same as `gradients`, one of `parts` microbatches in memory at a time.

        Every part's sums are divided by the counts of the whole batch, hence a first
        pass for the counts; where they depend on the batch alone, as masks do, XLA
        drops the networks from it.
        """
        parts_of_batch = _split(batch, parts)
        if self.shardings:  # else each part would lie on a few of the devices
            parts_of_batch = self.shardings.constrain_rows(parts_of_batch, 1)
        keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(parts))

        def count(xs: Any) -> dict[str, Array]:
            own_key, part = xs
            taught = self.teach(teacher, part, key)
            pairs, _ = self.terms(
                state.params, state.rest, own_key, state.step, taught, part
            )
            return {name: count for name, (_, count) in pairs.items()}

        counts = jax.lax.map(count, (keys, parts_of_batch))
        counts = {name: self._summed(count.sum()) for name, count in counts.items()}

        def add(sums: Gradients, xs: Any) -> Any:
            own_key, part = xs
            taught = self.teach(teacher, part, key)
            more = self.gradients(state, sums.rest, own_key, taught, part, counts)
            added = jax.tree.map(jnp.add, sums[:-1], more[:-1])
            return Gradients(added[0], added[1], added[2], more.rest), None

        zeros = jax.tree.map(jnp.zeros_like, (state.params, jnp.zeros(()), counts))
        start = Gradients(zeros[0], zeros[1], zeros[2], state.rest)
        total, _ = jax.lax.scan(add, start, (keys, parts_of_batch))
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
