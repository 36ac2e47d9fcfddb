"""What can a student learn from teachers that know only a part of its task, or another?

--mode merge: each teacher knows some of the classes; one student of all of them follows
each on its own classes and has few labels (after Vongkulbhisal et al. 2019,
https://arxiv.org/abs/1904.06062). --mode transfer: the teacher knows other classes; the
student first learns the teacher's features from images without labels, then the new
classes from few labels, frozen with a new head or as a whole (after FitNets, Romero et
al. 2015, https://arxiv.org/abs/1412.6550).

python -m experiments.cross_task                    # digits, 1 minute on two cores
python -m experiments.cross_task --mode transfer
python -m experiments.cross_task --mode merge --groups 5 --labels 200 --seeds 20
python -m experiments.cross_task --smoke            # seconds
python -m experiments.cross_task --dataset fashion_mnist --student.width 64
"""

import dataclasses
from typing import Literal

from experiments import _config, _cross, _run
from kdjax import checks, report


@dataclasses.dataclass(frozen=True)
class Config(_config.Config):
    """Teachers of other tasks than the student's."""

    seeds: tuple[int, ...] = (5,)
    """One number: how many (0, 1, ...); several: which."""
    learning_rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2)
    """Tried for each kind of student; the best on the validation split counts."""
    mode: Literal["merge", "transfer"] = "merge"
    """Teachers of some classes each, or a teacher of other classes."""
    groups: int = 2
    """Into how many groups the classes are cut; the transfer is from all but the last
    to the last."""
    labels: int = 50
    """How many of the training images have labels for the students."""
    temperature: float = 2.0
    """T of the soft targets, > 0."""


SMOKE = Config(seeds=(2,), steps=50, teacher_steps=50, learning_rates=(1e-2,))


def main(config: Config) -> report.Result:
    """Train teachers and students; return the table."""
    config = config.checked()
    config.refuse_teacher_from()
    checks.positive("config", temperature=config.temperature, labels=config.labels)
    task = config.load()
    if not 2 <= config.groups <= task.num_classes // 2:
        raise ValueError(
            f"config: groups must be from 2 to {task.num_classes // 2}, so that each "
            f"has two classes of {task.name} or more; got {config.groups}"
        )
    with _run.Run("cross_task", config) as run:
        mode = _cross.merge if config.mode == "merge" else _cross.transfer
        return run.finish(mode(run, config, task))


if __name__ == "__main__":
    _run.cli(main, Config(), SMOKE)
