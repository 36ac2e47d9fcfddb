"""Students that learn together, as one stacked network."""

from typing import Any

import jax
import jax.numpy as jnp

from experiments._recipe import Learner
from experiments._students import Students, hard
from kdjax import losses, networks, teachers, trees
from kdjax.base import Batch, Network, Outputs
from kdjax.models import projectors


def _stack(students: Students, number: int) -> Learner:
    """Return the students as one learner; the first of them is what is used."""
    alone, student = students.learner, students.student

    def init(key: Any, inputs: Any) -> Any:
        # The first starts where the student alone does, so that gains are paired.
        keys = [key, *jax.random.split(key, number - 1)]
        return trees.stack([student.init(one, inputs) for one in keys])

    together = teachers.ensemble(student, number, combine=None)
    return Learner(
        Network(init, together.apply),
        student,
        export=lambda variables: trees.unstack(variables)[0],
        steps_per_call=alone.steps_per_call,
    )


def _labels(student: Outputs, batch: Batch) -> Any:
    """Return every student's loss by the labels, summed over the students."""
    each = jax.vmap(lambda logits: hard(Outputs(logits), None, batch)["hard"])
    return each(student.logits).sum()


def deep(students: Students, number: int) -> None:
    """Train students of which each follows all the others (DML)."""

    def objective(student: Outputs, teacher: Any, batch: Batch) -> dict[str, Any]:
        peers = teachers.each_other(student.logits, losses.soft_target_kl)
        return {"peers": peers.mean(-1).sum(), "hard": _labels(student, batch)}

    stack = _stack(students, number)
    students.notes.append(
        f"A row of students that learn together trains {number} of them; the steps are "
        "those of each."
    )
    kind = students.train("mutual", objective, learner=stack)
    together = teachers.ensemble(students.student, number)
    students.given("mutual ensemble", together, kind.whole)


def gated(students: Students, number: int, temperature: float) -> None:
    """Train students that follow their own gated ensemble (ONE)."""
    layer = students.config.student.last
    gate = {"gate": networks.Part(projectors.Gate(), layer)}
    stack = _stack(students, number)
    whole = networks.with_parts(stack.network, gate)

    def join(outputs: Outputs) -> Any:
        return teachers.mean_logits(outputs.logits, outputs.features["gate"])

    def objective(student: Outputs, teacher: Any, batch: Batch) -> dict[str, Any]:
        joined = join(student)
        target = jax.lax.stop_gradient(jnp.broadcast_to(joined, student.logits.shape))
        soft = losses.soft_target_kl(student.logits, target, temperature=temperature)
        return {
            "soft": soft.mean(-1).sum(),
            "gated": hard(Outputs(joined), None, batch)["hard"],
            "hard": _labels(student, batch),
        }

    def first(variables: Any) -> Any:
        return stack.export(networks.without_parts(variables))

    learner = Learner(
        whole, students.student, first, steps_per_call=stack.steps_per_call
    )
    kind = students.train("gated", objective, learner=learner)

    def apply(variables: Any, inputs: Any, **settings: Any) -> Any:
        outputs, variables = whole.apply(variables, inputs, **settings)
        return Outputs(join(outputs)), variables

    together = Network(whole.init, apply)
    students.given("gated ensemble", together, kind.whole)
