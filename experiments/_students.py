"""Students of images: what they learn from, and the network of the config."""

from typing import Any

import optax

from experiments._config import StudentConfig
from experiments._kinds import Kind, Kinds
from experiments._recipe import Learner, alone
from experiments._workdir import Run
from kdjax import data, losses, objectives
from kdjax.base import Batch, Outputs
from kdjax.objectives import Objective


def hard(student: Outputs, teacher: Any, batch: Batch) -> dict[str, Any]:
    """Learn from the labels."""
    labels = optax.softmax_cross_entropy_with_integer_labels(
        student.logits, batch["label"]
    )
    return {"hard": labels.mean()}


def soft(temperature: Any, alpha: Any) -> Objective:
    """Return soft targets beside labels.

    Args:
      temperature: T of the soft targets.
      alpha: their weight, or a schedule of the step; the labels weigh the rest.
    """
    rest = (lambda step: 1 - alpha(step)) if callable(alpha) else 1 - alpha

    def distil(student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Any]:
        loss = losses.soft_target_kl(
            student.logits, teacher.logits, temperature=temperature
        )
        labels = hard(student, teacher, batch)["hard"]
        return {
            "soft": objectives.weighted(alpha, loss.mean()),
            "hard": objectives.weighted(rest, labels),
        }

    return distil


class Students(Kinds):
    """Students of one task of images, all with the config's network.

    Args:
      run: the run.
      config: its config.
      task: its data.
      kinds: how many kinds of students will be trained.
      own_steps: training steps of other networks, for the progress bar.

    Attributes:
      student: the network that is used in the end.
    """

    config: StudentConfig

    def __init__(
        self,
        run: Run,
        config: StudentConfig,
        task: data.Task,
        kinds: int,
        own_steps: int = 0,
    ) -> None:
        """Train nothing yet."""
        super().__init__(run, config, task, kinds, own_steps)
        self.task = task
        self.student = config.student.build(task.num_classes)

    @property
    def learner(self) -> Learner:
        """The student as it is, with nothing beside it."""
        return alone(self.config.student, self.task.num_classes)

    def train(
        self,
        name: str,
        objective: Objective,
        learner: Learner | None = None,
        **settings: Any,
    ) -> Kind:
        """Train one kind as `Kinds.train` does; by default the student as it is."""
        return super().train(name, objective, learner or self.learner, **settings)
