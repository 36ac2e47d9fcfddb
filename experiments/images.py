"""What does a small residual network gain from a large one on images?

Soft targets (Hinton 2015, https://arxiv.org/abs/1503.02531) between CIFAR ResNets. By
default a budget for a laptop's CPU on Fashion-MNIST. With --full it is the recipe that
the papers since CRD (https://arxiv.org/abs/1910.10699) share, for an accelerator:
resnet32x4 teaches resnet8x4 for 240 epochs, SGD from 0.05, a tenth after 150, 180 and
210, weight decay 5e-4, crops and flips, T = 4, soft targets 0.9 beside 0.1 of labels.

python -m experiments.images                              # 6.5 minutes on 2 cores
python -m experiments.images --smoke                      # seconds, embedded digits
python -m experiments.images --full --dataset cifar100    # hours, on an accelerator
"""

import dataclasses
from typing import Literal, Self

from experiments import _cached, _run
from experiments._model import Model
from experiments._students import hard, soft
from kdjax import checks, data, report


@dataclasses.dataclass(frozen=True)
class Config(_cached.Config):
    """ResNets on images."""

    dataset: str = "fashion_mnist"
    """Any TFDS image classification set by name, or "digits" (embedded)."""
    seeds: tuple[int, ...] = (3,)
    steps: int = 300
    learning_rates: tuple[float, ...] = (0.05,)
    optimizer: Literal["adam", "sgd"] = "sgd"
    weight_decay: float = 5e-4
    student: Model = Model("resnet", depth=8)
    teacher: Model = Model("resnet", depth=20)
    teacher_steps: int = 600
    teacher_learning_rate: float = 0.05
    temperature: float = 4.0
    """T of the soft targets, > 0."""
    alpha: float = 0.9
    """Weight of the soft term, in [0, 1]; the labels weigh 1 - alpha."""
    full: bool = False
    """The published recipe: networks, steps, schedule and augmentation are its own."""

    def published(self, task: data.Task) -> Self:
        """Return it with the recipe of the papers, if that is asked for."""
        if not self.full:
            return self
        steps = 240 * -(-len(task.train["label"]) // 64)
        networks = {"teacher": Model("resnet", 4, 32), "student": Model("resnet", 4, 8)}
        how = {"schedule": "stairs", "augment": ("crop", "flip"), "batch_size": 64}
        long = {"steps": steps, "teacher_steps": steps}
        return dataclasses.replace(self, **networks, **how, **long)


SHORT = {"seeds": (2,), "steps": 20, "teacher_steps": 20, "batch_size": 32}
SMOKE = Config("digits", teacher=Model("resnet", depth=14), **SHORT)


def main(config: Config) -> report.Result:
    """Train teacher and students; return the table."""
    checks.positive("config", temperature=config.temperature)
    checks.fraction("config", alpha=config.alpha)
    task = config.checked().load()
    config = config.published(task).checked()
    with _run.Run("images", config) as run:
        images = _cached.images(run, config, task, kinds=2)
        images.students("student alone", hard)
        images.students("student distilled", soft(config.temperature, config.alpha))
        return run.finish(
            images.result(
                f"ResNets on {config.dataset}, T = {config.temperature:g}",
                better="student distilled",
                than="student alone",
            )
        )


if __name__ == "__main__":
    _run.cli(main, Config(), SMOKE)
