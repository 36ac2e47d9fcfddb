"""How few errors does a small net make on MNIST that learned from a large one?

Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network" (2015,
https://arxiv.org/abs/1503.02531), section 3. A net of 2 x 1200 units, with dropout,
constrained weights and jittered images (67 errors in the paper); one of 2 x 800 on
labels alone (146), and with soft targets at T = 20, without jitter (74); the same
without any 3 in the transfer set (206 errors, 133 of them on the 1,010 threes), with
the bias of the 3 raised (109 and 14). Then the temperature against the width. A tenth
of the training images is held out for what the paper tuned, so nets see 54,000.

python -m experiments.mnist              # all of it; it can be stopped and goes on
python -m experiments.mnist --smoke      # seconds, on the embedded 8 x 8 digits
python -m experiments.mnist --seeds 1 --teacher-steps 300 --steps 300 --widths 30
    --temperatures 2 20 --jittered-steps 0                  # a small size
"""

import dataclasses

from experiments import _field, _mnist, _run
from kdjax import data, report


@dataclasses.dataclass(frozen=True)
class Config(_field.Config):
    """The paper's nets."""

    dataset: str = "mnist"
    """A TFDS set of ten digits in grey, or "digits", which scikit-learn brings."""
    seeds: tuple[int, ...] = (3,)
    steps: int = 2200
    batch_size: int = 500
    learning_rates: tuple[float, ...] = (2e-3,)
    teacher_steps: int = 8000
    teacher_learning_rate: float = 2e-3
    teacher_width: int = 1200
    """Units in each of the large net's two layers."""
    dropout: float = 0.3
    """Fraction of the large net's hidden units dropped in training."""
    max_norm: float = 3.5
    """No unit of the large net has longer incoming weights."""
    jittered_steps: int = 4500
    """Steps of students that see jittered images, too; 0 trains none."""
    student_width: int = 800
    """Units in each of the small net's two layers."""
    temperature: float = 20.0
    """T of the soft targets, > 0."""
    alpha: float = 0.9
    """Weight of the soft term, in [0, 1]; the labels weigh 1 - alpha."""
    widths: tuple[int, ...] = (300, 30)
    """Smaller nets that are distilled at each of the temperatures."""
    temperatures: tuple[float, ...] = (1.0, 2.5, 4.0, 8.0, 20.0)
    """For the smaller nets."""


SMALL = {"teacher_width": 128, "student_width": 32, "widths": (8,)}
STEPS = {"steps": 100, "teacher_steps": 200, "jittered_steps": 100}
RATES = {"learning_rates": (1e-2,), "teacher_learning_rate": 1e-2}
SMOKE = Config("digits", (2,), temperatures=(4.0,), **STEPS, **SMALL, **RATES)


def main(config: Config) -> report.Result:
    """Train the large net and the small ones; return the table."""
    config = config.checked()
    _mnist.check(config)
    problem = _mnist.problem(data.load(config.dataset, data_dir=config.run.data_dir))
    with _run.Run("mnist", config) as run:
        kinds = 3 + len(config.widths) * (1 + len(config.temperatures))
        longer = [config.jittered_steps] * 3
        field = _field.Field(run, config, problem, kinds, longer, steps_per_call=25)
        nets = _mnist.Digits(field, config)
        return run.finish(_mnist.table(nets, config))


if __name__ == "__main__":
    _run.cli(main, Config(), SMOKE)
