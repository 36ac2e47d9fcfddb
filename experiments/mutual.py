"""Do students that teach each other learn more than one alone?

N students are one stacked pytree in one program. In deep mutual learning (Zhang et al.
2018, https://arxiv.org/abs/1706.00384) each follows the labels and all the others; in
ONE (Lan et al. 2018, https://arxiv.org/abs/1806.04606) a learned gate joins them to an
ensemble, which teaches them all. Rows are the first of them, which is what is used in
the end; all of them together are measured beside.

python -m experiments.mutual             # digits, half a minute on two cores
python -m experiments.mutual --students 4 --seeds 10
python -m experiments.mutual --smoke     # seconds
python -m experiments.mutual --dataset cifar100 --augment crop flip
    --student.model resnet --student.depth 32 --optimizer sgd --steps 40000
"""

import dataclasses

from experiments import _config, _mutual, _run
from experiments._students import Students, hard
from kdjax import checks, report


@dataclasses.dataclass(frozen=True)
class Config(_config.StudentConfig):
    """Students of one architecture that teach each other."""

    seeds: tuple[int, ...] = (5,)
    """One number: how many (0, 1, ...); several: which."""
    learning_rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2)
    """Tried for each kind of student; the best on the validation split counts."""
    students: int = 3
    """How many learn together, at least 2."""
    temperature: float = 3.0
    """T of the gated ensemble's soft targets, > 0; mutual learning has 1."""


SMOKE = Config(seeds=(2,), steps=50, learning_rates=(1e-2,), students=2)


def main(config: Config) -> report.Result:
    """Train students alone and together; return the table."""
    config = config.checked()
    checks.positive("config", temperature=config.temperature)
    if config.students < 2:
        raise ValueError(f"config: students must be at least 2, got {config.students}")
    task = config.load()
    with _run.Run("mutual", config) as run:
        students = Students(run, config, task, 3)
        students.train("student alone", hard)
        _mutual.deep(students, config.students)
        _mutual.gated(students, config.students, config.temperature)
        question = f"{config.students} students at once on {config.dataset}"
        return run.finish(students.comparison(question, "student alone"))


if __name__ == "__main__":
    _run.cli(main, Config(), SMOKE)
