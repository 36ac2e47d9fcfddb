"""Which temperature, and how much weight on the soft targets?

Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network" (2015,
https://arxiv.org/abs/1503.02531) leave both to be tried. One teacher; then students of
every temperature, weight and seed train in one program, which asks the teacher once a
step. The best setting is chosen on the validation split; the test split is used once.

python -m experiments.sweep            # digits, 32 students, 15 s on 2 cores
python -m experiments.sweep --smoke    # seconds
python -m experiments.sweep --temperature 1 2 4 8 --alpha 0 0.5 0.9 1 --seeds 10
python -m experiments.sweep --learning-rates 3e-3 1e-2 3e-2  # each cell: the best
python -m experiments.sweep --student.model resnet --teacher.model resnet --seeds 1
    --augment shift --steps 300 --teacher-steps 300          # minutes
"""

import dataclasses

from experiments import _config, _run, _sweep
from experiments._students import soft
from kdjax import checks, plans, report


@dataclasses.dataclass(frozen=True)
class Config(_config.Config):
    """Many settings of soft targets beside labels."""

    temperature: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    """Temperatures of the soft targets, > 0."""
    alpha: tuple[float, ...] = (0.5, 0.9)
    """Weights of the soft term, in [0, 1]; the labels weigh 1 - alpha."""
    seeds: tuple[int, ...] = (4,)
    """One number: how many (0, 1, ...); several: which. All see the same batches."""
    learning_rates: tuple[float, ...] = (1e-2,)
    """Tried for each setting; the best on the validation split counts."""
    members: plans.Plan = "auto"
    """How the students are run: at once, in a loop, or unrolled; auto knows best."""


SMOKE = Config(seeds=(2,), steps=100, teacher_steps=100)


def make_objective(setting):
    """Return what a student of one temperature and weight is trained on."""
    return soft(setting["temperature"], setting["alpha"])


def main(config: Config) -> report.Grid:
    """Train teacher and students; return the grid."""
    config = config.checked()
    for temperature in config.temperature:
        checks.positive("config", temperature=temperature)
    for alpha in config.alpha:
        checks.fraction("config", alpha=alpha)
    axes = {"temperature": config.temperature, "alpha": config.alpha}
    _config.distinct(**axes)
    with _run.Run("sweep", config) as run:
        return run.finish(_sweep.run(run, config, make_objective, axes))


if __name__ == "__main__":
    _run.cli(main, Config(), SMOKE)
