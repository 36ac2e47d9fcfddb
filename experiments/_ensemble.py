"""Several teachers, and the rules by which one student learns from them."""

from collections.abc import Callable
from typing import Any, NamedTuple

from experiments import _teacher
from experiments._config import Config
from experiments._students import Students, soft
from kdjax import objectives, report, teachers
from kdjax.base import Batch, Network, Outputs
from kdjax.objectives import Objective


class Rule(NamedTuple):
    """How several teachers become one.

    Attributes:
      matches: what of them the student matches, in a few words.
      weigh: `weigh(logits, student_logits, labels)` gives weights for the mean of the
        probabilities, or None for a `join` of its own.
      join: of `[teachers, batch, classes]`, in the place of that mean.
      of: makes one network of the teachers' architecture and their number.
    """

    matches: str
    weigh: Callable[[Any, Any, Any], Any] = lambda *_: None
    join: Callable[[Any], Any] | None = None
    of: Callable[[Network, int], Network] = lambda network, size: teachers.ensemble(
        network, size, combine=None
    )


RULES = {
    "first": Rule("one of them", join=lambda logits: logits[0]),
    "probabilities": Rule("their mean probabilities"),
    "logits": Rule("their mean logits", join=teachers.mean_logits),
    "entropy": Rule("the surer ones more", lambda z, *_: teachers.entropy_weights(z)),
    "confidence": Rule(
        "those nearer to the label more (CA-MKD)",
        lambda z, _, labels: teachers.confidence_weights(z, labels),
    ),
    "best": Rule(
        "the nearest to the label alone",
        lambda z, _, labels: teachers.best_weights(z, labels),
    ),
    "gradient": Rule(
        "so that no step is against one of them (AEKD)",
        lambda z, student, _: teachers.gradient_weights(student, z),
    ),
    "random": Rule(
        "one of them, drawn at every step", join=lambda z: z, of=teachers.drawn
    ),
}


def follow(rule: Rule, temperature: float, alpha: float) -> Objective:
    """Return soft targets of several teachers by a rule, beside the labels."""

    def join(student: Any, logits: Any, labels: Any) -> Any:
        if rule.join is not None:
            return rule.join(logits)
        weights = rule.weigh(logits, student, labels)
        return teachers.mean_probabilities(logits, weights, temperature=temperature)

    distil = soft(temperature, alpha)

    def objective(student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Any]:
        joined = join(student.logits, teacher.logits, batch["label"])
        terms = dict(distil(student, Outputs(joined), batch))
        if teacher.logits.ndim > student.logits.ndim:
            dropped = teachers.dropped(teacher.logits)
            terms["dropped_teachers"] = objectives.logged(dropped)
        return terms

    return objective


def trained(students: Students, config: Config, number: int) -> tuple[Network, Any]:
    """Return the teachers' architecture and their stacked variables.

    Their mean accuracy and that of all together become the table's first rows.
    """
    recipe, rate = config.recipe(config.teacher_steps), config.teacher_learning_rate
    each = [
        _teacher.get(
            students.run, students.task, config.teacher, recipe, seed=seed, rate=rate
        )
        for seed in range(number)
    ]
    network = each[0].fit.exported
    variables = teachers.stack([one.variables for one in each])
    for seed, one in enumerate(each):
        students.run.pin(f"teacher {seed}", one.row.seeds[0]["sha256"])
    together = teachers.ensemble(network, number)
    students.judge = together, variables
    figures = [students.tested(network, one.variables, f"teacher {seed}")
               for seed, one in enumerate(each)]  # fmt: skip
    joint = students.tested(together, variables, "all teachers")
    students.references = [
        (report.Row("teachers", figures, {}), network),
        (report.Row("teachers together", [joint], {}), together),
    ]
    return network, variables
