"""Which layers bear pruning?

Han et al., "Learning both weights and connections for efficient neural networks" (2015,
https://arxiv.org/abs/1506.02626): one layer at a time loses its smallest weights, and
nothing is trained after it. What falls early must be spared. Measured on the validation
split, because it is there to choose sparsities by.

python -m experiments.sensitivity            # digits, seconds
python -m experiments.sensitivity --norm random
python -m experiments.sensitivity --teacher.model resnet
"""

import dataclasses
from typing import Literal

from experiments import _config, _run, _sensitivity
from kdjax import checks, report


@dataclasses.dataclass(frozen=True)
class Config(_config.Config):
    """Teachers, and what of their layers is pruned."""

    seeds: tuple[int, ...] = (3,)
    """One number: how many (0, 1, ...); several: which. Each has its own teacher."""
    sparsities: tuple[float, ...] = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
    """Parts of one layer's weights that are pruned, in [0, 1]."""
    norm: Literal["l1", "random"] = "l1"
    """Which weights go first: the smallest, or any."""


SMOKE = Config(seeds=(2,), teacher_steps=100, sparsities=(0.0, 0.5, 0.9))


def main(config: Config) -> report.Sensitivity:
    """Train teachers; return the table."""
    config = config.checked()
    config.refuse_teacher_from()
    _config.distinct(sparsities=config.sparsities)
    for sparsity in config.sparsities:
        checks.fraction("config", sparsities=sparsity)
    task = config.load()
    with _run.Run("sensitivity", config) as run:
        return run.finish(_sensitivity.scan(run, config, task))


if __name__ == "__main__":
    _run.cli(main, Config(), SMOKE)
