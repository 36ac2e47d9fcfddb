"""Which of the published methods help a student most, at equal budget?

Every method of the catalogue that applies to image classification: one teacher, the
same students, steps, batches, seeds and learning rate, no weight tuned; gains over the
student on labels alone, seed by seed. Finished methods are kept: the same command goes
on. After Tian et al. 2020, https://arxiv.org/abs/1910.10699.

python -m experiments.compare             # digits, under 10 minutes on two cores
python -m experiments.compare --methods kd hint rkd --seeds 5
python -m experiments.compare --dataset cifar100 --augment crop flip --schedule stairs
    --teacher.depth 32 --teacher.width 4 --student.width 4
    --steps 168750 --teacher-steps 168750              # 240 epochs: an accelerator
"""

import dataclasses

from experiments import _images, _methods, _responses, _run, feature, relation
from experiments._students import hard
from kdjax import report, train

FAMILIES = {
    "response": _responses.METHODS,
    "feature": feature.METHODS,
    "relation": relation.METHODS,
}
METHODS = {**_responses.METHODS, **feature.METHODS, **relation.METHODS}


@dataclasses.dataclass(frozen=True)
class Config(_methods.Config):
    """All methods side by side."""

    seeds: tuple[int, ...] = (3,)
    """One number: how many (0, 1, ...); several: which."""
    steps: int = 50
    """Training steps of each student."""
    methods: tuple[_run.choice(METHODS), ...] = tuple(
        name for name in METHODS if name not in _responses.FOR_TEXT
    )
    """Which methods; default: all but the divergences published for language models."""


SMOKE = Config(**_methods.SMOKE, methods=("kd", "hint", "rkd"))


def main(config: Config) -> report.Result:
    """Train teacher and students; return the table."""
    config = config.checked()
    chosen = {name: _methods.choose(METHODS, name) for name in config.methods}
    task = config.load()
    with _run.Run("compare", config) as run:
        images = _images.Images(run, config, task, kinds=1 + len(chosen))
        fitting = _methods.fitting(images, chosen)
        images.students("student alone", hard, family="labels")
        for name, taught in fitting.items():
            [family] = [f for f, methods in FAMILIES.items() if name in methods]
            try:
                _methods.distil(images, name, chosen[name], taught, family=family)
            except train.NonFiniteError as error:
                images.notes.append(f"{name} diverged: {error}")
        images.notes.append(
            "No weight was tuned here: it is the published one (for 32 x 32 images and "
            "long training) where there is one for this use, else 1, or 0.9 beside 0.1 "
            "for the labels."
        )
        question = f"Methods on {task.name}"
        return run.finish(images.comparison(question, "student alone"))


if __name__ == "__main__":
    _run.cli(main, Config(), SMOKE)
