"""The flags that experiments on images share."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, Self

from experiments._model import Model
from experiments._options import Options
from experiments._recipe import Recipe
from experiments._run import RunOptions
from kdjax import checks, data


def distinct(**settings: Sequence[float | str]) -> None:
    """Raise ValueError if a setting has no value, or one twice."""
    for name, values in settings.items():
        if not values or len(set(values)) < len(values):
            raise ValueError(
                f"config: {name} must be at least one and all different, got "
                f"{list(values)}"
            )


@dataclasses.dataclass(frozen=True)
class Budget:
    """What networks that are compared share: data, seeds, steps and rates."""

    dataset: str = "digits"
    """"digits" (embedded), or any TFDS image classification set by name."""
    seeds: tuple[int, ...] = (10,)
    """One number: how many (0, 1, ...); several: which."""
    steps: int = 1500
    """Training steps of each student; multiples of 25 run fastest."""
    batch_size: int = 64
    """Examples in a step."""
    learning_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    """Tried for each kind of student; the best on the validation split counts."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """AdamW, or SGD with momentum 0.9."""
    schedule: Literal["cosine", "stairs"] = "cosine"
    """How the rate falls: as a cosine to 0, or to a tenth at 5/8, 6/8, 7/8 of all."""
    weight_decay: float = 0.0
    """Weight decay of all networks."""
    accumulate: int = 1
    """Into how many parts a step cuts its batch, one in memory at a time."""
    teacher_dtype: Literal["float32", "bfloat16"] = "float32"
    """What a frozen teacher's parameters are kept in beside students in training."""
    run: RunOptions = Options()

    def checked(self) -> Self:
        """Return it with all that was left open filled in.

        Raises:
          ValueError: for a number that cannot be.
        """
        for name in ("steps", "batch_size", "accumulate"):
            checks.positive("config", **{name: getattr(self, name)})
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"config: accumulate must divide the batch_size of {self.batch_size}, "
                f"got {self.accumulate}"
            )
        for rate in self.learning_rates:
            checks.positive("config", learning_rates=rate)
        distinct(seeds=self.seed_list, rates=self.learning_rates)
        if not all(0 <= seed < 2**32 for seed in self.seed_list):
            raise ValueError(f"config: seeds must be in [0, 2**32), got {self.seeds}")
        checks.positive("config", max_skipped=self.run.max_skipped)
        return self

    @property
    def seed_list(self) -> list[int]:
        """The seeds that are meant."""
        return list(range(*self.seeds)) if len(self.seeds) == 1 else list(self.seeds)

    def recipe(self, steps: int) -> Recipe:
        """Return how a network is trained for this many steps."""
        return Recipe(
            steps,
            self.batch_size,
            optimizer=self.optimizer,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            accumulate=self.accumulate,
        )


@dataclasses.dataclass(frozen=True)
class StudentConfig(Budget):
    """Data, students and budgets, for images."""

    mlp_size: ClassVar[tuple[int, int]] = (16, 1)
    """Width and depth of a student for which they are left open."""

    image_size: int | None = None
    """Resize images to this many pixels a side; for sets of mixed sizes."""
    augment: tuple[Literal["shift", "crop", "flip"], ...] = ()
    """Random changes of the training images; all networks of a step see the same."""
    student: Model = Model()
    """The small network: by default an MLP of 16 hidden units; as a ResNet, resnet8."""

    def checked(self) -> Self:
        """Return it with all that was left open filled in.

        Raises:
          ValueError: for a number that cannot be.
        """
        student = self.student.sized(mlp=self.mlp_size, resnet=(1, 8))
        return dataclasses.replace(super().checked(), student=student)

    def load(self) -> data.Task:
        """Return the data."""
        return data.load(
            self.dataset, data_dir=self.run.data_dir, image_size=self.image_size
        )

    def recipe(self, steps: int) -> Recipe:
        """Return how a network is trained for this many steps."""
        return dataclasses.replace(super().recipe(steps), augment=self.augment)


@dataclasses.dataclass(frozen=True)
class Config(StudentConfig):
    """Data, networks and budgets: students and a teacher."""

    teacher: Model = Model(dropout=0.3)
    """The large one: by default an MLP of 2 x 256 units; as a ResNet, resnet20."""
    teacher_steps: int = 1000
    """Training steps of the teacher."""
    teacher_learning_rate: float = 1e-3
    """Peak learning rate of the teacher."""
    teacher_from: Path | None = None
    """Use the teacher in this folder of an earlier run."""

    def checked(self) -> Self:
        """Return it with all that was left open filled in.

        Raises:
          ValueError: for a number that cannot be.
        """
        for name in ("teacher_steps", "teacher_learning_rate"):
            checks.positive("config", **{name: getattr(self, name)})
        teacher = self.teacher.sized(mlp=(256, 2), resnet=(1, 20))
        return dataclasses.replace(super().checked(), teacher=teacher)

    def refuse_teacher_from(self) -> None:
        """Raise ValueError if a teacher is given where several or others are needed."""
        if self.teacher_from:
            raise ValueError(
                "config: teacher_from is one teacher of the whole task, and this "
                f"experiment needs others; leave it out (got {self.teacher_from})"
            )
