"""Do several teachers teach a student more than one, and by which rule together?

Teachers of one architecture from different seeds are one stacked pytree and a vmap. At
equal budgets the same student learns from labels alone, from one of them, and from all,
joined by mean probabilities (Hinton et al. 2015, https://arxiv.org/abs/1503.02531), by
weights (CA-MKD, Zhang et al. 2022, https://arxiv.org/abs/2201.00007) and other rules.

python -m experiments.ensemble             # digits, 3 minutes on two cores
python -m experiments.ensemble --teachers 5 --rules probabilities confidence
python -m experiments.ensemble --smoke     # seconds
python -m experiments.ensemble --dataset cifar100 --augment crop flip --optimizer sgd
    --teacher.model resnet --student.model resnet --steps 40000 --teacher-steps 40000
"""

import dataclasses

from experiments import _config, _ensemble, _methods, _run
from experiments._students import Students, hard
from kdjax import checks, report


@dataclasses.dataclass(frozen=True)
class Config(_config.Config):
    """Rules to learn from several teachers."""

    seeds: tuple[int, ...] = (5,)
    """One number: how many (0, 1, ...); several: which."""
    learning_rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2)
    """Tried for each kind of student; the best on the validation split counts."""
    teachers: int = 3
    """How many; they differ in their seed."""
    rules: tuple[_run.choice(_ensemble.RULES), ...] = tuple(_ensemble.RULES)
    """Which rules; default: all."""
    temperature: float = 2.0
    """T of the soft targets, > 0."""
    alpha: float = 0.9
    """Weight of the soft term, in [0, 1]; the labels weigh 1 - alpha."""


SMOKE = Config(seeds=(2,), steps=50, teacher_steps=50, learning_rates=(1e-2,))


def main(config: Config) -> report.Result:
    """Train teachers and students; return the table."""
    config = config.checked()
    config.refuse_teacher_from()
    checks.positive("config", temperature=config.temperature, teachers=config.teachers)
    checks.fraction("config", alpha=config.alpha)
    rules = {name: _methods.choose(_ensemble.RULES, name) for name in config.rules}
    task = config.load()
    with _run.Run("ensemble", config) as run:
        own = config.teachers * config.teacher_steps
        students = Students(run, config, task, 1 + len(rules), own)
        network, variables = _ensemble.trained(students, config, config.teachers)
        students.train("student alone", hard)
        for name, rule in rules.items():
            objective = _ensemble.follow(rule, config.temperature, config.alpha)
            taught_by = rule.of(network, config.teachers), variables
            students.train(name, objective, teacher=taught_by)
        question = f"{config.teachers} teachers on {config.dataset}"
        return run.finish(students.comparison(question, "student alone"))


if __name__ == "__main__":
    _run.cli(main, Config(), SMOKE)
