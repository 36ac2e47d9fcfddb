"""Does a network get better when it is taught by one of its own kind?

Furlanello et al., "Born-again neural networks" (2018,
https://arxiv.org/abs/1805.04770): generation 0 learns from labels; each later one, of
the same architecture and at the same budget, from labels and the generation before. All
generations together, as an ensemble, are measured beside them. As published, each
generation starts from random weights of its own.

python -m experiments.born_again             # digits, 1 minute on two cores
python -m experiments.born_again --generations 5 --seeds 10
python -m experiments.born_again --smoke     # seconds
python -m experiments.born_again --dataset cifar100 --augment crop flip
    --student.model resnet --student.depth 20 --optimizer sgd --steps 40000
"""

import dataclasses

from experiments import _config, _run
from experiments._students import Students, hard, soft
from kdjax import checks, report, teachers


@dataclasses.dataclass(frozen=True)
class Config(_config.StudentConfig):
    """Generations of one architecture."""

    learning_rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2)
    """Tried for each generation; the best on the validation split counts."""
    generations: int = 3
    """How many after the first, which learns from labels alone."""
    temperature: float = 1.0
    """T of the soft targets, > 0."""
    alpha: float = 0.5
    """Weight of the soft term, in [0, 1]; the labels weigh 1 - alpha."""


SMOKE = Config(seeds=(2,), steps=50, learning_rates=(1e-2,), generations=2)


def main(config: Config) -> report.Result:
    """Train the generations; return the table."""
    config = config.checked()
    checks.positive(
        "config", temperature=config.temperature, generations=config.generations
    )
    checks.fraction("config", alpha=config.alpha)
    task = config.load()
    with _run.Run("born_again", config) as run:
        students = Students(run, config, task, 1 + config.generations)
        kinds = [students.train("generation 0", hard)]
        for number in range(1, 1 + config.generations):
            kind = students.train(
                f"generation {number}",
                soft(config.temperature, config.alpha),
                learner=students.learner.drawn(students.example, number),
                teacher=(students.student, kinds[-1].variables),
            )
            kinds.append(kind)

        def stacked(seed):
            return teachers.stack([kind.variables(seed) for kind in kinds])

        together = teachers.ensemble(students.student, len(kinds))
        students.given("all together", together, stacked)
        question = f"Born again on {config.dataset}"
        return run.finish(
            students.comparison(question, "generation 0", best_first=False)
        )


if __name__ == "__main__":
    _run.cli(main, Config(), SMOKE)
