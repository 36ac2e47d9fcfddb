"""Does a student that is its own teacher learn more than from labels alone?

Its teacher is what it was: a checkpoint, the mean of its last snapshots, the moving
average of its weights (Tarvainen and Valpola 2017, https://arxiv.org/abs/1703.01780),
what it said an epoch ago (PS-KD, 2021, https://arxiv.org/abs/2006.12000); or its own
last stage for earlier ones (BYOT, 2019, https://arxiv.org/abs/1905.08094); or a teacher
made by hand (Tf-KD, 2020, https://arxiv.org/abs/1909.11723). Equal steps for all.

python -m experiments.self_distill                  # digits, 1 minute on two cores
python -m experiments.self_distill --source ema --seeds 20
python -m experiments.self_distill --smoke          # seconds
python -m experiments.self_distill --dataset cifar100 --augment crop flip
    --student.model resnet --student.depth 20 --optimizer sgd --steps 40000
"""

import dataclasses
from typing import ClassVar

from experiments import _config, _methods, _run, _self
from experiments._model import Model
from experiments._students import Students, hard
from kdjax import checks, report


@dataclasses.dataclass(frozen=True)
class Config(_config.StudentConfig):
    """Sources of a teacher, against labels alone."""

    seeds: tuple[int, ...] = (5,)
    """One number: how many (0, 1, ...); several: which."""
    learning_rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2)
    """Tried for each kind of student; the best on the validation split counts."""
    mlp_size: ClassVar[tuple[int, int]] = (16, 2)
    student: Model = Model()
    """The network: by default an MLP of 2 x 16 hidden units; as a ResNet, resnet8."""
    source: tuple[_run.choice(_self.SOURCES), ...] = tuple(_self.SOURCES)
    """Which teachers; default: all."""
    temperature: float = 2.0
    """T of the soft targets, > 0; PS-KD, Tf-KD and BYOT have their own."""
    alpha: float = 0.5
    """Weight of the soft term, in [0, 1]; the labels weigh 1 - alpha."""
    decay: float = 0.99
    """Decay of the moving average, in [0, 1]."""


SMOKE = Config(seeds=(2,), steps=50, learning_rates=(1e-2,))


def main(config: Config) -> report.Result:
    """Train all kinds of students; return the table."""
    config = config.checked()
    checks.positive("config", temperature=config.temperature)
    checks.fraction("config", alpha=config.alpha, decay=config.decay)
    sources = {name: _methods.choose(_self.SOURCES, name) for name in config.source}
    if "deep" in sources:
        _self.stages(config)
    if "checkpoint" in sources and config.steps < 2:
        raise ValueError(f"config: half of steps must be 1 or more, got {config.steps}")
    task = config.load()
    with _run.Run("self_distill", config) as run:
        students = Students(run, config, task, 1 + len(sources))
        half = [config.steps // 2] if "checkpoint" in sources else []
        alone = students.train("student alone", hard, keep_steps=half)
        for source in sources.values():
            source.train(students, config, alone)
        question = f"Its own teacher on {config.dataset}"
        return run.finish(students.comparison(question, "student alone"))


if __name__ == "__main__":
    _run.cli(main, Config(), SMOKE)
