"""Do a student and its teacher answer better together, and what does an answer cost?

At no training cost: their probabilities or logits are averaged, or the small network
answers where it is confident and the large one is asked otherwise (a cascade: Viola and
Jones, "Rapid object detection using a boosted cascade of simple features", 2001;
Teerapittayanon et al., "BranchyNet", https://arxiv.org/abs/1709.01686, 2017). Weights
and thresholds are chosen on the validation split; the test split is used once, for them
and for accuracy against mean FLOPs per example over all thresholds (tradeoff.png).

python -m experiments.fusion            # digits, 40 s on 2 cores
python -m experiments.fusion --smoke    # seconds
python -m experiments.fusion --dataset fashion_mnist --student.width 32
"""

import dataclasses

from experiments import _config, _fusion, _run
from experiments._students import soft
from kdjax import checks, report


@dataclasses.dataclass(frozen=True)
class Config(_config.Config):
    """Students distilled by soft targets, and what is tried of them and the teacher."""

    temperature: float = 2.0
    """T of the soft targets, > 0."""
    alpha: float = 0.9
    """Weight of the soft term, in [0, 1]; the labels weigh 1 - alpha."""
    weights: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    """Weights of the student in an average, in [0, 1]; the teacher's is the rest."""
    thresholds: tuple[float, ...] = (
        *(0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        *(0.95, 0.98, 0.99, 0.995, 0.999, 1.0),
    )
    """The teacher is asked below these confidences of the student, in [0, 1]."""


SMOKE = Config(seeds=(2,), steps=100, teacher_steps=100, learning_rates=(1e-2,))


def main(config: Config) -> report.Tradeoff:
    """Train teacher and students; return the table and the curve."""
    config = config.checked()
    checks.positive("config", temperature=config.temperature)
    checks.fraction("config", alpha=config.alpha)
    tried = {"weight": config.weights, "threshold": config.thresholds}
    for name, values in tried.items():
        if not values:
            raise ValueError(f"config: {name}s must be at least one, got none")
        for value in values:
            checks.fraction("config", **{f"{name}s": value})

    task = config.load()
    with _run.Run("fusion", config) as run:
        images = _fusion.Fusion(run, config, task, kinds=1)
        taught = soft(config.temperature, config.alpha)
        students = images.students("student", taught)
        return run.finish(images.together(students, tried))


if __name__ == "__main__":
    _run.cli(main, Config(), SMOKE)
