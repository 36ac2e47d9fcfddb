"""Does a teacher that is not perfect help a regressor, and how far may it be followed?

Chen et al., "Learning efficient object detection models with knowledge distillation"
(NIPS 2017) let a regression student follow its teacher only where it is worse than the
teacher by a margin (teacher-bounded); Saputra et al. (2019,
https://arxiv.org/abs/1908.00858) match the teacher's answers. Both beside the
targets, on the diabetes table that ships with scikit-learn, with weight decay for all.

python -m experiments.regression            # a minute or so on 2 cores
python -m experiments.regression --smoke    # seconds
python -m experiments.regression --alpha 0.9 --weight-decay 0.1 --student-width 8
"""

import dataclasses
from typing import Literal

from experiments import _field, _regression, _run
from kdjax import checks, report
from kdjax.models import MLP


@dataclasses.dataclass(frozen=True)
class Config(_field.Config):
    """Numbers for answers."""

    dataset: Literal["diabetes"] = "diabetes"
    """The table; scikit-learn brings it."""
    seeds: tuple[int, ...] = (10,)
    steps: int = 1500
    batch_size: int = 32
    weight_decay: float = 0.03
    teacher_width: int = 128
    """Units in each of the teacher's hidden layers; half are dropped in training."""
    student_width: int = 4
    """Units in the student's hidden layer."""
    alpha: float = 0.7
    """Weight of the distance from the teacher, in [0, 1]; targets weigh the rest."""
    margin: float = 0.0
    """Squared error (in deviations of the target) by which a student must beat its
    teacher before the bound lets go of it."""
    bound_weight: float = 0.5
    """Weight of the teacher-bounded term beside the targets, > 0."""


SMOKE = Config(seeds=(2,), steps=100, teacher_steps=100, learning_rates=(1e-2,))


def main(config: Config) -> report.Result:
    """Train teacher and students; return the table."""
    config = config.checked()
    widths = {"teacher": config.teacher_width, "student": config.student_width}
    checks.positive("config", **widths, bound_weight=config.bound_weight)
    checks.fraction("config", alpha=config.alpha)

    with _run.Run("regression", config) as run:
        problem = _regression.problem()
        field = _field.Field(run, config, problem, kinds=3, steps_per_call=25)
        field.teach(MLP(1, config.teacher_width, dropout=0.5), _regression.labels)
        student = MLP(1, config.student_width, depth=1)
        field.students("student alone", student, _regression.labels)
        follow = _regression.imitating(config.alpha)
        field.students("MSE to the teacher", student, follow)
        bound = _regression.bounded(config.margin, config.bound_weight)
        field.students("bounded by the teacher", student, bound)
        return run.finish(
            field.table(
                "Regression on the diabetes table",
                "student alone",
                ("rmse", "gain", "parameters", "flops", "latency"),
                f"All: weight decay (L2) {config.weight_decay:g}.",
            )
        )


if __name__ == "__main__":
    _run.cli(main, Config(), SMOKE)
