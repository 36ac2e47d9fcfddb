"""Does a small network learn more from a teacher's soft targets than from labels alone?

Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network" (2015,
https://arxiv.org/abs/1503.02531): beside the labels, the student matches the
probabilities of a teacher at a raised temperature. One teacher; then, with equal
budgets, the same student on labels alone and distilled, for every seed and learning
rate. Each kind's rate is chosen on the validation split; the test split is used once.

python -m experiments.response            # digits, 40 s on 2 cores: 91.3 -> 92.5 %
python -m experiments.response --smoke    # seconds
python -m experiments.response --dataset fashion_mnist --student.width 32
python -m experiments.response --dataset cifar100 --augment crop flip --optimizer sgd
    --teacher.model resnet --student.model resnet --steps 40000 --teacher-steps 40000
python -m experiments.response --teacher-cache runs/told   # the teacher is asked once
"""

import dataclasses

from experiments import _cached, _run
from experiments._students import hard, soft
from kdjax import checks, report


@dataclasses.dataclass(frozen=True)
class Config(_cached.Config):
    """Soft targets against labels alone."""

    temperature: float = 2.0
    """T of the soft targets, > 0."""
    alpha: float = 0.9
    """Weight of the soft term, in [0, 1]; the labels weigh 1 - alpha."""


SMOKE = Config(seeds=(2,), steps=100, teacher_steps=100, learning_rates=(1e-2,))


def main(config: Config) -> report.Result:
    """Train teacher and students; return the table."""
    config = config.checked()
    checks.positive("config", temperature=config.temperature)
    checks.fraction("config", alpha=config.alpha)

    task = config.load()
    with _run.Run("response", config) as run:
        images = _cached.images(run, config, task, kinds=2)
        images.students("student alone", hard)
        distilled = soft(config.temperature, config.alpha)
        images.students("student distilled", distilled)
        return run.finish(
            images.result(
                f"Soft targets on {config.dataset}, T = {config.temperature:g}",
                better="student distilled",
                than="student alone",
            )
        )


if __name__ == "__main__":
    _run.cli(main, Config(), SMOKE)
